"""Covering parts of a photo finds the part that a network goes by, and none where there is none."""

import io
from dataclasses import dataclass, replace

import numpy as np
import pytest
from opinion import DIVER, DRONE, Opinion
from PIL import Image

from embervlm.backends.base import Array, Proposal
from embervlm.occlusion import GRID, WINDOW, cover_parts
from embervlm.scenario import Scenario
from embervlm.selector import Selector

DIVER_NUMBER = 1 << 1


@dataclass
class LooksAtCorner(Opinion):
    """Says the diver the surer the brighter the cell at the top left is, else the drone."""

    image_size: int = 60
    asked: int = 0

    def propose(self, task: str | None, pixels_CHW: Array | None) -> Proposal:
        assert pixels_CHW is not None
        self.asked += 1
        subsets = np.full(32, -20.0, np.float32)
        subsets[DIVER_NUMBER] = 4 * pixels_CHW[:, :10, :10].mean()
        subsets[1] = 0.0
        return replace(super().propose(task, pixels_CHW), subsets=subsets)


def photo(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint8))


def bright_corner() -> Image.Image:
    pixels = np.full((60, 60, 3), 20)
    pixels[:10, :10] = 250
    return photo(pixels)


def test_the_part_that_the_answer_depends_on_stands_out() -> None:
    selector = Selector(LooksAtCorner({frozenset({DRONE}): 1.0}))
    found = cover_parts(selector, Scenario("look", _bytes(bright_corner())))
    assert found.robots == (DIVER,)
    assert found.chance == pytest.approx(1 / (1 + np.exp(-4 * (250 - 128) / 128)), abs=1e-3)
    assert np.unravel_index(found.drops.argmax(), found.drops.shape) == (0, 0)
    # Only the first window covers that cell; its neighbours share that window with others.
    assert found.drops[0, 0] > 0.5
    assert found.drops[WINDOW:, WINDOW:] == pytest.approx(0)


def test_nothing_stands_out_in_a_photo_of_one_colour() -> None:
    selector = Selector(LooksAtCorner({frozenset({DRONE}): 1.0}))
    found = cover_parts(selector, Scenario("look", _bytes(photo(np.full((80, 60, 3), 200)))))
    assert found.drops == pytest.approx(0, abs=1e-6)


def test_takes_a_decision_for_each_window_and_one_more() -> None:
    backend = LooksAtCorner()
    cover_parts(Selector(backend), Scenario(None, _bytes(bright_corner())))
    assert backend.asked == (GRID - WINDOW + 1) ** 2 + 1


def test_words_alone_have_no_parts_to_cover() -> None:
    with pytest.raises(ValueError, match="no photo"):
        cover_parts(Selector(Opinion()), Scenario("look"))


def _bytes(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
