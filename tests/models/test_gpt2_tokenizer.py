"""GPT-2's tokenizer with our marks behind it: as it is published, and kept beside a network."""

from pathlib import Path

import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("torch")

from gpt2 import write_gpt2_tokenizer
from tokenizers import Tokenizer, models

from embervlm.models.configuration import SPECIAL_TOKENS
from embervlm.models.gpt2_tokenizer import END, Gpt2Tokenizer, byte_level

TEXTS = (
    "", " ", " carry the pump up the stairs", "Two  spaces\nand a line", "\N{SNOWMAN} 16 kg, é 中",
    " <|image|><|endoftext|> <|reasoning_start|>",
)  # fmt: skip


@pytest.mark.parametrize("one_file", [True, False])
def test_the_marks_stand_behind_the_published_vocabulary(tmp_path: Path, one_file: bool) -> None:
    count = write_gpt2_tokenizer(tmp_path, one_file=one_file)
    tokenizer = Gpt2Tokenizer.from_published(tmp_path)
    assert len(tokenizer) == count + len(SPECIAL_TOKENS)
    assert [tokenizer.specials[mark] for mark in (END, *SPECIAL_TOKENS)] == list(
        range(count - 1, len(tokenizer))
    )


def test_both_layouts_mean_the_same_and_every_text_comes_back(tmp_path: Path) -> None:
    for one_file, name in ((True, "one"), (False, "two")):
        write_gpt2_tokenizer(tmp_path / name, one_file=one_file)
    one, two = (Gpt2Tokenizer.from_published(tmp_path / name) for name in ("one", "two"))
    for text in TEXTS:
        assert one.encode(text) == two.encode(text)
        assert one.decode(one.encode(text)) == text


def test_text_never_becomes_a_special_token(tmp_path: Path) -> None:
    write_gpt2_tokenizer(tmp_path)
    tokenizer = Gpt2Tokenizer.from_published(tmp_path)
    for mark in (END, *SPECIAL_TOKENS):
        assert not {*tokenizer.encode(mark)} & {*tokenizer.specials.values()}
        assert tokenizer.decode([tokenizer.specials[mark]]) == mark
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"


def test_what_is_saved_is_the_same_tokenizer_and_is_saved_alike(tmp_path: Path) -> None:
    write_gpt2_tokenizer(tmp_path)
    tokenizer = Gpt2Tokenizer.from_published(tmp_path)
    tokenizer.save(tmp_path / "again.json")
    again = Gpt2Tokenizer.from_published(tmp_path / "again.json")
    assert again.specials == tokenizer.specials
    assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    again.save(tmp_path / "thrice.json")
    assert (tmp_path / "thrice.json").read_bytes() == (tmp_path / "again.json").read_bytes()


def test_what_is_no_such_tokenizer_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither tokenizer.json nor vocab.json with merges.txt"):
        Gpt2Tokenizer.from_published(tmp_path)
    with pytest.raises(ValueError, match="neither a directory nor a hub name"):
        Gpt2Tokenizer.from_published("nowhere")
    for text in ("", "{}", "\0", "[1]"):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(ValueError, match="is not a tokenizer of GPT-2's kind"):
            Gpt2Tokenizer.from_published(tmp_path)
    byte_level(models.BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"has no <\|endoftext\|>"):
        Gpt2Tokenizer.from_published(tmp_path)
    write_gpt2_tokenizer(tmp_path)
    crowded = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    crowded.add_special_tokens([*SPECIAL_TOKENS, "<|more|>"])
    crowded.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="expected the last of"):
        Gpt2Tokenizer.from_published(tmp_path)
