"""What the model is held against: six ways to answer that a reader would try first.

Each is a function of the training and the validation truths that returns a predictor of answers.
They train on the very rows that the model trains on, read words only, and choose their numbers on
the validation split:

- majority: the most frequent set of the training split, whatever is asked;
- keyword rules: `evaluation.keywords`;
- capability text: TF-IDF cosine between the request and what the guide and the fleet say of each
  outcome;
- TF-IDF: words 1-2 and characters 2-5, a logistic regression for each outcome;
- MiniLM, frozen: its sentence vectors, a logistic regression for each outcome;
- MiniLM, fine-tuned: all 22.7 M parameters, four epochs (`evaluation.minilm`).

A row of chances becomes a set like this: the likeliest outcome; if that is a robot, also every
robot whose chance is at least a threshold.

    python -m embervlm.evaluation.baselines          # compares the rates of fine-tuning on
    validation

Needs the `train` extra. Axes: N requests, O outcomes.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import FeatureUnion

from embervlm.data.scenarios import is_addition
from embervlm.evaluation import keywords, minilm
from embervlm.evaluation.cases import text_truths
from embervlm.evaluation.metrics import Answer, Truth
from embervlm.fleet import NO_ROBOT, Fleet
from embervlm.scoring import exact

Predictor = Callable[[Sequence[str]], list[Answer]]
Fit = Callable[[Sequence[Truth], Sequence[Truth]], Predictor]
Floats = NDArray[np.float64]

CACHE = Path("build/eval")
EPOCHS = 4
# The best of RATES on validation; `python -m embervlm.evaluation.baselines` compares them.
RATE = 2e-4
RATES = (5e-5, 1e-4, 2e-4, 4e-4)
SEED = 1
THRESHOLDS = tuple(round(0.02 * i, 2) for i in range(3, 48))
TFIDF_CS = (3.0, 10.0, 30.0)
VECTOR_CS = (1.0, 10.0, 100.0)

# A change of any of these files makes the cache void.
_CODE = ("baselines.py", "embervlm_tasks.py", "fold_training.py", "keywords.py", "minilm.py")
_FLEET = Fleet.default()
_OUTCOMES = _FLEET.outcomes

# The labelling guide's words for what each outcome is for.
_GUIDE = {
    "Drone": "fly; look from above or at height; thermal and RGB cameras; "
    "loudspeaker; fast over any ground; carry and drop up to 5 kg. See, "
    "map, search from above, patrol the skyline. Inspection of large "
    "outdoor structures from outside: roofs, towers, wide areas.",
    "Underwater Robot": "dive in sea, lake, river, pool, tank, flooded tunnel or pipe; "
    "camera and sonar; take samples; cut, grip and turn valves under "
    "water. Sample, inspect, weld below the waterline.",
    "Humanoid": "two hands; tools, handles, switches, doors and vehicles made for "
    "people; careful manipulation; talk with and guide people; stairs; "
    "indoors or firm ground. Turn, open, press, assemble, hand over, "
    "calm, guide. Anything that needs two hands or a conversation.",
    "Robot with Wheels": "drive fast and far on flat, firm ground: roads, floors, pavements, "
    "airfields, hard desert track; carry or tow up to 500 kg; long "
    "patrols. Carry, haul, deliver. Warehouse, hospital, office floor, "
    "yards, car parks.",
    "Robot with Legs": "rubble, stairs, forest, mountain, mud, snow, sand, steps, ledges, "
    "tunnels, cluttered plants; carry up to 15 kg; inspect with camera, "
    "thermal, gas and radiation sensors. Inspection inside plants, "
    "tunnels, ruins and on slopes.",
    NO_ROBOT: "office work, opinions, medical or legal decisions, loads over 500 "
    "kg, fighting large fires, tasks for machines that the fleet lacks: "
    "cranes, diggers, ambulances. No field task at all.",
}


def majority(train: Sequence[Truth], validation: Sequence[Truth]) -> Predictor:
    """Answer the most frequent set of the training rows, its usual first robot and their place."""
    common = Counter(tuple(sorted(truth.robots)) for truth in train).most_common(1)[0][0]
    primary = Counter(t.primary for t in train if t.primary in common).most_common(1)[0][0]
    place = Counter(truth.environment for truth in train).most_common(1)[0][0]
    answer = Answer(common, primary, place)
    return lambda tasks: [answer] * len(tasks)


def keyword_rules(train: Sequence[Truth], validation: Sequence[Truth]) -> Predictor:
    """Answer by the rules of `evaluation.keywords`, which no data change."""
    return lambda tasks: [keywords.decide(task) for task in tasks]


def capability_text(train: Sequence[Truth], validation: Sequence[Truth]) -> Predictor:
    """Answer the outcomes whose description is most like the request."""
    texts = []
    for outcome in _OUTCOMES:
        texts.append(_GUIDE[outcome])
        if outcome != NO_ROBOT:
            robot = _FLEET[outcome]
            words = " ".join(sorted(robot.capabilities | robot.environments)).replace("_", " ")
            texts[-1] += f" {robot.name}. {robot.description} {words}"
    vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english", ngram_range=(1, 1))
    vectorizer.fit([*(truth.task for truth in train), *texts])
    descriptions = vectorizer.transform(texts)

    def likeness(tasks: Sequence[str]) -> Floats:
        cosine_NO = (vectorizer.transform(tasks) @ descriptions.T).toarray()
        none = cosine_NO.max(1, keepdims=True) == 0
        cosine_NO = np.where(none, np.eye(len(_OUTCOMES))[-1], cosine_NO)
        return np.asarray(cosine_NO / cosine_NO.max(1, keepdims=True))

    threshold = tune_threshold(likeness(_tasks(validation)), validation)
    return lambda tasks: to_answers(likeness(tasks), threshold)


@dataclass(frozen=True)
class Regressions:
    """A logistic regression for each outcome on some features.

    `used` lists the outcomes that training saw; `places` is None where places are not known.
    """

    features: Callable[[Sequence[str]], Any]
    outcomes: OneVsRestClassifier
    used: list[int]
    places: OneVsRestClassifier | None

    @classmethod
    def fit(
        cls, train: Sequence[Truth], c: float, features: Callable[[Sequence[str]], Any]
    ) -> Regressions:
        """Fit on training rows; `c` is the inverse strength of the penalty."""
        solver = LogisticRegression(C=c, solver="liblinear", random_state=SEED)
        matrix, goals_NO = features(_tasks(train)), membership(train)
        used = [o for o in range(len(_OUTCOMES)) if 0 < goals_NO[:, o].sum() < len(train)]
        known = [truth.environment for truth in train if truth.environment is not None]
        places = None
        if len(known) == len(train) and len(set(known)) > 2:
            places = OneVsRestClassifier(solver).fit(matrix, known)
        outcomes = OneVsRestClassifier(solver).fit(matrix, goals_NO[:, used])
        return cls(features, outcomes, used, places)

    def chances(self, tasks: Sequence[str]) -> Floats:
        """Return (N, O); 0 for an outcome that training never saw."""
        p_NO = np.zeros((len(tasks), len(_OUTCOMES)))
        p_NO[:, self.used] = self.outcomes.predict_proba(self.features(tasks))
        return p_NO

    def predictor(self, threshold: float) -> Predictor:
        """Return what answers with this threshold."""

        def predict(tasks: Sequence[str]) -> list[Answer]:
            places = None
            if self.places is not None:
                places = [str(place) for place in self.places.predict(self.features(tasks))]
            return to_answers(self.chances(tasks), threshold, places)

        return predict


def tfidf(train: Sequence[Truth], validation: Sequence[Truth]) -> Predictor:
    """Answer by logistic regressions on TF-IDF features."""
    c, threshold = tune_regressions(train, validation, TFIDF_CS, tfidf_features(train))
    return Regressions.fit(train, c, tfidf_features(train)).predictor(threshold)


def tfidf_features(train: Sequence[Truth]) -> Callable[[Sequence[str]], Any]:
    """Return what turns requests into a sparse matrix; its vocabulary is the training rows'."""
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    pieces = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 5), min_df=2)
    union = FeatureUnion([("words", words), ("characters", pieces)]).fit(_tasks(train))
    return lambda tasks: union.transform(tasks).tocsr()


def frozen_minilm(train: Sequence[Truth], validation: Sequence[Truth]) -> Predictor:
    """Answer by logistic regressions on the published encoder's sentence vectors."""
    known: dict[str, Floats] = {}

    def vectors(tasks: Sequence[str]) -> Floats:
        if new := sorted(set(tasks) - set(known)):
            known.update(zip(new, minilm.sentence_vectors(new), strict=True))
        return np.stack([known[task] for task in tasks])

    c, threshold = tune_regressions(train, validation, VECTOR_CS, vectors)
    return Regressions.fit(train, c, vectors).predictor(threshold)


def tune_regressions(
    train: Sequence[Truth],
    validation: Sequence[Truth],
    candidates: Sequence[float],
    features: Callable[[Sequence[str]], Any],
) -> tuple[float, float]:
    """Return the (C, threshold) with the most exact sets on validation."""
    found = []
    for c in candidates:
        p_NO = Regressions.fit(train, c, features).chances(_tasks(validation))
        threshold = tune_threshold(p_NO, validation)
        found.append((exact_share(to_answers(p_NO, threshold), validation), c, threshold))
    _, c, threshold = max(found)
    return c, threshold


def fine_tuned_minilm(train: Sequence[Truth], validation: Sequence[Truth]) -> Predictor:
    """Answer with the encoder trained end to end for four epochs; it says nothing of the place."""
    return fine_tuned_minilm_at(RATE, train, validation)[1]


def fine_tuned_minilm_at(
    rate: float, train: Sequence[Truth], validation: Sequence[Truth]
) -> tuple[float, Predictor]:
    """Return the exact-set share on validation at this rate, and the predictor."""
    predict = minilm.fine_tune(
        _tasks(train), membership(train), epochs=EPOCHS, rate=rate, seed=SEED
    )
    p_NO = predict(_tasks(validation))
    threshold = tune_threshold(p_NO, validation)
    share = exact_share(to_answers(p_NO, threshold), validation)
    return share, lambda tasks: to_answers(predict(tasks), threshold)


BASELINES: dict[str, Fit] = {
    "majority": majority,
    "keyword rules": keyword_rules,
    "capability text": capability_text,
    "TF-IDF + regression": tfidf,
    "MiniLM frozen + regression": frozen_minilm,
    "MiniLM fine-tuned": fine_tuned_minilm,
}
# Those also shown with the training rows of the scenarios' authors alone, without our additions.
ALSO_WITHOUT_ADDITIONS = ("TF-IDF + regression", "MiniLM fine-tuned")


def answer_all(tasks: Sequence[str], cache: Path = CACHE) -> dict[str, list[Answer]]:
    """Fit every baseline and return its answers to these tasks, by name.

    Fits are kept in `cache` by a hash of their code and of everything that goes in.
    """
    train, validation = text_truths("train"), text_truths("validation")
    authored = [truth for truth in train if not is_addition(truth.id)]
    found = {}
    for name, fit in BASELINES.items():
        found[name] = cached(name, fit, train, validation, tasks, cache)
        if name in ALSO_WITHOUT_ADDITIONS and len(authored) < len(train):
            label = f"{name}, authors' rows only"
            found[label] = cached(name, fit, authored, validation, tasks, cache)
    return found


def cached(
    name: str,
    fit: Fit,
    train: Sequence[Truth],
    validation: Sequence[Truth],
    tasks: Sequence[str],
    folder: Path = CACHE,
) -> list[Answer]:
    """Return what the baseline answers, from `folder` if the same was asked before."""
    code = [(Path(__file__).parent / file).read_text("utf-8") for file in _CODE]
    rows = [(t.task, t.robots, t.primary, t.environment) for t in (*train, *validation)]
    asked = [name, code, len(train), rows, list(tasks)]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:20]
    kept = folder / f"{digest}.json"
    if kept.is_file():
        return [
            Answer(tuple(robots), primary, environment)
            for robots, primary, environment in json.loads(kept.read_text("utf-8"))
        ]
    answers = fit(train, validation)(tasks)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_suffix(".unfinished")
    content = [(answer.robots, answer.primary, answer.environment) for answer in answers]
    unfinished.write_text(json.dumps(content), "utf-8")
    unfinished.replace(kept)
    return answers


def cached_learner(
    name: str, learn: Callable[[Sequence[Truth], Sequence[str]], list[Answer]]
) -> Callable[[Sequence[Truth], Sequence[str]], list[Answer]]:
    """Return `learn`, a function of training truths and tasks, with its answers kept."""

    def fit(train: Sequence[Truth], validation: Sequence[Truth]) -> Predictor:
        return lambda tasks: learn(train, tasks)

    return lambda train, tasks: cached(f"folds {name}", fit, train, [], tasks)


def membership(truths: Sequence[Truth]) -> Floats:
    """Return (N, O): 1.0 where the outcome is in the set."""
    return np.array([[float(o in truth.robots) for o in _OUTCOMES] for truth in truths])


def to_answers(p_NO: Floats, threshold: float, places: Sequence[str] | None = None) -> list[Answer]:
    """Turn chances into answers by the rule at the top; the likeliest robot is the first."""
    answers = []
    for i, p_O in enumerate(p_NO):
        order = [int(o) for o in np.argsort(-p_O, kind="stable")]
        none = len(_OUTCOMES) - 1
        chosen = [o for o in order if o == order[0] or (p_O[o] >= threshold and o != none)]
        chosen = chosen[:1] if order[0] == none else chosen
        robots = tuple(_OUTCOMES[o] for o in chosen)
        answers.append(Answer(robots, robots[0], places[i] if places is not None else None))
    return answers


def tune_threshold(p_NO: Floats, truths: Sequence[Truth]) -> float:
    """Return the threshold with the most exact sets; of equals the middle one."""
    shares = [exact_share(to_answers(p_NO, threshold), truths) for threshold in THRESHOLDS]
    best = [t for t, share in zip(THRESHOLDS, shares, strict=True) if share == max(shares)]
    return best[len(best) // 2]


def exact_share(answers: Sequence[Answer], truths: Sequence[Truth]) -> float:
    """Return the share of answers whose set is the true one."""
    right = [exact(a.robots, t.robots) for a, t in zip(answers, truths, strict=True)]
    return sum(right) / len(right)


def _tasks(truths: Sequence[Truth]) -> list[str]:
    return [truth.task for truth in truths]


def main() -> None:
    """Print the validation share of each rate of fine-tuning."""
    train, validation = text_truths("train"), text_truths("validation")
    for rate in RATES:
        share, _ = fine_tuned_minilm_at(rate, train, validation)
        sys.stdout.write(f"rate {rate:g}: exact set {share:.4f} on validation\n")


if __name__ == "__main__":
    main()
