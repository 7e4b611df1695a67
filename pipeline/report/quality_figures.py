"""Plots by which a user chooses the thresholds of pseudo-labels: the plane, reliability, yield."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from pipeline.report.quality_view import Floats, Integers, QualityView
from pipeline.report.svg import ACCENT, GRID, SECOND, TEXT, THIRD, legend_above, svg_plot

MAX_PANELS = 6
"""More strata share one panel."""
MAX_BARS = 40
COLOR_MAP = "viridis"
"""Grows lighter evenly, so that it can be read without telling colours apart."""
_EDGE = 1.004
"""Where frames end, so that their line is not cut at 1."""


def is_wide(view: QualityView) -> bool:
    """Whether the plane has several panels beside each other."""
    return 1 < len(view.names) <= MAX_PANELS


def plane_svg(view: QualityView) -> str:
    """Plot class score against mask quality of held-out rows, coloured by IoU, with what is kept outlined.

    Up to :data:`MAX_PANELS` strata have a panel each; more share one, with the medians of their thresholds.
    """
    rows, n_strata = view.shown(), len(view.names)
    panels = n_strata if is_wide(view) else 1
    columns = {4: 2}.get(panels, min(panels, 3))
    lines = math.ceil(panels / columns)
    with svg_plot(10.8 if panels > 1 else 6.4, {1: 5.4, 2: 5.0}.get(columns, 3.9) * lines) as (figure, out):
        grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
        low = 0.5 if len(rows) and view.mask_quality[rows].min() >= 0.5 else 0.0
        drawn = None
        for k, axes in enumerate(grid):
            if k >= panels:
                axes.set_axis_off()
                continue
            mine = rows if panels == 1 else rows[view.stratum[rows] == k]
            drawn = _draw_rows(axes, view, mine)
            limits = _draw_limits(axes, view, k if n_strata == panels else None)
            mine_of = slice(None) if panels == 1 else view.stratum == k
            title = f"{int((view.tier[mine_of] == 2).sum()):,} of {len(view.tier[mine_of]):,} kept"
            title = f"{_short(view.names[k], 16)}: {title}" if panels == n_strata else title
            axes.set_title(f"{title}\n{limits}", linespacing=1.35)
            axes.set_xlim(-0.01, 1.01)
            axes.set_ylim(low - 0.01, 1.01)
            if k % columns == 0:
                axes.set_ylabel("mask quality m")
            if k >= panels - columns:
                axes.set_xlabel("class score c")
                axes.tick_params(labelbottom=True)
        if drawn is not None:
            bar = figure.colorbar(drawn, ax=list(grid), label="IoU with the true mask", aspect=30, pad=0.02)
            bar.outline.set_visible(False)
            if bar.solids is not None:
                bar.solids.set_edgecolor("face")  # no seams between its steps
    return out[0]


def _draw_rows(axes: Axes, view: QualityView, rows: Integers) -> Any:
    """Mark right classes (and rows that say nothing of them) by discs, wrong ones by crosses."""
    wrong = view.class_counts[rows] & ~view.class_right[rows]
    size = float(np.clip(9000 / max(len(rows), 1), 9, 26))
    style: dict[str, Any] = {"vmin": 0, "vmax": 1, "cmap": COLOR_MAP, "zorder": 3, "edgecolors": TEXT,
                             "linewidths": 0.3}  # fmt: skip
    for some, mark, area in ((rows[~wrong], "o", size), (rows[wrong], "X", 1.6 * size)):
        drawn = axes.scatter(
            view.class_score[some], view.mask_quality[some], c=view.iou[some], s=area, marker=mark, **style
        )
    return drawn


def _draw_limits(axes: Axes, view: QualityView, stratum: int | None) -> str:
    """Frame what is kept, tint what is ambiguous, and give the limits as text.

    Args:
        axes: Where to draw.
        view: What judging came to.
        stratum: Whose limits; None for the medians of all.
    """
    if view.score_thr is not None:
        _draw_product(axes, view.score_thr, view.score_floor)
        return f"c · m ≥ {view.score_thr:.2f}"
    if view.class_thr is None and view.mask_thr is None:
        return "no thresholds"
    class_thr, mask_thr = typical(view.class_thr, stratum), typical(view.mask_thr, stratum)
    is_open = class_thr <= 1 and mask_thr <= 1
    if view.class_floor is not None or view.mask_floor is not None:
        class_floor, mask_floor = typical(view.class_floor, stratum), typical(view.mask_floor, stratum)
        top = mask_thr if is_open else _EDGE
        _tint(axes, class_floor, mask_floor, _EDGE, top)
        _tint(axes, class_floor, top, class_thr, _EDGE)
    if not is_open:
        return "no row is kept"
    frame = Rectangle((class_thr, mask_thr), _EDGE - class_thr, _EDGE - mask_thr, fill=False, edgecolor=ACCENT,
                      linewidth=2, zorder=4)  # fmt: skip
    axes.add_patch(frame)
    return f"{'' if stratum is not None else 'medians: '}c ≥ {class_thr:.2f}, m ≥ {mask_thr:.2f}"


def _tint(axes: Axes, left: float, low: float, right: float, top: float) -> None:
    axes.add_patch(
        Rectangle((left, low), right - left, top - low, facecolor=SECOND, edgecolor="none", alpha=0.13, zorder=1)
    )


def _draw_product(axes: Axes, score_thr: float, score_floor: float | None) -> None:
    """Draw the line on which c · m is the threshold; rows with a decay below 1 need more."""
    score = np.linspace(1e-3, _EDGE, 400)
    line = np.clip(score_thr / score, 0, _EDGE)
    if score_floor is not None:
        axes.fill_between(score, np.clip(score_floor / score, 0, _EDGE), line, color=SECOND, alpha=0.13, linewidth=0)
    on = score >= score_thr
    axes.plot(score[on], line[on], color=ACCENT, linewidth=2, zorder=4)


def typical(thresholds: Floats | None, stratum: int | None) -> float:
    """Give the threshold of a stratum; for None the median of the strata of which rows can be kept, 0 without any."""
    if thresholds is None:
        return 0.0
    if stratum is not None:
        return float(thresholds[stratum])
    usable = thresholds[thresholds <= 1]
    return float(np.median(usable if len(usable) else thresholds)) if len(thresholds) else 0.0


def reliability_svg(table: pa.Table, *, score: str, observed: str, thresholds: Floats | None) -> str:
    """Plot what was observed against the score, with the diagonal, intervals, and the rows of each bin below.

    Args:
        table: As :func:`~pipeline.report.quality_view.reliability` gives it.
        score: What the score is called.
        observed: What the observation is called.
        thresholds: (K,) on the score; one line is drawn, at their median.
    """
    columns: dict[str, npt.NDArray[Any]] = {name: table[name].to_numpy() for name in table.column_names}
    with svg_plot(5.2, 5.0) as (figure, out):
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
        axes.plot([0, 1], [0, 1], color=TEXT, linewidth=1, linestyle=(0, (4, 3)), label="reliable")
        x, y = columns["mean_score"], columns["observed"]
        axes.vlines(x, columns["observed_low"], columns["observed_high"], color=ACCENT, alpha=0.45, linewidth=2.5)
        axes.plot(x, y, color=ACCENT, marker="o", markersize=5, linewidth=1.3, label="observed (95 %)")
        axes.set_ylim(-0.02, 1.02)
        axes.set_ylabel(observed)
        width = columns["bin_high"] - columns["bin_low"]
        below.bar(columns["bin_low"], columns["rows"], 0.9 * width, align="edge", color=THIRD)
        top = max(columns["rows"].max(initial=0), 1)
        for left, n in zip(columns["bin_low"] + width * 0.45, columns["rows"], strict=True):
            below.annotate(_brief(int(n)), (left, n), xytext=(0, 1), textcoords="offset points", ha="center",
                           fontsize=6.5)  # fmt: skip
        below.set_ylim(0, 1.25 * top)
        below.set_ylabel("rows")
        below.set_xlabel(score)
        below.set_xlim(-0.02, 1.02)
        below.grid(visible=False, axis="x")
        limit = typical(thresholds, None)
        if thresholds is not None and len(thresholds) and 0 < limit <= 1:
            name = "threshold" if len(set(thresholds.tolist())) == 1 else "median threshold"
            axes.axvline(limit, color=SECOND, linewidth=1.6, label=name)
            below.axvline(limit, color=SECOND, linewidth=1.6)
        legend_above(axes)
    return out[0]


def yield_svg(view: QualityView) -> str:
    """Plot the share of each tier in a stratum's rows of the unlabelled images; the fullest :data:`MAX_BARS` strata."""
    totals = view.yields.sum(axis=1)
    fullest = np.argsort(-totals, kind="stable")[:MAX_BARS]
    places = np.sort(fullest)[::-1]  # first name on top
    with svg_plot(5.2, 1.1 + 0.27 * max(len(places), 2)) as (figure, out):
        axes = figure.subplots()
        left = np.zeros(len(places))
        for tier, color, name in ((2, ACCENT, "kept"), (1, SECOND, "ambiguous"), (0, GRID, "dropped")):
            share = view.yields[places, tier] / np.maximum(totals[places], 1)
            axes.barh(np.arange(len(places)), share, 0.72, left=left, color=color, label=name)
            left += share
        for y, k in enumerate(places):
            text = f"{int(view.yields[k, 2]):,} of {int(totals[k]):,}" if totals[k] else "no rows"
            axes.annotate(text, (1, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5,
                          annotation_clip=False)  # fmt: skip
        axes.set_yticks(np.arange(len(places)), [_short(view.names[k]) for k in places])
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.6, len(places) - 0.4)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        axes.set_xlabel("share of the stratum's rows; at the right: kept of all")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        legend_above(axes)
    return out[0]


def _short(name: str, limit: int = 22) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def _brief(n: int) -> str:
    return str(n) if n < 1000 else f"{n / 1000:.1f}k" if n < 10_000 else f"{n / 1000:.0f}k"
