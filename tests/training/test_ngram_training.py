"""The table learns what words say, and gets as much say as it deserves."""

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from embervlm.data.sample import Sample  # noqa: E402
from embervlm.models.heads import SUBSETS, NgramScores  # noqa: E402
from embervlm.training.ngrams import Settings, best_weight, fit_table, label_shift, rows_of  # noqa: E402


def sample(task: str, subset: int, environment: int) -> Sample:
    return Sample("t", task, subset, 0, environment, (), (), {}, False)


def test_learns_words_it_saw_and_judges_new_sentences_by_them() -> None:
    seen = [sample(f"look at roof number {i}", 1, 2) for i in "abcdefgh"]
    seen += [sample(f"dive into basin number {i}", 2, 0) for i in "abcdefgh"]
    scores = fit_table(seen, 1 << 12, Settings(epochs=20, batch=4))
    new = [sample("the roof", 1, 2), sample("a basin", 2, 0)]
    logits = scores(rows_of(new, 1 << 12))
    assert logits[:, :SUBSETS].argmax(-1).tolist() == [1, 2]
    assert logits[:, SUBSETS:].argmax(-1).tolist() == [2, 0]


def test_training_twice_gives_the_same_table() -> None:
    seen = [sample("look up", 1, 2), sample("look down", 2, 0)]
    one, other = (fit_table(seen, 64, Settings(epochs=2)).table.weight for _ in range(2))
    assert torch.equal(one, other)


def test_a_text_without_ngrams_adds_nothing_wherever_it_stands() -> None:
    scores = NgramScores(8)
    torch.nn.init.normal_(scores.table.weight)
    torch.nn.init.normal_(scores.bias)
    first, middle, last = scores([[], [3, 5], []])
    assert not first.any() and not last.any()
    length = 2**0.5
    expected = (scores.table.weight[3] + scores.table.weight[5]) / length + scores.bias
    assert torch.allclose(middle, expected, atol=1e-6)


def test_noise_gets_no_say_and_knowledge_much() -> None:
    torch.manual_seed(0)
    truth = torch.randint(4, (400,))
    unsure = torch.randn(400, 4) + torch.nn.functional.one_hot(truth, 4)
    assert best_weight(unsure, torch.randn(400, 4), truth) <= 0.2
    assert best_weight(unsure, torch.randn(400, 4) + 2 * torch.eye(4)[truth], truth) >= 0.8


def test_the_shift_moves_answers_to_what_the_authors_ask_for() -> None:
    authors = [replace(sample("a", 1, 0), id="t-1")] * 60 + [
        replace(sample("b", 2, 0), id="t-2")
    ] * 20
    additions = [replace(sample("c", 2, 0), id="w1-001")] * 400
    shift = label_shift([*authors, *additions])
    assert shift[1] > 0 > shift[2]
    assert shift[1] == pytest.approx(math.log((63 / 176) / (93 / 616)), abs=1e-6)
    equal = label_shift(authors)
    assert equal.abs().max() < 0.25, "only the three rows more for each set remain"
