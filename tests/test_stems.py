"""Words lose their endings, and rare ones count more."""

import math

from embervlm.stems import rarities, stems


def test_words_are_the_same_without_their_endings() -> None:
    assert stems("Carrying the old pumps") == ["carry", "old", "pump"]
    assert stems("the pump was carried, then pumped")[1:] == ["carri", "pump"]
    assert stems("look up", frozenset()) == ["look", "up"]


def test_a_word_of_all_texts_counts_less_than_one_of_one() -> None:
    found = rarities(["map the lake", "map the wood", "maps"])
    assert found["lak"] == found["wood"] == math.log(4)
    assert 0 < found["map"] == math.log(4 / 3)
