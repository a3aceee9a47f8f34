"""What the figures look like: confusion matrices, reliability, risk, intervals, a run's curves.

    draw_confusion(first_robot_confusion(answers, truths, outcomes), outcomes, Path("first.png"))

A path that names no kind of file (`Path("first")`) gives both first.png and first.svg.

One quiet style: blue, orange and green that colour-blind people tell apart, and another mark for
each; numbers in the cells, no frames, no grid where the numbers are to be read. Every formula is
one of `metrics.py` or `reliability.py`; here it is only drawn.

Axes: O outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from embervlm.evaluation.metrics import CalibrationBin

Counts = NDArray[np.int64]
INK, GREY, BLUE, RED, GREEN = "#1f2933", "#9aa5b1", "#2b6cb0", "#c05621", "#00866a"
# A figure as a report holds it: "value", "low", "high" and "n".
Shown = Mapping[str, float | int | None]
_BLUES = LinearSegmentedColormap.from_list("quiet", ["#f7fafc", BLUE])
_WORDS: dict[str, Any] = {"color": INK, "fontsize": 9}


def draw_confusion(counts_OO: Counts, outcomes: Sequence[str], path: Path, title: str) -> None:
    """Write the confusion of the first robot: counts in the cells, shares of each row as shade."""
    picture, axes = _Sheet((5.2, 4.6), left=1.75, bottom=0.85, top=0.6).panels(1, 1)
    ax = axes[0]
    shares_OO = counts_OO / np.maximum(counts_OO.sum(1, keepdims=True), 1)
    _cells(ax, shares_OO, [[f"{n:,}" if n else "" for n in row] for row in counts_OO])
    names = [name.replace(" ", "\n", 1) for name in outcomes]
    ax.set_xticks(range(len(outcomes)), names, rotation=0, **_WORDS)
    ax.set_yticks(
        range(len(outcomes)),
        [f"{name}\n{n:,}" for name, n in zip(outcomes, counts_OO.sum(1), strict=True)],
        **_WORDS,
    )
    ax.set_xlabel("answered first", labelpad=10, **_WORDS)
    ax.set_ylabel("truly first, and how often", labelpad=10, **_WORDS)
    right = int(np.trace(counts_OO))
    _title(ax, title, f"{right:,} of {counts_OO.sum():,} right; shade: share of the row")
    _save(picture, path)


def draw_presence(counts_O22: Counts, outcomes: Sequence[str], path: Path, title: str) -> None:
    """Write for each outcome how often it is in the true set and in the answered one."""
    columns = -(-len(outcomes) // 2)
    sheet = _Sheet((2.1, 2.1), left=1.0, bottom=0.4, top=1.0, between=(0.15, 0.75))
    picture, axes = sheet.panels(2, columns)
    for ax in axes[len(outcomes) :]:
        ax.set_visible(False)
    for o, (ax, name) in enumerate(zip(axes, outcomes, strict=False)):
        counts_22 = counts_O22[o]
        shares_22 = counts_22 / np.maximum(counts_22.sum(1, keepdims=True), 1)
        _cells(ax, shares_22, [[f"{n:,}" for n in row] for row in counts_22])
        below = ["not sent", "sent"] if o + columns >= len(outcomes) else ["", ""]
        ax.set_xticks([0, 1], below, **_WORDS)
        labels = ["not wanted", "wanted"] if o % columns == 0 else ["", ""]
        ax.set_yticks([0, 1], labels, **_WORDS)
        said, true = counts_22[:, 1].sum(), counts_22[1].sum()
        precision = f"{counts_22[1, 1] / said:.2f}" if said else "none"
        recall = f"{counts_22[1, 1] / true:.2f}" if true else "none"
        _title(ax, name, f"precision {precision}, recall {recall}", size=10)
    _heading(picture, title)
    _save(picture, path)


def draw_reliability(bins: Sequence[CalibrationBin], error: float, path: Path, title: str) -> None:
    """Write how often answers of each confidence are right; on the diagonal it means what it
    says."""
    picture, axes = _Sheet((4.2, 4.2), left=0.8, bottom=0.7, top=0.6).panels(1, 1)
    ax = axes[0]
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for one in bins:
        ax.plot(
            [one.confidence] * 2, [one.confidence, one.right], color=RED, linewidth=1.2, zorder=2
        )
    ax.plot(
        [one.confidence for one in bins],
        [one.right for one in bins],
        color=BLUE, marker="o", markersize=5, linewidth=1, zorder=3,
    )  # fmt: skip
    ax.set_xlim(0, 1.02), ax.set_ylim(0, 1.02)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    for set_ticks in (ax.set_xticks, ax.set_yticks):
        set_ticks(ticks, [f"{tick:.0%}" for tick in ticks], **_WORDS)
    ax.set_aspect("equal")
    ax.set_xlabel("confidence, mean of a bin", labelpad=8, **_WORDS)
    ax.set_ylabel("share of exactly right sets", labelpad=8, **_WORDS)
    rows = sum(one.n for one in bins)
    _title(ax, title, f"calibration error {error:.3f} over {rows:,} answers in {len(bins)} bins")
    _save(picture, path)


def draw_risk_coverage(
    points: Sequence[tuple[float, float]], area: float, best_area: float, path: Path, title: str
) -> None:
    """Write how wrong the answers are that are kept, against how many: (coverage, risk) pairs."""
    picture, axes = _Sheet((4.6, 3.6), left=0.8, bottom=0.7, top=0.6).panels(1, 1)
    ax = axes[0]
    coverage, risk = zip(*points, strict=True)
    ax.plot([0, 1], [risk[-1]] * 2, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    ax.text(0.02, risk[-1], "in any order", va="bottom", color=INK, fontsize=8)
    ax.plot(coverage, risk, color=BLUE, linewidth=1.6, zorder=3)
    for limit, colour, mark in ((0.01, GREEN, "D"), (0.05, BLUE, "o"), (0.10, RED, "s")):
        kept = max((c for c, r in points if r <= limit), default=0.0)
        ax.plot([kept], [limit], color=colour, marker=mark, markersize=6, zorder=4, clip_on=False)
        aside, align = ((-8, 5), "right") if kept > 0.3 else ((8, -5), "left")
        ax.annotate(
            f"{kept:.0%} at {limit:.0%}", (kept, limit), xytext=aside,
            textcoords="offset points", ha=align, color=colour, fontsize=8,
        )  # fmt: skip
    ax.set_xlim(0, 1.0), ax.set_ylim(0, max(0.12, *risk) * 1.1)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"], **_WORDS)
    ticks = [tick for tick in ax.get_yticks() if 0 <= tick <= ax.get_ylim()[1]]
    ax.set_yticks(ticks, [f"{tick:.0%}" for tick in ticks], **_WORDS)
    ax.spines[["left", "bottom"]].set_visible(True)
    ax.set_xlabel("coverage: share of requests kept, the surest first", labelpad=8, **_WORDS)
    ax.set_ylabel("risk: wrong sets among them", labelpad=8, **_WORDS)
    _title(
        ax, title, f"mean risk (area) {area:.3f}; with the best order it would be {best_area:.3f}"
    )
    _save(picture, path)


def draw_per_robot(figures: Mapping[str, Mapping[str, Shown]], path: Path, title: str) -> None:
    """Write for each outcome a mark and its interval for each of at most three figures, shares."""
    height = 0.55 * len(figures)
    picture, axes = _Sheet((4.6, height), left=1.75, bottom=0.7, top=0.75).panels(1, 1)
    ax = axes[0]
    styles = ((BLUE, "o"), (RED, "s"), (GREEN, "D"))
    names = list(next(iter(figures.values())))
    for y, row in enumerate(figures.values()):
        for (name, one), (colour, mark), off in zip(
            row.items(), styles, (-0.22, 0.0, 0.22), strict=False
        ):
            _mark(ax, one, y + off, colour, mark, name if y == 0 else None)
    ax.set_yticks(range(len(figures)), list(figures), **_WORDS)
    ax.set_ylim(len(figures) - 0.5, -0.5)
    for y in range(1, len(figures)):
        ax.axhline(y - 0.5, color="#e4e7eb", linewidth=0.8, zorder=0)
    lows = [one["low"] or 0.0 for row in figures.values() for one in row.values()]
    _share_axis(ax, "share; the line is the 95 % interval", 0.5 if min(lows) > 0.52 else 0.0)
    ax.set_title(f"{title}\n", loc="left", color=INK, fontsize=12)
    ax.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 0.985), ncols=len(names), frameon=False,
        fontsize=8, handletextpad=0.2, columnspacing=1.2, labelcolor=INK,
    )  # fmt: skip
    _save(picture, path)


def draw_bars(figures: Mapping[str, Shown], path: Path, title: str, what: str) -> None:
    """Write one bar for each name, with its interval and n; `what` names the figure, a share."""
    picture, axes = _Sheet(
        (4.0, 0.36 * len(figures)), left=2.9, bottom=0.7, top=0.5, right=0.6
    ).panels(1, 1)
    ax = axes[0]
    for y, one in enumerate(figures.values()):
        value = one["value"] or 0.0
        ax.barh(y, value, height=0.62, color="#bcd3ea", zorder=1)
        _mark(ax, one, y, BLUE, "o")
        edge = max(value, one["high"] or 0.0)
        ax.annotate(
            f"{value:.1%}", (edge, y), xytext=(6, 0), textcoords="offset points", va="center",
            color=INK, fontsize=8,
        )  # fmt: skip
    labels = [f"{name} (n = {one['n']:,})" for name, one in figures.items()]
    ax.set_yticks(range(len(figures)), labels, **_WORDS)
    ax.set_ylim(len(figures) - 0.5, -0.5)
    # Small shares have an axis of their own, of whole tenths, so that they can be told apart.
    longest = max(one["high"] or one["value"] or 0.0 for one in figures.values())
    end = 1.0 if longest > 0.4 else max(0.1, math.ceil(longest * 12) / 10)
    _share_axis(ax, f"{what}; the line is the 95 % interval", end=end)
    ax.set_title(title, loc="left", color=INK, fontsize=12)
    _save(picture, path)


def draw_curves(
    curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], path: Path, title: str
) -> None:
    """Write one panel for each name, in it at most two lines of (step, value) pairs; beside each
    line's name stands its last value."""
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    sheet = _Sheet((3.0, 1.8), left=0.5, bottom=0.65, top=0.9, between=(0.5, 0.8))
    picture, axes = sheet.panels(rows, columns)
    for ax in axes[len(curves) :]:
        ax.set_visible(False)
    for ax, (name, lines) in zip(axes, curves.items(), strict=False):
        both = zip(lines.items(), (BLUE, RED), (0.0, 0.55), strict=False)
        for (label, points), colour, x in both:
            steps, values = zip(*points, strict=True)
            marker = "o" if len(points) < 30 else ""
            ax.plot(steps, values, color=colour, linewidth=1.2, marker=marker, markersize=3)
            ax.text(
                x, 1.03, f"{label} {values[-1]:.3g}", transform=ax.transAxes, color=colour,
                fontsize=8, va="bottom",
            )  # fmt: skip
        ax.spines[["left", "bottom"]].set_visible(True)
        ax.margins(x=0.02)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        ax.tick_params(colors=INK, labelsize=8, length=3)
        ax.set_title(f"{name}\n", loc="left", color=INK, fontsize=10)
    _heading(picture, title)
    picture.text(
        0.5, 0.15 / picture.get_figheight(), "step of the optimiser", ha="center", **_WORDS
    )
    _save(picture, path)


@dataclass(frozen=True)
class _Sheet:
    """Where panels lie, in inches: their own size, what is free around and between them. Said, not
    searched: Matplotlib's layout engines draw a picture several times to find it out."""

    panel: tuple[float, float]
    left: float
    bottom: float
    top: float
    right: float = 0.25
    between: tuple[float, float] = (0.0, 0.0)

    def panels(self, rows: int, columns: int) -> tuple[Picture, list[Axes]]:
        """Return an empty picture and its panels, row by row, without frames."""
        (w, h), (gap_x, gap_y) = self.panel, self.between
        width = self.left + columns * w + (columns - 1) * gap_x + self.right
        height = self.top + rows * h + (rows - 1) * gap_y + self.bottom
        picture = Picture(figsize=(width, height), dpi=110, facecolor="white")
        FigureCanvasAgg(picture)
        axes = []
        for row in range(rows):
            for column in range(columns):
                x = self.left + column * (w + gap_x)
                y = self.bottom + (rows - 1 - row) * (h + gap_y)
                ax = picture.add_axes((x / width, y / height, w / width, h / height))
                ax.spines[:].set_visible(False)
                ax.spines[:].set_color(GREY)
                axes.append(ax)
        return picture, axes


def _cells(ax: Axes, shares: NDArray[np.float64], words: Sequence[Sequence[str]]) -> None:
    ax.imshow(shares, cmap=_BLUES, vmin=0, vmax=1)
    for y, row in enumerate(words):
        for x, word in enumerate(row):
            colour = "white" if shares[y, x] > 0.55 else INK
            ax.text(x, y, word, ha="center", va="center", color=colour, fontsize=10)
    ax.set_xticks(np.arange(1, shares.shape[1]) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, shares.shape[0]) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=2)
    ax.tick_params(which="both", length=0)


def _mark(ax: Axes, one: Shown, y: float, colour: str, mark: str, label: str | None = None) -> None:
    """Put a figure's mark at height y, its interval as a line; nothing where it is undefined."""
    if one["value"] is None:
        return
    if one["low"] is not None and one["high"] is not None:
        ax.plot([one["low"], one["high"]], [y, y], color=colour, linewidth=1.4, zorder=2)
    ax.plot(
        [one["value"]], [y], color=colour, marker=mark, markersize=5, linestyle="", label=label,
        zorder=3, clip_on=False,
    )  # fmt: skip


def _share_axis(ax: Axes, label: str, start: float = 0.0, end: float = 1.0) -> None:
    ax.set_xlim(start, end)
    ticks = [start + i * (end - start) / 5 for i in range(6)]
    ax.set_xticks(ticks, [f"{100 * tick:g}%" for tick in ticks], **_WORDS)
    ax.tick_params(axis="y", length=0)
    ax.spines["bottom"].set_visible(True)
    ax.set_xlabel(label, labelpad=8, **_WORDS)


def _title(ax: Axes, title: str, below: str, size: int = 12) -> None:
    ax.set_title(f"{title}\n", loc="left", color=INK, fontsize=size)
    ax.text(0, 1.02, below, transform=ax.transAxes, color="#52606d", fontsize=8, va="bottom")


def _heading(picture: Picture, title: str) -> None:
    y = 1 - 0.12 / picture.get_figheight()
    picture.text(0.15 / picture.get_figwidth(), y, title, va="top", color=INK, fontsize=12)


def _save(picture: Picture, path: Path) -> None:
    """Write the kind of file that the path names, or PNG and SVG; the same picture, the same
    bytes."""
    for suffix in [path.suffix] if path.suffix else [".png", ".svg"]:
        # An SVG holds the day, and names of its parts that are drawn by chance, unless told not to.
        noted: dict[str, Any] = {"Date": None} if suffix == ".svg" else {"Software": None}
        with rc_context({"svg.hashsalt": path.stem}):
            picture.savefig(path.with_suffix(suffix), metadata=noted)
