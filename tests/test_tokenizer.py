"""Any text goes in and comes out again, and the tokens are those of the `tokenizers` library."""

import json
import random
import time
from pathlib import Path

import pytest

from embervlm.prompts import SPECIALS
from embervlm.tokenizer import PATTERN, Tokenizer, byte_alphabet

TEXTS = [
    "",
    " ",
    "Carry the 8 kg pump up the stairs, 16 m, in 70 km/h of wind!",
    "  two  spaces\tand\n\nlines\r\n ",
    "Überprüfe die Brücke — sofort… “please”",
    "救援机器人 спасатель روبوت रोबोट",
    "🚁 flies 👩🏽‍🚒 home 🇩🇪",
    "1234567890 ½ ² Ⅷ ٣",
    "snake_case __init__ a_b",
    "<|task|> is text here <|end|>",
    "e\u0301 combining, \u200b zero width, \u00a0 hard space, \x00 null, \x7f",
]


@pytest.mark.parametrize("text", TEXTS)
def test_brings_any_text_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_brings_random_unicode_back(tokenizer: Tokenizer) -> None:
    chance = random.Random(0)
    ranges = [
        (0, 128),
        (0, 0x250),
        (0x300, 0x370),
        (0x2000, 0x3000),
        (0x1F300, 0x1FAFF),
        (0, 0xD800),
    ]
    for _ in range(2000):
        low, high = chance.choice(ranges)
        text = "".join(chr(chance.randrange(low, high)) for _ in range(chance.randint(1, 30)))
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_writes_half_a_character_as_a_question_mark(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"
    assert tokenizer.decode(tokenizer.encode("🚁")[:2]) == "\N{REPLACEMENT CHARACTER}"


def test_text_never_becomes_a_special_token(tokenizer: Tokenizer) -> None:
    for mark in SPECIALS:
        numbers = tokenizer.encode(f"a {mark} b")
        assert not set(numbers) & set(tokenizer.specials.values())
        assert tokenizer.decode([tokenizer.specials[mark]]) == mark


def test_every_byte_is_a_token_and_its_stand_in_is_one_of_a_kind() -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet) == list(range(256))
    assert len(set(alphabet.values())) == 256
    assert all(char.isprintable() and not char.isspace() for char in alphabet.values())


def test_equals_the_tokenizers_library_on_the_same_vocabulary(tmp_path: Path) -> None:
    library = pytest.importorskip("tokenizers")
    from embervlm.training.tokenizer import merge_numbers

    theirs = library.Tokenizer(library.models.BPE())
    theirs.pre_tokenizer = library.pre_tokenizers.Sequence(
        [
            library.pre_tokenizers.Split(library.Regex(PATTERN), behavior="isolated"),
            library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    guide = (Path(__file__).parents[1] / "docs" / "labelling-guide.md").read_text("utf-8")
    trainer = library.trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=sorted(byte_alphabet().values()), show_progress=False
    )
    theirs.train_from_iterator([guide, guide.lower(), *TEXTS], trainer)
    model = json.loads(theirs.to_str())["model"]
    ours = Tokenizer(merge_numbers(model["vocab"], model["merges"]), ())
    assert ours.plain_tokens == len(model["vocab"]) > 800
    chance = random.Random(0)
    words = guide.split()
    lines = [" ".join(chance.choices(words, k=12)) for _ in range(200)]
    # Combining marks and fractions are letters for one library's \w and not for the other's.
    plain = [text for text in TEXTS if not any(char in text for char in "½²Ⅷ\u0301\u200d\u200bो")]
    for text in [*lines, *guide.splitlines(), *plain, "aaaa" * 40, "🚁" * 50]:
        assert ours.encode(text) == theirs.encode(text).ids, text


def test_a_word_of_thousands_of_letters_takes_no_longer_than_a_text(tokenizer: Tokenizer) -> None:
    chance = random.Random(0)
    started = time.perf_counter()
    for text in ("🚁" * 4000, "the" * 4000, "".join(chance.choices("thersow", k=4000))):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    # One by one, these merges would take a minute.
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "[]",
        "{}",
        "\x00",
        '{"specials": [], "merges": [[1]]}',
        '{"specials": [], "merges": [[1, -2]]}',
        '{"specials": [], "merges": [[1, 70000]]}',
        '{"specials": [], "merges": [[256, 1]]}',
        '{"specials": 3, "merges": []}',
    ],
)
def test_refuses_what_is_no_tokenizer_file(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(ValueError, match="not a tokenizer file"):
        Tokenizer.from_file(path)


def test_what_is_saved_is_read_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert again.specials == tokenizer.specials
    assert (again.merges_M2 == tokenizer.merges_M2).all()
    assert again.encode("carry the pump") == tokenizer.encode("carry the pump")
