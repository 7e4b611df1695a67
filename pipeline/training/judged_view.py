"""What the plots of judging show: held-out rows with what is true of them, and the yield of the pseudo-labels."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from pipeline.pseudo_labels.calibrated_thresholds import HeldOutRows
from pipeline.pseudo_labels.quality import Limits, QualityOptions, judge_scores
from pipeline.report.quality import QualityView


def judged_view(
    known: HeldOutRows | None,
    yields: npt.NDArray[np.int64],
    limits: Limits | None,
    options: QualityOptions,
    *,
    title: str,
    names: Sequence[str],
    facts: Mapping[str, str],
) -> QualityView:
    """Put together what the plots of judging show.

    Held-out rows are sorted by the same thresholds; copies and how large a mask is are left out of account there.

    Args:
        known: Rows on held-out images; None where there are none.
        yields: (K, 3) rows of the pseudo-labels: dropped, ambiguous, kept.
        limits: Thresholds of K strata, where there are two for each.
        options: How rows were judged.
        title: Headline.
        names: Of the strata.
        facts: Name → value of what was judged.
    """
    rows = known if known is not None else no_rows()
    always = np.full(len(rows), options.min_area_px + 1)
    tiers = judge_scores(
        rows.class_score, rows.mask_quality, always, rows.stratum, options=options, limits=limits
    )  # fmt: skip
    single = options.thresholds == "single"
    two = {} if limits is None else {name: np.array(each) for name, each in asdict(limits).items()}
    return QualityView(
        title=title, facts=facts, names=tuple(names), class_score=rows.class_score, mask_quality=rows.mask_quality,
        stratum=rows.stratum, iou=rows.iou, class_right=rows.class_right, class_counts=rows.class_counts, tier=tiers,
        yields=yields, class_thr=two.get("class_thr"), mask_thr=two.get("mask_thr"),
        class_floor=two.get("class_floor"), mask_floor=two.get("mask_floor"),
        score_thr=options.score_thr if single else None,
        score_floor=max(options.score_thr - options.margin, 0.0) if single else None,
    )  # fmt: skip


def no_rows() -> HeldOutRows:
    """Give the rows of no image."""
    numbers, whole, flags = np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    return HeldOutRows(numbers, numbers, whole, np.zeros(0), flags, flags)
