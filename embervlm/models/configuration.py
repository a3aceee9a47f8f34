"""The sizes of a model. One frozen dataclass for each architecture; the file that ships beside the
weights holds the same keys.

    PRESETS["ember-37m"].text_width                      # 384

Axes: G places along a side of the photo's grid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

LINEARS = ("full", "ternary")
FUSIONS = ("prefix", "fiber", "both")
VISIONS = ("mobilenet-v2", "dinov2-small", "dinov2-base")


@dataclass(frozen=True)
class EmberConfig:
    """Sizes of the network; widths are numbers of channels, lengths are numbers of tokens.

    The text encoder has MiniLM's shape (6 layers, 384 wide, 12 heads), which is also TinyLLM's
    width, with 960 of its 1,536 hidden units (`training/pruning.py`); the decoder that writes
    the reasoning is smaller, for it only has to put a decision into words. The defaults are what
    ships, `ember-nano`; `BitMarConfig` turns on what they leave out.

    `linear`: the matrices of reader, decoder and what follows here are "full" or "ternary"
    (`bitnet.py`). `embed_width`: the table of tokens is this narrow and a matrix widens it
    (ALBERT, Lan et al. 2020); 0: as wide as the reader. `fusion`: a photo's tokens stand in front
    of the words ("prefix") or are read by cross-attention ("fiber", `fusion.py`), and then are
    one for the place and G x G of `image_grid`; with "both" those are read so, and two tokens of
    the whole photo stand in front as with "prefix". `memory_slots`: 0: no `episodic_memory.py`.
    `reasoning_width`: 0: no `reasoning_steps.py`. `plan_width`: 0: no `plan_steps.py`, which has
    its own of the reader's last `plan_readers` layers. `recall_width`: 0: a photo is read as the
    eye sees it; else as the `recall_rows` rows of `photo_recall.py` tell it.
    `match_width`: how wide the space is in which a photo lies near what is said of it
    (`matching.py`); 0: there is none.
    """

    family: ClassVar[str] = "ember-nano"

    vocabulary_size: int = 8192
    text_layers: int = 6
    text_width: int = 384
    text_heads: int = 12
    text_hidden: int = 960
    text_positions: int = 192
    decoder_layers: int = 2
    decoder_width: int = 192
    decoder_heads: int = 4
    decoder_hidden: int = 768
    decoder_positions: int = 192
    image_size: int = 160
    image_width: int = 320
    image_tokens: int = 2
    ngram_rows: int = 16384
    dropout: float = 0.1
    linear: str = "full"
    embed_width: int = 0
    fusion: str = "prefix"
    fusion_layers: int = 2
    fusion_width: int = 192
    fusion_heads: int = 4
    image_grid: int = 0
    memory_slots: int = 0
    memory_width: int = 128
    reasoning_width: int = 0
    match_width: int = 0
    plan_width: int = 0
    plan_layers: int = 2
    plan_readers: int = 0
    recall_width: int = 0
    recall_rows: int = 0
    vision: str = "mobilenet-v2"

    def __post_init__(self) -> None:
        """Refuse what no network can be.

        Raises:
            ValueError: an unknown choice, or tokens of a photo that its grid does not give.
        """
        for name, allowed in (("linear", LINEARS), ("fusion", FUSIONS), ("vision", VISIONS)):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is {value!r}; there are {', '.join(allowed)}.")
        if self.is_fused != (self.image_grid > 0):
            raise ValueError(
                f"fusion is {self.fusion} and image_grid {self.image_grid}; fiber and both need a "
                "grid of 1 or more, prefix one of 0."
            )
        if (self.recall_width > 0) != (self.recall_rows > 0) or (
            self.recall_rows and self.is_fused
        ):
            raise ValueError(
                f"recall_width is {self.recall_width} and recall_rows {self.recall_rows}; expected "
                "both or neither, and neither with a grid."
            )
        tokens = 1 + self.image_grid**2 if self.image_grid else 2
        if self.image_tokens != tokens:
            raise ValueError(
                f"image_tokens is {self.image_tokens}; a grid of {self.image_grid} gives {tokens}."
            )

    @property
    def is_fused(self) -> bool:
        """Whether words and places read each other behind the reader."""
        return self.fusion != "prefix"

    @property
    def table_width(self) -> int:
        """How wide the table of tokens is."""
        return self.embed_width or self.text_width

    @property
    def features_shape(self) -> tuple[int, ...]:
        """The shape of one photo's features: (C,), or (G x G, C)."""
        grid = (self.image_grid**2,) if self.image_grid else ()
        return (*grid, self.image_width)

    @classmethod
    def uncompressed(cls, vocabulary_size: int) -> EmberConfig:
        """Return the configuration that is trained first, with all of MiniLM's hidden units."""
        return cls(vocabulary_size=vocabulary_size, text_hidden=1536)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EmberConfig:
        """Build a configuration from a mapping.

        Raises:
            ValueError: a key is unknown.
        """
        _check_keys(values, cls)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class BitMarConfig(EmberConfig):
    """The second family, after BitMar (Tiny-BitGen): ternary weights, fusion by cross-attention, an
    episodic memory, five steps of reasoning with a policy and a value.

    Each is a switch of `EmberConfig`; with all of them as there this is `ember-nano` with fewer
    layers. The reader has four of its six layers, the decoder four, half as wide as BitMar's for
    the shipped size.
    """

    family: ClassVar[str] = "bitmar"

    text_layers: int = 4
    decoder_layers: int = 4
    decoder_width: int = 128
    decoder_hidden: int = 512
    image_tokens: int = 26
    linear: str = "ternary"
    embed_width: int = 192
    fusion: str = "both"
    image_grid: int = 5
    memory_slots: int = 32
    reasoning_width: int = 192


# What is added to GPT-2's vocabulary: EmberVLM's five marks, from token 50257 on.
SPECIAL_TOKENS = (
    "<|reasoning_start|>", "<|reasoning_end|>", "<|robot_selection|>", "<|action_plan|>",
    "<|image|>",
)  # fmt: skip


@dataclass(frozen=True)
class PrefixConfig:
    """Sizes of a network whose decoder reads a photo as tokens among the words (`ember_37m.py`).

    The defaults are `ember-37m`, EmberVLM's documented sizes: RepViT-M0.9 at 224 pixels a side and
    GPT-2's shape as in TinyLLM's 30 M model. `image_tokens` is how many places of a square grid
    the photo's features are averaged to: 1, 4, 9 and so on, up to 49 of 224 pixels.
    """

    family: ClassVar[str] = "ember-37m"

    vocabulary_size: int = 50257 + len(SPECIAL_TOKENS)
    text_layers: int = 6
    text_width: int = 384
    text_heads: int = 6
    text_hidden: int = 1536
    text_positions: int = 1024
    image_size: int = 224
    image_widths: tuple[int, ...] = (48, 96, 192, 384)
    image_depths: tuple[int, ...] = (2, 2, 14, 2)
    image_tokens: int = 49
    dropout: float = 0.1

    @property
    def published_vocabulary(self) -> int:
        """How many tokens come from the published vocabulary; the special ones stand behind."""
        return self.vocabulary_size - len(SPECIAL_TOKENS)

    @property
    def image_token(self) -> int:
        """The number of `<|image|>`."""
        return self.published_vocabulary + SPECIAL_TOKENS.index("<|image|>")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PrefixConfig:
        """Build a configuration from a mapping.

        Raises:
            ValueError: a key is unknown.
        """
        _check_keys(values, cls)
        sizes = dict(values)
        for name in ("image_widths", "image_depths"):  # JSON's lists
            if name in sizes:
                sizes[name] = tuple(sizes[name])
        return cls(**sizes)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        return asdict(self)


PRESETS: dict[str, EmberConfig | PrefixConfig] = {
    "ember-nano": EmberConfig(),
    "ember-37m": PrefixConfig(),
    "bitmar": BitMarConfig(),
}


def to_metadata(config: EmberConfig | PrefixConfig) -> dict[str, str]:
    """Return what a file of weights says of its network; `from_metadata` reads it back.

    All under one key: safetensors writes several in an order that differs from run to run, and the
    same weights should give the same bytes.
    """
    return {"config": json.dumps({"family": config.family, **config.to_dict()})}


def from_metadata(
    metadata: Mapping[str, str] | None, path: str | Path
) -> EmberConfig | PrefixConfig:
    """Return the configuration in a file's metadata; one that names no family is `ember-nano`.

    Raises:
        ValueError: there is none, it is of an unknown family, or it has an unknown key; `path` is
            named.
    """
    if not metadata or "config" not in metadata:
        raise ValueError(f"{path} has no configuration; it is not a network of this project.")
    try:
        return config_of(json.loads(metadata["config"]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def config_of(values: Mapping[str, Any]) -> EmberConfig | PrefixConfig:
    """Return the configuration that plain values describe; without "family" it is `ember-nano`'s.

    Raises:
        ValueError: an unknown family or key.
    """
    family = values.get("family", EmberConfig.family)
    if family not in PRESETS:
        raise ValueError(f"the family is {family!r}; there are {', '.join(PRESETS)}.")
    sizes = {name: value for name, value in values.items() if name != "family"}
    return type(PRESETS[family]).from_dict(sizes)


def _check_keys(values: Mapping[str, Any], cls: type[EmberConfig | PrefixConfig]) -> None:
    known = {field.name for field in fields(cls)}
    if unknown := set(values) - known:
        raise ValueError(f"Unknown configuration keys {sorted(unknown)}; known: {sorted(known)}.")
