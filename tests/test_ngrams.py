"""N-grams are found as documented, and land in the same row on every machine."""

import zlib

from embervlm.ngrams import hash_ngrams
from embervlm.prompts import mark_quantities

ROWS = 1 << 15


def test_a_short_text_by_hand() -> None:
    expected = [
        "wup",
        "wa",
        "wup a",
        "c u",
        "cup",
        "cp ",
        "c up",
        "cup ",
        "c up ",
        "c a",
        "ca ",
        "c a ",
    ]
    assert hash_ngrams("Up, a!", ROWS) == sorted({zlib.crc32(n.encode()) % ROWS for n in expected})


def test_rows_are_fixed_numbers() -> None:
    assert hash_ngrams("é", 1 << 10) == [6, 128, 719, 720]


def test_rows_rise_stay_in_range_and_come_once() -> None:
    rows = hash_ngrams("carry the pump, carry the pump, CARRY THE PUMP " * 20, 64)
    assert rows == sorted(set(rows))
    assert rows[0] >= 0
    assert rows[-1] < 64


def test_nothing_to_count_gives_nothing() -> None:
    assert hash_ngrams("", ROWS) == hash_ngrams(" ?! ", ROWS) == []


def test_a_quantity_also_counts_as_its_mark() -> None:
    marked = mark_quantities("Bring 16 kg up, 40 m")
    assert marked.split() == ["Bring", "16", "kg", "<|kg<=20|>", "up,", "40", "m", "<|m<=100|>"]
    assert zlib.crc32(b"w<|kg<=20|>") % ROWS in hash_ngrams(marked, ROWS)
    same_bucket, other_bucket = (
        set(hash_ngrams(mark_quantities(f"bring {n} kg"), ROWS)) for n in (17, 30)
    )
    assert len(set(hash_ngrams(marked, ROWS)) & same_bucket) > len(
        set(hash_ngrams(marked, ROWS)) & other_bucket
    )
    assert mark_quantities("no number") == "no number"
