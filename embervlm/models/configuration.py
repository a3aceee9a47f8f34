"""The sizes of a model. One frozen dataclass; the file that ships beside the weights holds the same
keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class EmberConfig:
    """Sizes of the network; widths are numbers of channels, lengths are numbers of tokens.

    The text encoder has MiniLM's shape (6 layers, 384 wide, 12 heads), which is also TinyLLM's
    width, with 960 of its 1,536 hidden units (`training/compression.py`); the decoder that writes
    the reasoning is smaller, for it only has to put a decision into words. The defaults are what
    ships, `ember-nano`.
    """

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
        known = {field.name for field in fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(
                f"Unknown configuration keys {sorted(unknown)}; known: {sorted(known)}."
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        return asdict(self)
