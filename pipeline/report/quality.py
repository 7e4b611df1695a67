"""The page on the quality of pseudo-labels, and its tables for ``dvc plots``."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from markupsafe import Markup

from pipeline.compute.files import atomic_write_text
from pipeline.report.quality_figures import MAX_BARS, MAX_PANELS, is_wide, plane_svg, reliability_svg, yield_svg
from pipeline.report.quality_view import (
    Floats,
    Integers,
    QualityView,
    calibration_error,
    class_reliability,
    kept_precision,
    mask_reliability,
    plane_table,
    yield_table,
)
from pipeline.report.render import render_template, show, write_csv

__all__ = ["QualityView", "render_quality", "write_quality"]

QUALITY_PAGE = "quality.html"
PLANE_PLOT = "plane.csv"
CLASS_PLOT = "class_reliability.csv"
MASK_PLOT = "mask_reliability.csv"
YIELD_PLOT = "yield.csv"


def write_quality(folder: Path, view: QualityView) -> None:
    """Write the page and its tables into a folder that exists; the same view gives the same bytes.

    Args:
        folder: Where ``quality.html``, ``plane.csv``, ``class_reliability.csv``, ``mask_reliability.csv`` and
            ``yield.csv`` go. Of very many held-out rows ``plane.csv`` has those that are drawn.
        view: What judging came to.
    """
    write_csv(plane_table(view), folder / PLANE_PLOT)
    write_csv(class_reliability(view), folder / CLASS_PLOT)
    write_csv(mask_reliability(view), folder / MASK_PLOT)
    write_csv(yield_table(view), folder / YIELD_PLOT)
    atomic_write_text(folder / QUALITY_PAGE, render_quality(view))


def render_quality(view: QualityView) -> str:
    """Give the HTML of the page, which needs nothing beside it."""
    by_class, by_mask = class_reliability(view), mask_reliability(view)
    has_rows, has_held_out = bool(view.yields.sum()), len(view) > 0
    return render_template(
        "quality.html",
        title=view.title,
        facts=view.facts,
        lead=_lead(view),
        tiles=_tiles(view) if has_rows or has_held_out else [],
        has_rows=has_rows,
        has_held_out=has_held_out,
        wide=is_wide(view),
        plane_note=_plane_note(view),
        plane=Markup(plane_svg(view)) if has_held_out else "",
        hint=_error_note(calibration_error(by_class), calibration_error(by_mask)),
        class_reliability=Markup(
            reliability_svg(by_class, score="class score c", observed="share of right classes",
                            thresholds=view.class_thr)
        ) if by_class.num_rows else "",
        mask_reliability=Markup(
            reliability_svg(by_mask, score="mask quality m", observed="mean IoU", thresholds=view.mask_thr)
        ) if has_held_out else "",
        bars=Markup(yield_svg(view)) if has_rows else "",
        bars_note=f"Drawn are the {MAX_BARS} strata with most rows." if len(view.names) > MAX_BARS else "",
        rows=_rows(view),
    )  # fmt: skip


def _lead(view: QualityView) -> str:
    """Say in a sentence or two what came of it."""
    dropped, ambiguous, kept = (int(n) for n in view.yields.sum(axis=0))
    total = dropped + ambiguous + kept
    if not total and not len(view):
        return "There are no pseudo-labels: the teacher found nothing on the images it was shown."
    parts = [
        f"Of {total:,} pseudo-labels on the unlabelled images {kept:,} are kept ({_percent(kept, total)}), "
        f"{ambiguous:,} are ambiguous, {dropped:,} are dropped."
        if total
        else "There are no pseudo-labels on the unlabelled images."
    ]
    precision, n = kept_precision(view)
    if not len(view):
        parts.append("No labelled images were held out with rows on them, so nothing here tells how good they are.")
    elif precision is None:
        parts.append(f"Of {len(view):,} rows on held-out labelled images none is kept.")
    else:
        parts.append(
            f"On held-out labelled images {100 * precision:.0f} % of the {n:,} kept rows are right, against "
            f"{100 * view.right.mean():.0f} % of all {len(view):,}."
        )
    return " ".join(parts)


def _tiles(view: QualityView) -> list[dict[str, str]]:
    kept, total = int(view.yields[:, 2].sum()), int(view.yields.sum())
    precision, n = kept_precision(view)
    keep = np.asarray(view.tier) == 2
    right = int(view.right.sum())
    return [
        {"title": title, "value": value, "note": note}
        for title, value, note in (
            ("Kept", _percent(kept, total), f"{kept:,} of {total:,} rows of the unlabelled images"),
            ("Right among the kept", _share(precision), f"of {n:,} held-out rows; IoU ≥ 0.5 and the right class"),
            ("Right among all", _percent(right, len(view)), f"of {len(view):,} held-out rows"),
            ("Kept among the right", _percent(int((view.right & keep).sum()), right), f"of {right:,} held-out rows"),
            (
                "Mean IoU of the kept",
                show(float(view.iou[keep].mean()) if n else None),
                f"all held-out rows: {show(float(view.iou.mean()) if len(view) else None)}",
            ),
        )
    ]


def _plane_note(view: QualityView) -> str:
    """Say what is drawn, and what is not."""
    parts = []
    n, k = len(view.shown()), len(view.names)
    if n < len(view):
        parts.append(f"{n:,} of {len(view):,} rows are drawn.")
    if view.score_thr is not None:
        parts.append("One threshold judges c · m · decay: rows above the curve are kept unless their decay is below 1.")
    elif view.class_thr is None and view.mask_thr is None:
        parts.append("There are no thresholds: every row is kept.")
    elif k > MAX_PANELS:
        parts.append(f"The frame has the median thresholds of {k} strata; the table below has each stratum's own.")
        closed = sum(not _keeps(view, stratum) for stratum in range(k))
        if closed:
            parts.append(f"No row is kept in {closed} of them.")
    return " ".join(parts)


def _keeps(view: QualityView, stratum: int) -> bool:
    return all(thr is None or thr[stratum] <= 1 for thr in (view.class_thr, view.mask_thr))


def _error_note(by_class: float | None, by_mask: float | None) -> str:
    return (
        "Mean distance from the diagonal: "
        f"class score {show(by_class)}, mask quality {show(by_mask)}; 0 is a score that can be taken at its word."
    )


def _rows(view: QualityView) -> list[Mapping[str, str]]:
    """Give the table's rows: each stratum, then all."""
    rows = [
        _row(name, view.yields[k], kept_precision(view, k), _limit(view.class_thr, k), _limit(view.mask_thr, k))
        for k, name in enumerate(view.names)
    ]
    if len(view.names) > 1:
        rows.append(_row("All", view.yields.sum(axis=0), kept_precision(view), "", ""))
    return rows


def _row(
    name: str, counts: Integers, precision: tuple[float | None, int], class_thr: str, mask_thr: str
) -> Mapping[str, str]:
    dropped, ambiguous, kept = (f"{int(n):,}" for n in counts)
    share, n_held_out = precision
    return {
        "name": name, "kept": kept, "ambiguous": ambiguous, "dropped": dropped, "class_thr": class_thr,
        "mask_thr": mask_thr, "precision": f"{_share(share)} of {n_held_out:,}" if n_held_out else "–",
    }  # fmt: skip


def _limit(thresholds: Floats | None, stratum: int) -> str:
    if thresholds is None:
        return "–"
    return f"{thresholds[stratum]:.2f}" if thresholds[stratum] <= 1 else "none"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _percent(part: int, whole: int) -> str:
    return _share(part / whole if whole else None)
