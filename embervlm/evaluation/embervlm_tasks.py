"""EmberVLM's own 244 tasks: what our model says of them unseen, and after training on part of them.

`single_robot_selection.json` holds 250 rows; six tasks stand there twice. Its labels follow another
policy than ours: No Robot never occurs, and several robots are named where our guide would name
one. So besides the zero-shot figure there is a grouped five-fold cross-validation, in which every
model learns that policy from four folds. Near-duplicate tasks share a fold. What has to be chosen
(epochs, penalty, threshold) is chosen inside the four folds, on a fifth of their groups; then the
model is trained on all four.

The learners need the `train` extra; ours is `evaluation.fold_training`. Axes: N tasks, O outcomes.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from embervlm.data.robot_requests import read_single, task_and_robots
from embervlm.data.scenarios import NEAR_DUPLICATE, group_near_duplicates, task_vectors
from embervlm.evaluation.metrics import Answer, Truth

FILE = Path("public/single_robot_selection.json")
FOLDS = 5
INNER_SHARE = 5
SEED = 1
MAX_EPOCHS = 15
MINILM_RATE = 1e-4

# Training truths of the four folds and the tasks of the fifth -> answers.
Learner = Callable[[Sequence[Truth], Sequence[str]], list[Answer]]


def load_tasks(shared: Path) -> list[Truth]:
    """Return the different tasks, the first label of each; their robots' names are ours.

    Raises:
        ValueError: the file is missing, or names a robot that the default fleet lacks.
    """
    tasks = []
    for name, row in read_single(shared / FILE):
        task, robots = task_and_robots(row)
        tasks.append(Truth(name, task, robots, robots[0]))
    return tasks


def fold_of_each(truths: Sequence[Truth], folds: int = FOLDS, seed: int = SEED) -> list[int]:
    """Return each task's fold; near-duplicates share one, and folds differ little in size."""
    groups = group_near_duplicates([{"id": t.id, "task": t.task} for t in truths])
    members: dict[str, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    order = sorted(members)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda group: -len(members[group]))
    sizes, fold = [0] * folds, [0] * len(truths)
    for group in order:
        smallest = sizes.index(min(sizes))
        sizes[smallest] += len(members[group])
        for i in members[group]:
            fold[i] = smallest
    return fold


def near_training_rows(truths: Sequence[Truth], train: Sequence[Truth]) -> int:
    """Return how many of these tasks have a near-duplicate among our training rows."""
    vectors = task_vectors([truth.task for truth in (*train, *truths)])
    alike = vectors[len(train) :] @ vectors[: len(train)].T
    return int((alike.max(1) > NEAR_DUPLICATE).sum())


def cross_validate(truths: Sequence[Truth], learn: Learner) -> list[Answer]:
    """Return an answer to each task by a model that learnt from the other folds only."""
    fold = fold_of_each(truths)
    answers: dict[int, Answer] = {}
    for held_out in range(FOLDS):
        train = [truth for truth, f in zip(truths, fold, strict=True) if f != held_out]
        asked = [i for i, f in enumerate(fold) if f == held_out]
        found = learn(train, [truths[i].task for i in asked])
        answers.update(zip(asked, found, strict=True))
    return [answers[i] for i in range(len(truths))]


def inner_split(train: Sequence[Truth]) -> tuple[list[Truth], list[Truth]]:
    """Return the part of the folds to fit on, and a fifth of their groups to choose on."""
    fold = fold_of_each(train, INNER_SHARE, SEED + 1)
    return (
        [truth for truth, f in zip(train, fold, strict=True) if f],
        [truth for truth, f in zip(train, fold, strict=True) if not f],
    )


def learn_tfidf(train: Sequence[Truth], tasks: Sequence[str]) -> list[Answer]:
    """Answer with the TF-IDF baseline; penalty and threshold are chosen inside."""
    from embervlm.evaluation import baselines

    fitted, chosen_on = inner_split(train)
    c, threshold = baselines.tune_regressions(
        fitted, chosen_on, baselines.TFIDF_CS, baselines.tfidf_features(fitted)
    )
    features = baselines.tfidf_features(train)
    return baselines.Regressions.fit(train, c, features).predictor(threshold)(tasks)


def learn_minilm(train: Sequence[Truth], tasks: Sequence[str]) -> list[Answer]:
    """Answer with MiniLM trained end to end; epochs and threshold are chosen inside."""
    from embervlm.evaluation import baselines, minilm

    fitted, chosen_on = inner_split(train)
    found: list[tuple[float, int, float]] = []

    def try_out(epoch: int, predict: minilm.Probabilities) -> None:
        p_NO = predict([truth.task for truth in chosen_on])
        threshold = baselines.tune_threshold(p_NO, chosen_on)
        share = baselines.exact_share(baselines.to_answers(p_NO, threshold), chosen_on)
        found.append((share, -epoch, threshold))

    def fine_tune(
        rows: Sequence[Truth],
        epochs: int,
        after_epoch: Callable[[int, minilm.Probabilities], None] | None = None,
    ) -> minilm.Probabilities:
        return minilm.fine_tune(
            [truth.task for truth in rows],
            baselines.membership(rows),
            epochs=epochs,
            rate=MINILM_RATE,
            seed=SEED,
            decay=False,
            after_epoch=after_epoch,
        )

    fine_tune(fitted, MAX_EPOCHS, try_out)
    _, minus_epochs, threshold = max(found)
    return baselines.to_answers(fine_tune(train, -minus_epochs)(tasks), threshold)
