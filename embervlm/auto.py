"""The PyTorch networks for transformers: importing this registers them with its Auto classes.

    import embervlm.auto
    from transformers import AutoModel, AutoProcessor

    processor, model = (auto.from_pretrained(FOLDER) for auto in (AutoProcessor, AutoModel))
    with torch.no_grad():
        logits = model(**processor(text="carry the 8 kg pump up the stairs", images="stairs.jpg"))
    logits.subsets, logits.primary, logits.environment        # before any rule, lesson or fleet

All families are one class, `EmberVLMModel`, whose configuration holds the family and sizes of
`models/configuration.py`; `EmberVLMModel.from_network` wraps a network that is there, such as
`presets.load("run/network.safetensors")`. The logits are those that `backends/pytorch.py` gives the
selector, which decides; transformers alone decides nothing.

Axes: B batch, T tokens, N image tokens, M mentions of quantities, G rows of the n-gram table, E
environments, A of a head.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig, PreTrainedModel
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils.generic import ModelOutput
from transformers.utils.hub import cached_file

from embervlm.backends.base import MAX_TASK_TOKENS
from embervlm.fleet import ENVIRONMENTS
from embervlm.imaging import load_image, preprocess
from embervlm.models.bitnet import ternary_layers
from embervlm.models.configuration import EmberConfig, PrefixConfig, config_of
from embervlm.models.ember_37m import Ember37M
from embervlm.models.gpt2_tokenizer import Gpt2Tokenizer
from embervlm.models.modeling import EmberNetwork
from embervlm.models.prefix_formats import read_request
from embervlm.models.presets import network_of
from embervlm.ngrams import hash_ngrams
from embervlm.prompts import mark_quantities, read_task
from embervlm.tokenizer import Tokenizer

MODEL_TYPE = "embervlm"
PROCESSOR, TOKENIZER, WEIGHTS = "processor_config.json", "tokenizer.json", "model.safetensors"
# Of the n-grams and the marks; no row and no place has this number.
PADDING = -1

Photo = str | Path | bytes | NDArray[np.uint8] | Image.Image


class EmberVLMConfig(PreTrainedConfig):
    """`network` holds the family and sizes (None: `ember-nano`), `is_ternary` whether the ternary
    layers hold ternary values already, as those of an exported file do."""

    model_type = MODEL_TYPE
    network: dict[str, Any] | None = None
    is_ternary: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Leave out the list of files that a folder's config.json has beside it (`hub/folder.py`).

        Raises:
            ValueError: an unknown family or size.
        """
        kwargs.pop("embervlm", None)
        self.sizes()
        super().__post_init__(**kwargs)

    def sizes(self) -> EmberConfig | PrefixConfig:
        """Return the configuration that the network is built from."""
        return config_of(self.network or {})


@dataclass
class EmberVLMOutput(ModelOutput):
    """Logits by head; see `models/heads.py`. `roles` (B, M, roles) has zeros at padding; `scene` is
    the place by the photo alone, `value` of networks that reason in steps; `embedding` is the
    request's vector (B, D)."""

    subsets: Tensor | None = None
    primary: Tensor | None = None
    environment: Tensor | None = None
    actions: Tensor | None = None
    flags: Tensor | None = None
    team: Tensor | None = None
    roles: Tensor | None = None
    scene: Tensor | None = None
    value: Tensor | None = None
    embedding: Tensor | None = None


class EmberVLMModel(PreTrainedModel):
    """A network of any family; `network` is `EmberNetwork` or `Ember37M`."""

    config_class = EmberVLMConfig
    config: EmberVLMConfig
    main_input_name = "input_ids"

    def __init__(self, config: EmberVLMConfig) -> None:
        super().__init__(config)
        # Transformers builds on a device without memory, where constants that no file holds
        # would be lost.
        with torch.device("cpu"):
            self.network = network_of(config.sizes())
        for layer in ternary_layers(self.network).values():
            layer.is_ternary = config.is_ternary
        self._constants = {
            module: {name: module.get_buffer(name).clone() for name in names}
            for module in self.network.modules()
            if (names := module._non_persistent_buffers_set)
        }
        self.post_init()

    @classmethod
    def from_network(cls, network: EmberNetwork | Ember37M) -> Self:
        """Return the model of a network, with its weights."""
        layers = ternary_layers(network).values()
        sizes = {"family": network.config.family, **network.config.to_dict()}
        is_ternary = bool(layers) and all(layer.is_ternary for layer in layers)
        model = cls(EmberVLMConfig(network=sizes, is_ternary=is_ternary))
        model.network.load_state_dict(network.state_dict())
        return model.eval()

    @classmethod
    def from_pretrained(cls, *words: Any, **options: Any) -> Any:
        """Load as transformers does, into memory of PyTorch's own.

        A mapped file's tensors begin anywhere, and where they are not aligned a product is summed
        in another order: the logits would differ from those before in the last bit.
        """
        loaded = super().from_pretrained(*words, **options)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        return loaded

    def _init_weights(self, module: nn.Module) -> None:
        """Put back the constants; weights begin as their layers make them."""
        for name, value in self._constants.get(module, {}).items():
            with torch.no_grad():
                module.get_buffer(name).copy_(value)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        has_photo: Tensor | None = None,
        marks: Tensor | None = None,
        ngrams: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> EmberVLMOutput | tuple[Tensor, ...]:
        """Return all logits of what `EmberVLMProcessor` gives.

        Args:
            input_ids: tokens (B, T).
            attention_mask: False at padding (B, T); None: there is none.
            pixel_values: photos (B, 3, S, S) of -1 to 127 / 128; None: no row has one.
            has_photo: (B,), False where a row's pixels are padding; None: all rows have one.
            marks: the places (B, M) of quantity marks among the words, PADDING behind the last.
            ngrams: rows (B, G) of the n-gram table, PADDING behind the last; ember-nano and bitmar.
            return_dict: False returns a tuple.
        """
        mask_BT = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        B = len(input_ids)
        if has_photo is None:
            has_photo = mask_BT.new_full((B,), pixel_values is not None)
        if marks is None:
            marks = input_ids.new_zeros(B, 0)
        marks_BM = marks.clamp(min=0)
        if isinstance(self.network, Ember37M):
            output = self._read_prefix(
                self.network, input_ids, mask_BT.bool(), pixel_values, marks_BM
            )
        else:
            output = self._read(
                self.network,
                input_ids,
                mask_BT.bool(),
                pixel_values,
                has_photo.bool(),
                marks_BM,
                ngrams,
            )
        assert output.roles is not None
        output.roles = output.roles.masked_fill((marks == PADDING)[:, :, None], 0.0)
        is_dict = self.config.return_dict if return_dict is None else return_dict
        return output if is_dict else output.to_tuple()

    def _read(
        self,
        network: EmberNetwork,
        tokens_BT: Tensor,
        mask_BT: Tensor,
        pixels_BCHW: Tensor | None,
        has_photo_B: Tensor,
        marks_BM: Tensor,
        ngrams_BG: Tensor | None,
    ) -> EmberVLMOutput:
        if pixels_BCHW is None:
            features_BC = self._zeros(len(tokens_BT), *network.config.features_shape)
            scene_BE = self._zeros(len(tokens_BT), len(ENVIRONMENTS))
        else:
            features_BC, scene_BE = network.look(pixels_BCHW.to(self.dtype))
        encoded = network.encode(
            tokens_BT, mask_BT, features_BC, scene_BE.softmax(-1), has_photo_B, has_photo_B
        )
        rows = None
        # The words' own habits must not speak against a photo.
        if ngrams_BG is not None and not has_photo_B.all():
            rows = [
                [] if seen else [row for row in found if row != PADDING]
                for seen, found in zip(has_photo_B.tolist(), ngrams_BG.tolist(), strict=True)
            ]
        logits = network.decide(encoded, rows)
        return EmberVLMOutput(
            **logits,
            roles=network.roles(encoded, marks_BM),
            scene=None if pixels_BCHW is None else scene_BE,
            embedding=encoded.pooled_BD,
        )

    def _read_prefix(
        self,
        network: Ember37M,
        tokens_BT: Tensor,
        mask_BT: Tensor,
        pixels_BCHW: Tensor | None,
        marks_BM: Tensor,
    ) -> EmberVLMOutput:
        image_BND = None if pixels_BCHW is None else network.see(pixels_BCHW.to(self.dtype))
        states_BTD, pooled_BD = network.encode(tokens_BT, mask_BT, image_BND)
        return EmberVLMOutput(
            **network.decide(pooled_BD),
            roles=network.roles(states_BTD, marks_BM),
            embedding=pooled_BD,
        )

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)


class EmberVLMProcessor(ProcessorMixin):
    """Turns requests and photos into what `EmberVLMModel` reads, as the backends do."""

    def __init__(self, tokenizer: Tokenizer | Gpt2Tokenizer, network: dict[str, Any]) -> None:
        """Take a tokenizer and the family and sizes of its network.

        Raises:
            ValueError: they do not belong together.
        """
        self.tokenizer: Any = tokenizer
        self.chat_template = None
        self.network = network
        self.sizes = config_of(network)
        if self.sizes.vocabulary_size != len(tokenizer):
            raise ValueError(
                f"The network has {self.sizes.vocabulary_size} tokens, its tokenizer "
                f"{len(tokenizer)}; they must be of one model."
            )

    def __call__(  # type: ignore[override]
        self,
        images: Photo | Sequence[Photo | None] | None = None,
        text: str | Sequence[str | None] | None = None,
        return_tensors: str = "pt",
        **ignored: Any,
    ) -> BatchFeature:
        """Return a batch: of one request, or of as many as the lists have; None is absent.

        Args:
            images: photos as `imaging.load_image` takes them, as pixels (H, W, 3), or Pillow's.
            text: requests.
            return_tensors: "pt".
            ignored: nothing; an unknown key is refused.

        Raises:
            ValueError: a photo cannot be read, the lists differ in length, nothing is given, or a
                key is unknown.
        """
        if ignored or return_tensors != "pt":
            raise ValueError(
                f"got {sorted(ignored) or return_tensors}; the processor takes images and text and "
                "returns tensors of PyTorch ('pt')."
            )
        is_many = not isinstance(text, str | None) or isinstance(images, list | tuple)
        tasks: list[str | None] = list(text) if not isinstance(text, str | None) else [text]
        photos: list[Any] = list(images) if isinstance(images, list | tuple) else [images]
        if is_many and images is None:
            photos = [None] * len(tasks)
        if is_many and text is None:
            tasks = [None] * len(photos)
        if len(tasks) != len(photos) or not tasks:
            raise ValueError(
                f"got {len(tasks)} requests and {len(photos)} photos; give lists of one length, "
                "with None where there is none."
            )
        side, pixels = self.sizes.image_size, [None if p is None else _pixels(p) for p in photos]
        seen = [None if p is None else torch.from_numpy(preprocess(p, side)) for p in pixels]
        readings = [
            self._reading(task, photo is not None)
            for task, photo in zip(tasks, photos, strict=True)
        ]
        tokens = [torch.tensor(reading.tokens) for reading in readings]
        batch = {
            "input_ids": pad_sequence(tokens, batch_first=True),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in tokens], True),
            "marks": _padded([reading.marks for reading in readings]),
        }
        if any(photo is not None for photo in seen):
            none_CHW = torch.zeros(3, side, side)
            batch["pixel_values"] = torch.stack([none_CHW if p is None else p for p in seen])
            batch["has_photo"] = torch.tensor([photo is not None for photo in seen])
        if isinstance(self.sizes, EmberConfig):
            rows = self.sizes.ngram_rows
            batch["ngrams"] = _padded([hash_ngrams(mark_quantities(t or ""), rows) for t in tasks])
        return BatchFeature(batch)

    def save_pretrained(
        self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Write `tokenizer.json` and `processor_config.json`; return their paths.

        Raises:
            ValueError: `push_to_hub` is set; `embervlm hub push` uploads.
        """
        if push_to_hub:
            raise ValueError("The processor is saved alone; upload the folder of its model.")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder / TOKENIZER)
        content = json.dumps(self.to_dict(), indent=2) + "\n"
        (folder / PROCESSOR).write_text(content, "utf-8")
        return [str(folder / TOKENIZER), str(folder / PROCESSOR)]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Self:  # type: ignore[override]
        """Read what `save_pretrained` wrote, from a folder or the Hub.

        Raises:
            OSError: a file is missing.
            ValueError: a file is damaged, or they do not belong together.
        """
        known = ("cache_dir", "force_download", "local_files_only", "revision", "token")
        asked = {name: kwargs[name] for name in known if kwargs.get(name) is not None}
        found = {
            name: cached_file(pretrained_model_name_or_path, name, **asked)
            for name in (PROCESSOR, TOKENIZER)
        }
        network = json.loads(Path(str(found[PROCESSOR])).read_text("utf-8"))["network"]
        kind = Tokenizer if isinstance(config_of(network), EmberConfig) else Gpt2Tokenizer
        return cls(kind.from_file(str(found[TOKENIZER])), network)

    def to_dict(self, **ignored: Any) -> dict[str, Any]:
        """Return what `processor_config.json` holds."""
        return {"processor_class": type(self).__name__, "network": self.network}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.tokenizer)} tokens, {self.sizes.image_size} px)"

    def _reading(self, task: str | None, has_photo: bool) -> Any:
        if isinstance(self.sizes, EmberConfig):
            return read_task(task, self.tokenizer, MAX_TASK_TOKENS)
        count = self.sizes.image_tokens if has_photo else 0
        return read_request(task, self.tokenizer, MAX_TASK_TOKENS, count)


def save_for_transformers(model: Path, folder: Path) -> list[Path]:
    """Write the weights of a GGUF file as floats, its tokenizer and the processor's configuration
    into a folder; return the files that stand beside the `config.json` of `hub/folder.py`.

    Raises:
        ValueError: the file holds no sound model.
    """
    from embervlm.backends.pytorch import PyTorchBackend

    backend = PyTorchBackend.load(model)
    wrapped = EmberVLMModel.from_network(backend.network)
    wrapped.save_pretrained(folder)
    EmberVLMProcessor(backend.tokenizer, wrapped.config.network or {}).save_pretrained(folder)
    return [folder / name for name in (WEIGHTS, TOKENIZER, PROCESSOR)]


def _pixels(photo: Photo) -> NDArray[np.uint8]:
    """Return a photo as pixels (H, W, 3)."""
    return photo if isinstance(photo, np.ndarray) else load_image(photo)


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return rows of numbers (B, longest), PADDING behind the shorter ones."""
    found = [torch.tensor(list(row), dtype=torch.int64) for row in rows]
    return pad_sequence(found, batch_first=True, padding_value=PADDING)


AutoConfig.register(MODEL_TYPE, EmberVLMConfig)
AutoModel.register(EmberVLMConfig, EmberVLMModel)
AutoProcessor.register(EmberVLMConfig, EmberVLMProcessor)
