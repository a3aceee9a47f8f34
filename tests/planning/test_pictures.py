"""Pictures of plans: every step and robot is in them, and nobody's words become markup."""

import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from embervlm.fleet import Fleet
from embervlm.planning import Step, allocate
from embervlm.planning.pictures import draw, png, svg
from embervlm.scenario import Needs, Subtask

TEXT = "{http://www.w3.org/2000/svg}text"


def words_of(text: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(text).iter(TEXT)]


@pytest.mark.parametrize("count", [1, 3, 12])
def test_every_step_and_its_robot_are_drawn(count: int) -> None:
    steps = [
        Step(f"look {i}", Needs(("look",)), (i - 1,) if i % 3 else (), minutes=5.0 + i)
        for i in range(count)
    ]
    plan = allocate(Fleet.default(), steps)
    words = words_of(svg(plan, title="Look"))
    assert "Look" in words
    for i in range(count):
        assert f"{i + 1} look {i}" in words
    assert any(word.endswith(" min") for word in words)
    image = Image.open(io.BytesIO(png(plan)))
    assert image.width >= 1920
    assert len(image.convert("RGB").getcolors(1 << 20) or []) > 3


def test_words_of_strangers_are_escaped_and_cut() -> None:
    evil = '</text><script>alert("1")</script>\x00\x1b[31m' + "x" * 500
    plan = [Subtask(evil, '<b>&"', unit=2), Subtask("b", None, (0,), why="Nobody can do it.")]
    text = svg(plan, title=evil)
    assert "<script" not in text
    assert "<b>" not in text
    assert "\x00" not in text
    assert "\x1b" not in text
    assert max(len(word) for word in words_of(text)) < 200
    assert "nobody" in words_of(text)
    assert '<b>&" 2' in words_of(text)
    png(plan, title=evil)


def test_writes_by_the_ending_of_the_name(tmp_path: Path) -> None:
    plan = [Subtask("look", "Drone")]
    draw(plan, tmp_path / "plan.svg")
    draw(plan, tmp_path / "plan.PNG")
    assert (tmp_path / "plan.svg").read_text("utf-8").startswith("<svg")
    assert Image.open(tmp_path / "plan.PNG").format == "PNG"
    with pytest.raises(ValueError, match=r"ends in '.pdf'"):
        draw(plan, tmp_path / "plan.pdf")
    with pytest.raises(ValueError, match="the plan has no steps"):
        svg([])
