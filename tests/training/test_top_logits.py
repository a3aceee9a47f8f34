"""The loss on a teacher's likeliest tokens: equal to the whole divergence, bucket by bucket."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch.nn.functional as F  # noqa: E402

from embervlm.tokenizer import Tokenizer  # noqa: E402
from embervlm.training.top_logits import (  # noqa: E402
    TEMPERATURE,
    TopLogits,
    check_same_vocabulary,
    keep_top,
    top_batch,
    top_logits_sum,
    vocabulary_of,
)

V = 11


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return 4 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def top_of(k: int, n: int = 3, seed: int = 1) -> TopLogits:
    return keep_top(drawn(n, V, seed=seed), torch.arange(n), k)


def by_hand(teacher_NV: torch.Tensor, student_NV: torch.Tensor, k: int) -> float:
    """Return T^2 KL over k tokens and one bucket, in plain numbers."""
    total = 0.0
    for teacher_V, student_V in zip(teacher_NV, student_NV, strict=True):
        p, q = ((z.double() / TEMPERATURE).softmax(-1).tolist() for z in (teacher_V, student_V))
        likeliest = sorted(range(V), key=lambda v: -p[v])[:k]
        shares = [(p[v], q[v]) for v in likeliest]
        if k < V:
            shares.append((1 - sum(p[v] for v in likeliest), 1 - sum(q[v] for v in likeliest)))
        total += sum(a * np.log(a / b) for a, b in shares)
    return TEMPERATURE**2 * total


@pytest.mark.parametrize("k", [1, 3, 10, V])
def test_it_is_the_divergence_of_the_shares(k: int) -> None:
    teacher_NV, student_NV = drawn(3, V, seed=1), drawn(3, V, seed=2)
    batch = top_batch([keep_top(teacher_NV, torch.arange(3), k)], [1], 4)
    found = top_logits_sum(student_NV[None], batch).item()
    assert found == pytest.approx(by_hand(teacher_NV, student_NV, k), rel=1e-3, abs=2e-3)


def test_with_all_tokens_it_is_the_loss_of_instruct() -> None:
    teacher_NV, student_NV = drawn(3, V, seed=1), drawn(3, V, seed=2)
    whole = TEMPERATURE**2 * F.kl_div(
        (student_NV / TEMPERATURE).log_softmax(-1),
        (teacher_NV / TEMPERATURE).log_softmax(-1),
        reduction="sum",
        log_target=True,
    )
    batch = top_batch([keep_top(teacher_NV, torch.arange(3), V)], [1], 4)
    # Log-probabilities are logits too.
    found = top_logits_sum(student_NV.log_softmax(-1)[None], batch)
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("k", [1, 4, V])
def test_it_is_least_where_the_student_is_the_teacher_and_descends_to_it(k: int) -> None:
    teacher_NV = drawn(2, V, seed=1)
    batch = top_batch([keep_top(teacher_NV, torch.arange(2), k)], [1], 3)
    assert abs(top_logits_sum(teacher_NV[None], batch).item()) < 2e-3
    student = drawn(1, 2, V, seed=2).requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.1)
    for _ in range(300):
        loss = top_logits_sum(student, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(student).all()
    assert loss.item() < 5e-3
    if k > 1:
        assert (student.argmax(-1)[0] == teacher_NV.argmax(-1)).all()


def test_a_teacher_that_is_sure_and_a_student_that_is_not_stay_finite() -> None:
    teacher_NV = torch.full((1, V), -200.0)
    teacher_NV[0, 3] = 200.0
    batch = top_batch([keep_top(teacher_NV, torch.tensor([3]), 2)], [1], 2)
    student = (-teacher_NV[None]).clone().requires_grad_()
    loss = top_logits_sum(student, batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_rows_stand_where_the_answer_does_and_padding_counts_nothing() -> None:
    tops = [top_of(4, n=2), None, top_of(4, n=5, seed=3)]
    batch = top_batch(tops, [3, 1, 2], 5)
    assert batch["has_top"].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1]]
    logits_BTV = drawn(3, 4, V, seed=5)
    alone = sum(
        top_logits_sum(logits_BTV[b : b + 1], {k: v[b : b + 1] for k, v in batch.items()})
        for b in range(3)
    )
    found = top_logits_sum(logits_BTV, batch)
    torch.testing.assert_close(found, alone)
    other = logits_BTV.clone()
    other[batch["has_top"] == 0] = 0
    torch.testing.assert_close(top_logits_sum(other, batch), found)
    assert top_batch([top_of(4)], [0], 5)["has_top"].tolist() == [[1, 1, 0, 0]]
    assert top_logits_sum(logits_BTV, top_batch([None] * 3, [1] * 3, 5)) == 0
    with pytest.raises(ValueError, match=r"\[3, 4\] tokens each; give one K"):
        top_batch([top_of(3), top_of(4)], [1, 1], 5)


def test_they_are_kept_bit_for_bit() -> None:
    top = top_of(5)
    found = TopLogits.from_dict(top.to_dict())
    for name in ("answer_N", "tokens_NK", "log_p_NK"):
        np.testing.assert_array_equal(getattr(found, name), getattr(top, name))
        assert getattr(found, name).dtype == getattr(top, name).dtype
    for wrong in ({}, {**top.to_dict(), "k": 4}, {**top.to_dict(), "tokens": "%"}):
        with pytest.raises(ValueError):
            TopLogits.from_dict(wrong)
    with pytest.raises(ValueError, match=r"softened by 1.0, the loss by 2.0"):
        TopLogits.from_dict({**top.to_dict(), "temperature": 1.0})


def test_vocabularies_are_compared_token_by_token(tokenizer: Tokenizer) -> None:
    ours = vocabulary_of(tokenizer)
    assert sorted(ours.values()) == list(range(len(tokenizer)))
    check_same_vocabulary(ours, {**ours, "<|more|>": len(ours)})
    first, second = (token for token, number in ours.items() if number in (7, 300))
    with pytest.raises(ValueError, match=f"Token 7 is .* and so differ 2 of {len(ours):,}:"):
        check_same_vocabulary({**ours, first: 300, second: 7}, ours)
    with pytest.raises(ValueError, match="and None for the student, and so differ 1 of"):
        check_same_vocabulary({**ours, "<|more|>": len(ours)}, ours)
