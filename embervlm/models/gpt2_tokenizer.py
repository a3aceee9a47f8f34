"""GPT-2's byte-level BPE with EmberVLM's five special tokens behind it, for `ember-37m`.

The vocabulary is that of the published checkpoint (`tinyllm/30M-0.4`: GPT-2's 50,257), read from
its `tokenizer.json`, or from `vocab.json` and `merges.txt`. The work is done by the `tokenizers`
library; our own `tokenizer.py` splits words in another way.

    tokenizer = Gpt2Tokenizer.from_published("tinyllm/30M-0.4")     # or a directory, or a file
    tokenizer.decode(tokenizer.encode(" 8 kg up the stairs"))       # " 8 kg up the stairs"
    tokenizer.specials["<|image|>"]                                 # 50261
    tokenizer.save("run/tokenizer.json")                            # one file, complete

Text never becomes a special token, not even text that is spelt like one: only callers write them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from embervlm.models.configuration import SPECIAL_TOKENS
from embervlm.models.published import published_folder

# GPT-2's only special token: here it ends a caption or an answer.
END = "<|endoftext|>"
TOKENIZER = "tokenizer.json"
VOCABULARY, MERGES = "vocab.json", "merges.txt"


class Gpt2Tokenizer:
    """Encodes and decodes; has the five marks behind the published vocabulary.

    Attributes:
        specials: the number of `<|endoftext|>` and of each of SPECIAL_TOKENS.
    """

    def __init__(self, fast: FastTokenizer) -> None:
        """Take the library's tokenizer and add the five marks that it may lack.

        Raises:
            ValueError: it has no `<|endoftext|>`, or tokens behind the five marks.
        """
        if fast.token_to_id(END) is None:
            raise ValueError(f"the vocabulary has no {END}; give one of GPT-2's kind")
        # The library may split or fill what a file says of truncation and padding: nothing of it.
        fast.no_truncation()
        fast.no_padding()
        fast.add_special_tokens([END, *(AddedToken(mark, special=True) for mark in SPECIAL_TOKENS)])
        fast.encode_special_tokens = True
        self._fast = fast
        vocabulary = fast.get_vocab()
        self.specials = {mark: vocabulary[mark] for mark in (END, *SPECIAL_TOKENS)}
        found = [self.specials[mark] for mark in SPECIAL_TOKENS]
        if found != list(range(len(self) - len(SPECIAL_TOKENS), len(self))):
            raise ValueError(f"the special tokens are {found}, expected the last of {len(self)}")

    @classmethod
    def from_file(cls, path: str | Path) -> Gpt2Tokenizer:
        """Read a `tokenizer.json`, a published one or what `save` wrote.

        Raises:
            ValueError: the file is missing, or is no such tokenizer.
        """
        try:
            return cls(FastTokenizer.from_str(Path(path).read_text("utf-8")))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(_refused(path, error)) from error

    @classmethod
    def from_published(cls, name_or_path: str | Path) -> Gpt2Tokenizer:
        """Read that of a checkpoint: a file, a directory, or a hub name such as "owner/model".

        Raises:
            ValueError: see `published.published_folder`; or the files are missing or wrong.
        """
        if Path(name_or_path).is_file():
            return cls.from_file(name_or_path)
        folder, source = published_folder(name_or_path, (TOKENIZER, VOCABULARY, MERGES))
        if (folder / TOKENIZER).is_file():
            return cls.from_file(folder / TOKENIZER)
        if not (folder / VOCABULARY).is_file() or not (folder / MERGES).is_file():
            raise ValueError(
                f"{source} has neither {TOKENIZER} nor {VOCABULARY} with {MERGES}; give the folder "
                "of a checkpoint with its tokenizer."
            )
        try:
            bpe = models.BPE.from_file(str(folder / VOCABULARY), str(folder / MERGES))
            return cls(byte_level(bpe))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(_refused(folder / VOCABULARY, error)) from error

    def save(self, path: str | Path) -> None:
        """Write everything as one `tokenizer.json`, through a temporary file."""
        unfinished = Path(path).with_suffix(".unfinished")
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(self._fast.to_str())
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)

    def __len__(self) -> int:
        return int(self._fast.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Return the token numbers of a text; half of a surrogate pair becomes "?"."""
        clean = text.encode("utf-8", errors="replace").decode("utf-8")
        return list(self._fast.encode(clean, add_special_tokens=False).ids)

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text of token numbers; special tokens are written as their marks."""
        return str(self._fast.decode(list(numbers), skip_special_tokens=False))


def byte_level(bpe: models.BPE) -> FastTokenizer:
    """Return a tokenizer that splits and joins text as GPT-2 does."""
    fast = FastTokenizer(bpe)
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    return fast


def _refused(path: str | Path, error: Exception) -> str:
    return f"{path} is not a tokenizer of GPT-2's kind ({error}); give a {TOKENIZER}."
