"""Is it as good in one place, and on requests and photos of one source, as in another?

    rows = fairness_rows(answered, place_of)
    rows["worst: rough, best: underwater"]["gap"]      # Figure(value=0.21, low=0.15, ...)

The share of exactly right sets of each group, and how far the worst lies below the best. Of many
small groups some are far apart by chance alone, so beside the gap stands the mean gap of the same
rows under shuffled groups, and how often that is as large (a permutation test: Good 2005,
"Permutation, Parametric and Bootstrap Tests of Hypotheses", 3.2). The bootstrap interval of a
largest gap lies too high for the same reason; the permutation is what to judge by.

Axes: N rows, G groups, B resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from embervlm.data.photos import load_sources
from embervlm.evaluation.cases import SEED, Answered
from embervlm.evaluation.metrics import (
    RESAMPLES,
    Figure,
    Floats,
    Rows,
    figure,
    resampling_weights,
    share,
)
from embervlm.scoring import exact

# A smaller group is shown, but is no candidate for the best or the worst.
SMALLEST = 15
_UNSURE = float("nan")


def fairness_tables(
    requests: Sequence[Answered], photos: Sequence[Answered], photos_dir: Path | None
) -> dict[str, Rows]:
    """Return the tables of a report: requests by place and by who wrote them, photos by place and
    by source; those of photos only where there are photos."""
    tables = {
        "exact sets by place": fairness_rows(requests, place_of),
        "exact sets by batch of requests": fairness_rows(requests, batch_of),
    }
    if photos and photos_dir is not None:
        sources = load_sources(photos_dir)
        tables["photo requests by place"] = fairness_rows(photos, place_of)
        tables["photo requests by source of the photo"] = fairness_rows(
            photos, lambda one: source_of(one, photos_dir, sources)
        )
    return tables


def fairness_rows(
    answered: Sequence[Answered], group_of: Callable[[Answered], str], seed: int = SEED
) -> Rows:
    """Return each group's exact sets, the worst first, then the gap between worst and best.

    `gap` = max over groups of the share right - min over groups, of groups of `SMALLEST` rows or
    more; `gap_by_chance` its mean over shuffled groups; `p_gap` = (1 + shuffles with a gap as
    large) / (1 + shuffles). Without two such groups there is no gap.
    """
    groups = [group_of(one) for one in answered]
    right_N = np.array(
        [exact(one.decision.robots, one.case.truth.robots) for one in answered], dtype=np.float64
    )
    clusters = [one.case.truth.pair or one.case.truth.id for one in answered]
    rows: Rows = {}
    counts = Counter(groups)
    shares = dict.fromkeys(counts, 0.0)
    for name in counts:
        held = [i for i, group in enumerate(groups) if group == name]
        found = share([bool(right_N[i]) for i in held], [clusters[i] for i in held], seed=seed)
        shares[name] = found.value
        rows[name] = {"exact_set": found}
    rows = {name: rows[name] for name in sorted(rows, key=lambda name: (shares[name], name))}
    large = [name for name in rows if counts[name] >= SMALLEST]
    if len(large) > 1:
        member_NG = np.array([[group == name for name in large] for group in groups], dtype=float)
        weights_BN = resampling_weights(clusters, RESAMPLES, seed)
        samples_B = _gaps(weights_BN * right_N, weights_BN, member_NG)
        observed = float(_gaps(right_N[None], np.ones((1, len(right_N))), member_NG)[0])
        shuffled_B = shuffled_gaps(right_N, member_NG, seed)
        p = (1 + int((shuffled_B >= observed - 1e-12).sum())) / (1 + len(shuffled_B))
        n = int(member_NG.sum())
        rows[f"worst: {large[0]}, best: {large[-1]}"] = {
            "gap": figure(observed, samples_B, n),
            "gap_by_chance": Figure(float(shuffled_B.mean()), _UNSURE, _UNSURE, n),
            "p_gap": Figure(p, _UNSURE, _UNSURE, n),
        }
    return rows


def shuffled_gaps(right_N: Floats, member_NG: Floats, seed: int, shuffles: int = 1000) -> Floats:
    """Return the gap after each shuffle of the rows' rightness over the groups, (B,)."""
    generator = np.random.default_rng(seed)
    right_BN = np.stack([generator.permutation(right_N) for _ in range(shuffles)])
    return _gaps(right_BN, np.ones_like(right_BN), member_NG)


def place_of(one: Answered) -> str:
    """Return the true environment of a case, as words."""
    return (one.case.truth.environment or "unknown").replace("_", " ")


def batch_of(one: Answered) -> str:
    """Return which batch a request was written in: what its id begins with (data/README.md)."""
    return one.case.truth.id.partition("-")[0]


def source_of(one: Answered, photos_dir: Path, sources: Mapping[str, str]) -> str:
    """Return where a case's photo comes from, "unknown" of a photo that the manifest lacks."""
    file = Path(str(one.case.scenario.image)).relative_to(photos_dir).as_posix()
    return sources.get(file, "unknown")


def _gaps(right_BN: Floats, weights_BN: Floats, member_NG: Floats) -> Floats:
    """Return (B,) the largest share less the smallest; a group that was not drawn is left out."""
    drawn_BG = weights_BN @ member_NG
    shares_BG = np.divide(
        right_BN @ member_NG, drawn_BG, out=np.full(drawn_BG.shape, np.nan), where=drawn_BG > 0
    )
    gap_B: Floats = np.nanmax(shares_BG, axis=1) - np.nanmin(shares_BG, axis=1)
    return gap_B
