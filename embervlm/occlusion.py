"""Which parts of a photo an answer depends on: cover each part and ask again.

    found = cover_parts(selector, Scenario(task="find the sensor", image="seabed.jpg"))
    found.drops          # (6, 6): how far the answer's chance falls when that part is covered

The network that ships pools a photo into one vector, so it has no attention over places to show.
What can be had of any network is measured: a window slides over the photo and paints it with the
photo's mean colour (Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks",
section 4.2, occlusion sensitivity). It takes as many decisions as there are windows, and one more.

Axes: C channels, H height, W width, G grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embervlm.fleet import NO_ROBOT, Fleet
from embervlm.imaging import KEPT_SIDES, load_image, preprocess
from embervlm.scenario import Scenario
from embervlm.selector import Selector

GRID = 6
# A window is this many cells wide and moves one cell at a time, so cells share windows.
WINDOW = 2


@dataclass(frozen=True)
class Occlusion:
    """What covering the parts of a photo does to the network's answer, before rules and lessons.

    `robots` is that answer, of the default fleet, `chance` its probability with the whole photo.
    `drops`, (GRID, GRID) from the top left of the square at the photo's centre which the network
    reads: the mean fall of that probability over the windows that cover the cell; below 0 where the
    answer gets likelier.
    """

    robots: tuple[str, ...]
    chance: float
    drops: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "robots": list(self.robots),
            "chance": round(self.chance, 4),
            "drops": [[round(float(drop), 4) for drop in row] for row in self.drops],
        }


def cover_parts(selector: Selector, scenario: Scenario) -> Occlusion:
    """Measure which parts of a scenario's photo the network's answer depends on.

    Raises:
        ValueError: there is no photo, or it cannot be read.
    """
    if scenario.image is None:
        raise ValueError("There is no photo to cover parts of; give one.")
    backend, temperature = selector.backend, selector.calibration.temperature
    task = selector.as_meant(scenario)[0].task
    side = backend.image_size
    pixels_CHW = preprocess(load_image(scenario.image, shortest_px=KEPT_SIDES * side), side)

    def chances(pixels_CHW: NDArray[np.float32]) -> NDArray[np.float64]:
        logits = backend.propose(task, pixels_CHW).subsets / temperature
        powers = np.exp((logits - logits.max()).astype(np.float64))
        shares: NDArray[np.float64] = powers / powers.sum()
        return shares

    whole = chances(pixels_CHW)
    best = int(whole.argmax())
    mean_C11 = pixels_CHW.mean((1, 2), keepdims=True)
    edges = np.linspace(0, side, GRID + 1).round().astype(int)
    total_GG, covered_GG = np.zeros((GRID, GRID)), np.zeros((GRID, GRID))
    for row in range(GRID - WINDOW + 1):
        for column in range(GRID - WINDOW + 1):
            top, bottom = edges[row], edges[row + WINDOW]
            left, right = edges[column], edges[column + WINDOW]
            other_CHW = pixels_CHW.copy()
            other_CHW[:, top:bottom, left:right] = mean_C11
            cells = slice(row, row + WINDOW), slice(column, column + WINDOW)
            total_GG[cells] += whole[best] - chances(other_CHW)[best]
            covered_GG[cells] += 1
    names = [name for r, name in enumerate(Fleet.default().names) if best >> r & 1]
    return Occlusion(tuple(names or [NO_ROBOT]), float(whole[best]), total_GG / covered_GG)
