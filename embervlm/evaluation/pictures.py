"""What the figures look like: confusion matrices, reliability, risk, intervals, a run's curves.

    draw_confusion(first_robot_confusion(answers, truths, outcomes), outcomes, Path("first.png"))

A path that names no kind of file (`Path("first")`) gives both first.png and first.svg.

The style is that of `drawing.py`. Every formula is one of `metrics.py` or `reliability.py`; here it
is only drawn.

Axes: O outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from embervlm.evaluation.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    RED,
    WORDS,
    Sheet,
    Shown,
    put_cells,
    put_figure,
    put_heading,
    put_title,
    save_picture,
    share_axis,
)
from embervlm.evaluation.metrics import CalibrationBin

Counts = NDArray[np.int64]


# How wide a letter of 9 points is at most, in inches, on the mean of a label.
_LETTER = 0.077


def draw_confusion(counts_OO: Counts, outcomes: Sequence[str], path: Path, title: str) -> None:
    """Write the confusion of the first robot: counts in the cells, shares of each row as shade."""
    picture, axes = Sheet((5.2, 4.6), left=1.75, bottom=0.85, top=0.6).panels(1, 1)
    ax = axes[0]
    shares_OO = counts_OO / np.maximum(counts_OO.sum(1, keepdims=True), 1)
    put_cells(ax, shares_OO, [[f"{n:,}" if n else "" for n in row] for row in counts_OO])
    names = [name.replace(" ", "\n", 1) for name in outcomes]
    ax.set_xticks(range(len(outcomes)), names, rotation=0, **WORDS)
    ax.set_yticks(
        range(len(outcomes)),
        [f"{name}\n{n:,}" for name, n in zip(outcomes, counts_OO.sum(1), strict=True)],
        **WORDS,
    )
    ax.set_xlabel("answered first", labelpad=10, **WORDS)
    ax.set_ylabel("truly first, and how often", labelpad=10, **WORDS)
    right = int(np.trace(counts_OO))
    put_title(ax, title, f"{right:,} of {counts_OO.sum():,} right; shade: share of the row")
    save_picture(picture, path)


def draw_presence(counts_O22: Counts, outcomes: Sequence[str], path: Path, title: str) -> None:
    """Write for each outcome how often it is in the true set and in the answered one."""
    columns = -(-len(outcomes) // 2)
    sheet = Sheet((2.1, 2.1), left=1.0, bottom=0.4, top=1.0, between=(0.15, 0.75))
    picture, axes = sheet.panels(2, columns)
    for ax in axes[len(outcomes) :]:
        ax.set_visible(False)
    for o, (ax, name) in enumerate(zip(axes, outcomes, strict=False)):
        counts_22 = counts_O22[o]
        shares_22 = counts_22 / np.maximum(counts_22.sum(1, keepdims=True), 1)
        put_cells(ax, shares_22, [[f"{n:,}" for n in row] for row in counts_22])
        below = ["not sent", "sent"] if o + columns >= len(outcomes) else ["", ""]
        ax.set_xticks([0, 1], below, **WORDS)
        labels = ["not wanted", "wanted"] if o % columns == 0 else ["", ""]
        ax.set_yticks([0, 1], labels, **WORDS)
        said, true = counts_22[:, 1].sum(), counts_22[1].sum()
        precision = f"{counts_22[1, 1] / said:.2f}" if said else "none"
        recall = f"{counts_22[1, 1] / true:.2f}" if true else "none"
        put_title(ax, name, f"precision {precision}, recall {recall}", size=10)
    put_heading(picture, title)
    save_picture(picture, path)


def draw_reliability(bins: Sequence[CalibrationBin], error: float, path: Path, title: str) -> None:
    """Write how often answers of each confidence are right; on the diagonal it means what it
    says."""
    picture, axes = Sheet((4.2, 4.2), left=0.8, bottom=0.7, top=0.6).panels(1, 1)
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
        set_ticks(ticks, [f"{tick:.0%}" for tick in ticks], **WORDS)
    ax.set_aspect("equal")
    ax.set_xlabel("confidence, mean of a bin", labelpad=8, **WORDS)
    ax.set_ylabel("share of exactly right sets", labelpad=8, **WORDS)
    rows = sum(one.n for one in bins)
    put_title(ax, title, f"calibration error {error:.3f} over {rows:,} answers in {len(bins)} bins")
    save_picture(picture, path)


def draw_risk_coverage(
    points: Sequence[tuple[float, float]], area: float, best_area: float, path: Path, title: str
) -> None:
    """Write how wrong the answers are that are kept, against how many: (coverage, risk) pairs."""
    picture, axes = Sheet((4.6, 3.6), left=0.8, bottom=0.7, top=0.6).panels(1, 1)
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
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"], **WORDS)
    ticks = [tick for tick in ax.get_yticks() if 0 <= tick <= ax.get_ylim()[1]]
    ax.set_yticks(ticks, [f"{tick:.0%}" for tick in ticks], **WORDS)
    ax.spines[["left", "bottom"]].set_visible(True)
    ax.set_xlabel("coverage: share of requests kept, the surest first", labelpad=8, **WORDS)
    ax.set_ylabel("risk: wrong sets among them", labelpad=8, **WORDS)
    put_title(
        ax, title, f"mean risk (area) {area:.3f}; with the best order it would be {best_area:.3f}"
    )
    save_picture(picture, path)


def draw_per_robot(figures: Mapping[str, Mapping[str, Shown]], path: Path, title: str) -> None:
    """Write for each outcome a mark and its interval for each of at most three figures, shares."""
    height = 0.55 * len(figures)
    picture, axes = Sheet((4.6, height), left=1.75, bottom=0.7, top=0.75).panels(1, 1)
    ax = axes[0]
    styles = ((BLUE, "o"), (RED, "s"), (GREEN, "D"))
    names = list(next(iter(figures.values())))
    for y, row in enumerate(figures.values()):
        for (name, one), (colour, mark), off in zip(
            row.items(), styles, (-0.22, 0.0, 0.22), strict=False
        ):
            put_figure(ax, one, y + off, colour, mark, name if y == 0 else None)
    ax.set_yticks(range(len(figures)), list(figures), **WORDS)
    ax.set_ylim(len(figures) - 0.5, -0.5)
    for y in range(1, len(figures)):
        ax.axhline(y - 0.5, color="#e4e7eb", linewidth=0.8, zorder=0)
    lows = [one["low"] or 0.0 for row in figures.values() for one in row.values()]
    share_axis(ax, "share; the line is the 95 % interval", 0.5 if min(lows) > 0.52 else 0.0)
    ax.set_title(f"{title}\n", loc="left", color=INK, fontsize=12)
    ax.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 0.985), ncols=len(names), frameon=False,
        fontsize=8, handletextpad=0.2, columnspacing=1.2, labelcolor=INK,
    )  # fmt: skip
    save_picture(picture, path)


def draw_bars(figures: Mapping[str, Shown], path: Path, title: str, what: str) -> None:
    """Write one bar for each name, with its interval and n; `what` names the figure, a share."""
    labels = [f"{name} (n = {one['n']:,})" for name, one in figures.items()]
    left = max(2.9, 0.3 + _LETTER * max(map(len, labels)))
    picture, axes = Sheet(
        (4.0, 0.36 * len(figures)), left=left, bottom=0.7, top=0.5, right=0.6
    ).panels(1, 1)
    ax = axes[0]
    for y, one in enumerate(figures.values()):
        value = one["value"] or 0.0
        ax.barh(y, value, height=0.62, color="#bcd3ea", zorder=1)
        put_figure(ax, one, y, BLUE, "o")
        edge = max(value, one["high"] or 0.0)
        ax.annotate(
            f"{value:.1%}", (edge, y), xytext=(6, 0), textcoords="offset points", va="center",
            color=INK, fontsize=8,
        )  # fmt: skip
    ax.set_yticks(range(len(figures)), labels, **WORDS)
    ax.set_ylim(len(figures) - 0.5, -0.5)
    # Small shares have an axis of their own, of whole tenths, so that they can be told apart.
    longest = max(one["high"] or one["value"] or 0.0 for one in figures.values())
    end = 1.0 if longest > 0.4 else max(0.1, math.ceil(longest * 12) / 10)
    share_axis(ax, f"{what}; the line is the 95 % interval", end=end)
    ax.set_title(title, loc="left", color=INK, fontsize=12)
    save_picture(picture, path)


def draw_curves(
    curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], path: Path, title: str
) -> None:
    """Write one panel for each name, in it at most two lines of (step, value) pairs; beside each
    line's name stands its last value."""
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    sheet = Sheet((3.0, 1.8), left=0.5, bottom=0.65, top=0.9, between=(0.5, 0.8))
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
    put_heading(picture, title)
    picture.text(0.5, 0.15 / picture.get_figheight(), "step of the optimiser", ha="center", **WORDS)
    save_picture(picture, path)
