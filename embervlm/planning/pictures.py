"""A plan as a picture: who does what when (a Gantt chart), and below it what waits for what.

One list of shapes is drawn twice, as SVG text and, by Pillow, as PNG. Colours are those of Okabe
and Ito (2008), which people with colour-blindness tell apart; every bar carries its step's number
too. Names and steps are a stranger's words: they are escaped, and cut to their place.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from embervlm.planning import graph
from embervlm.scenario import Plan, Subtask

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_NOBODY = "#BBBBBB"
_INK, _PALE = "#222222", "#DDDDDD"
_DARK = ("#0072B2", "#009E73", "#D55E00")

_WIDTH, _MARGIN, _ROW, _LABEL = 960, 24, 34, 190
_NODE_WIDTH, _NODE_HEIGHT, _FONT = 190, 50, 13
_LETTER = 0.56  # mean width of a letter, of its size
_SCALE = 2  # pixels of the PNG for one unit


@dataclass(frozen=True)
class _Box:
    x: float
    y: float
    width: float
    height: float
    fill: str
    outline: str = ""


@dataclass(frozen=True)
class _Line:
    x1: float
    y1: float
    x2: float
    y2: float
    colour: str = _INK
    is_arrow: bool = False


@dataclass(frozen=True)
class _Text:
    x: float
    y: float
    words: str
    colour: str = _INK
    size: int = _FONT
    is_centred: bool = False


_Shape = _Box | _Line | _Text


def draw(plan: Plan | Sequence[Subtask], path: str | Path, *, title: str = "") -> None:
    """Write a plan's picture to a file that ends in .svg or .png.

    Raises:
        ValueError: the plan has no steps, or the file another ending.
    """
    path = Path(path)
    if path.suffix.lower() == ".svg":
        path.write_text(svg(plan, title=title), "utf-8")
    elif path.suffix.lower() == ".png":
        path.write_bytes(png(plan, title=title))
    else:
        raise ValueError(f"{path} ends in {path.suffix!r}; a picture ends in .svg or .png.")


def svg(plan: Plan | Sequence[Subtask], *, title: str = "") -> str:
    """Return a plan's picture as the text of an SVG file."""
    shapes, width, height = _shapes(plan, title)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="DejaVu Sans, Verdana, sans-serif">',
        f"<title>{escape(_clean(title) or 'Plan')}</title>",
        f'<rect width="{width:g}" height="{height:g}" fill="white"/>',
    ]
    for shape in shapes:
        if isinstance(shape, _Box):
            edge = f' stroke="{shape.outline}" stroke-width="1.5"' if shape.outline else ""
            lines.append(
                f'<rect x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" '
                f'height="{shape.height:.1f}" rx="3" fill="{shape.fill}"{edge}/>'
            )
        elif isinstance(shape, _Line):
            lines.append(
                f'<line x1="{shape.x1:.1f}" y1="{shape.y1:.1f}" x2="{shape.x2:.1f}" '
                f'y2="{shape.y2:.1f}" stroke="{shape.colour}"/>'
            )
            if shape.is_arrow:
                points = " ".join(f"{x:.1f},{y:.1f}" for x, y in _head(shape))
                lines.append(f'<polygon points="{points}" fill="{shape.colour}"/>')
        else:
            anchor = ' text-anchor="middle"' if shape.is_centred else ""
            lines.append(
                f'<text x="{shape.x:.1f}" y="{shape.y:.1f}" font-size="{shape.size}" '
                f'fill="{shape.colour}"{anchor}>{escape(shape.words)}</text>'
            )
    return "\n".join([*lines, "</svg>", ""])


def png(plan: Plan | Sequence[Subtask], *, title: str = "") -> bytes:
    """Return a plan's picture as the bytes of a PNG file."""
    from PIL import Image, ImageDraw, ImageFont

    shapes, width, height = _shapes(plan, title)
    image = Image.new("RGB", (round(width * _SCALE), round(height * _SCALE)), "white")
    pen = ImageDraw.Draw(image)
    for shape in shapes:
        if isinstance(shape, _Box):
            corners = (shape.x, shape.y, shape.x + shape.width, shape.y + shape.height)
            pen.rounded_rectangle(
                [c * _SCALE for c in corners],
                radius=3 * _SCALE,
                fill=shape.fill,
                outline=shape.outline or None,
                width=3,
            )
        elif isinstance(shape, _Line):
            ends = (shape.x1, shape.y1, shape.x2, shape.y2)
            pen.line([c * _SCALE for c in ends], fill=shape.colour, width=_SCALE)
            if shape.is_arrow:
                pen.polygon([(x * _SCALE, y * _SCALE) for x, y in _head(shape)], fill=shape.colour)
        else:
            pen.text(
                (shape.x * _SCALE, shape.y * _SCALE),
                shape.words,
                fill=shape.colour,
                font=ImageFont.load_default(shape.size * _SCALE),
                anchor="ms" if shape.is_centred else "ls",
            )
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _shapes(plan: Plan | Sequence[Subtask], title: str) -> tuple[list[_Shape], float, float]:
    """Return what is drawn, and how wide and high it all is."""
    steps = plan.steps if isinstance(plan, Plan) else tuple(plan)
    if not steps:
        raise ValueError("There is nothing to draw: the plan has no steps.")
    names = list(dict.fromkeys(step.robot for step in steps if step.robot is not None))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    shapes: list[_Shape] = []
    y = float(_MARGIN)
    if _clean(title):
        shapes.append(_Text(_MARGIN, y + 14, _cut(title, _WIDTH - 2 * _MARGIN, 16), size=16))
        y += 34
    y = _chart(shapes, steps, colours, y)
    width, y = _graph(shapes, steps, colours, y + 24)
    return shapes, max(_WIDTH, width), y + _MARGIN


def _chart(
    shapes: list[_Shape], steps: Sequence[Subtask], colours: dict[str, str], top: float
) -> float:
    """Add a row a robot with its bars, and the minutes below; return where it ends."""
    spans = _spans(steps)
    is_timed = any(step.start_min is not None for step in steps)
    units = sorted(
        {(step.robot, step.unit) for step in steps if step.robot is not None},
        key=lambda unit: (list(colours).index(unit[0]), unit[1]),
    )
    last = max([end for _, end in spans.values()], default=1.0) or 1.0
    left, room = _MARGIN + _LABEL, _WIDTH - 2 * _MARGIN - _LABEL
    tick = _tick(last)
    bottom = top + _ROW * len(units)
    minutes = 0.0
    while is_timed and units and minutes <= last + 1e-9:
        x = left + room * minutes / last
        shapes.append(_Line(x, top, x, bottom + 5, _PALE))
        shapes.append(_Text(x, bottom + 20, f"{minutes:g} min", size=11, is_centred=True))
        minutes += tick
    for row, (name, unit) in enumerate(units):
        y = top + _ROW * row
        label = f"{name} {unit}" if unit > 1 else name
        shapes.append(_Text(_MARGIN, y + 22, _cut(label, _LABEL - 10)))
        for i, step in enumerate(steps):
            if (step.robot, step.unit) != (name, unit) or i not in spans:
                continue
            begin, end = spans[i]
            x, width = left + room * begin / last, max(3.0, room * (end - begin) / last)
            # A white edge parts bars that follow one another.
            shapes.append(_Box(x, y + 5, width, _ROW - 10, colours[name], "#FFFFFF"))
            words = _cut(f"{i + 1} {step.subtask}", width - 8)
            ink = "#FFFFFF" if colours[name] in _DARK else _INK
            if words:
                shapes.append(_Text(x + 5, y + 22, words, ink))
    return bottom + (26 if is_timed and units else 0)


def _graph(
    shapes: list[_Shape], steps: Sequence[Subtask], colours: dict[str, str], top: float
) -> tuple[float, float]:
    """Add a box a step, arrows to those that wait for it; return how wide and high it reaches."""
    links = graph.reduced([step.after for step in steps])
    column: list[int] = [0] * len(steps)
    for i in graph.order(links):
        column[i] = max((column[j] + 1 for j in links[i]), default=0)
    filled = [0] * (max(column) + 1)
    spots = []
    for i in range(len(steps)):
        gap = _NODE_WIDTH + 46
        spots.append((_MARGIN + gap * column[i], top + (_NODE_HEIGHT + 16) * filled[column[i]]))
        filled[column[i]] += 1
    half = _NODE_HEIGHT / 2
    for i, before in enumerate(links):
        for j in before:
            (x1, y1), (x2, y2) = spots[j], spots[i]
            shapes.append(_Line(x1 + _NODE_WIDTH, y1 + half, x2 - 2, y2 + half, is_arrow=True))
    for i, step in enumerate(steps):
        x, y = spots[i]
        edge = _NOBODY if step.robot is None else colours[step.robot]
        shapes.append(_Box(x, y, _NODE_WIDTH, _NODE_HEIGHT, "#FFFFFF", edge))
        shapes.append(_Box(x, y, 8, _NODE_HEIGHT, edge))
        room = _NODE_WIDTH - 24
        shapes.append(_Text(x + 16, y + 20, _cut(f"{i + 1} {step.subtask}", room)))
        who = step.robot or "nobody"
        who = f"{who} {step.unit}" if step.unit > 1 else who
        shapes.append(
            _Text(x + 16, y + 39, _cut(f"{who}, done" if step.done else who, room), size=11)
        )
    height = max(y for _, y in spots) + _NODE_HEIGHT
    return max(x for x, _ in spots) + _NODE_WIDTH + _MARGIN, height


def _spans(steps: Sequence[Subtask]) -> dict[int, tuple[float, float]]:
    """Return when each step begins and ends; one behind the other if they have no times."""
    spans: dict[int, tuple[float, float]] = {}
    if any(step.start_min is not None for step in steps):
        for i, step in enumerate(steps):
            if step.start_min is not None and step.duration_min is not None and not step.done:
                spans[i] = (step.start_min, step.start_min + step.duration_min)
        return spans
    free: dict[tuple[str, int], float] = {}
    for i in graph.order([step.after for step in steps]):
        step = steps[i]
        if step.robot is not None:
            unit = (step.robot, step.unit)
            begin = max([free.get(unit, 0.0), *(spans[j][1] for j in step.after if j in spans)])
            spans[i] = (begin, begin + 1)
            free[unit] = begin + 1
    return spans


def _tick(last: float) -> float:
    """Return the distance of marks, of which at most about eight fit."""
    size = 1.0
    while True:
        for step in (1, 2, 5):
            if last / (size * step) <= 8:
                return size * step
        size *= 10


def _head(line: _Line) -> list[tuple[float, float]]:
    """Return the corners of an arrow's head."""
    dx, dy = line.x2 - line.x1, line.y2 - line.y1
    length = max(1e-9, (dx * dx + dy * dy) ** 0.5)
    dx, dy = dx / length, dy / length
    x, y = line.x2 - 9 * dx, line.y2 - 9 * dy
    return [(line.x2, line.y2), (x - 4 * dy, y + 4 * dx), (x + 4 * dy, y - 4 * dx)]


def _clean(words: str) -> str:
    """Return words on one line, without characters that no file of this kind may hold."""
    return "".join(c for c in " ".join(words.split()) if c.isprintable())


def _cut(words: str, width: float, size: int = _FONT) -> str:
    """Return as much of the words as fits."""
    words, most = _clean(words), int(width / (size * _LETTER))
    if len(words) <= most:
        return words
    return words[: most - 1].rstrip() + "…" if most > 2 else words[:most]
