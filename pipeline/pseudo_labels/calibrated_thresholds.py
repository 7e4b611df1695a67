"""Thresholds learnt on held-out labelled images: what a score of this teacher stands for (this project's own).

The teacher looks at images whose truth is known, and each row is compared with the truth it overlaps most. Isotonic
regression then gives, for each class, how often its classes are right at a class score (among rows that meet a true
mask with IoU ≥ ½; whether there is anything at all is for the mask to tell), and the mean IoU at a mask quality. The
threshold is the least score seen there whose calibrated quality reaches the wanted level.

Where no score seen reaches it, no row of that class is kept, whatever its score: nothing shows that such rows are good.
Those not more than the margin below the greatest score seen are ambiguous, so that training does not call them
background. A class with few rows takes the curve of all classes together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.overlap import shared_px
from pipeline.pseudo_labels.adaptive_thresholds import require_labels
from pipeline.pseudo_labels.quality import ABOVE_ALL, Limits, QualityOptions, is_copy, require_scores, require_strata

MATCH_IOU = 0.5
_ROUNDING = 1e-9
"""Means of the regression are exact up to this."""

Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeldOutRows:
    """Rows of images whose truth is known.

    Args:
        class_score: (N,) c.
        mask_quality: (N,) m.
        stratum: (N,) int, 0 to K − 1.
        iou: (N,) IoU with the true mask that the row overlaps most, 0 without one.
        class_right: (N,) bool, whether the row's class is that of the true mask.
        class_counts: (N,) bool, rows that say something of the class score.
    """

    class_score: npt.NDArray[np.float32]
    mask_quality: npt.NDArray[np.float32]
    stratum: npt.NDArray[np.int64]
    iou: Floats64
    class_right: npt.NDArray[np.bool_]
    class_counts: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """Give the number of rows."""
        return len(self.stratum)

    @classmethod
    def join(cls, parts: Sequence["HeldOutRows"]) -> "HeldOutRows":
        """Put the rows of several images together; at least one."""
        return cls(**{field.name: np.concatenate([getattr(one, field.name) for one in parts]) for field in fields(cls)})


def compare_with_truth(
    rows: Instances,
    truth: Instances,
    *,
    options: QualityOptions,
    stratum: npt.NDArray[np.int64] | None = None,
    background_is_wrong: bool = False,
) -> HeldOutRows:
    """Compare the rows of an image with what is really there.

    Copies (see ``min_decay``) are left out, and rows that lie half or more in a region (a true row that is not ``ok``)
    and match nothing else: what is there is not known.

    Args:
        rows: The teacher's, with ``class_score`` and ``mask_quality``.
        truth: Of the same image.
        options: ``min_decay`` counts.
        stratum: (N,); the rows' classes when None.
        background_is_wrong: Every row says something of the class score, and one that matches nothing is wrong: for one
            class alone, where no matched row could be.

    Raises:
        PipelineError: If a row lacks a score.
        ValueError: If the images differ in size.
    """
    require_scores(rows.class_score, rows.mask_quality)
    known = np.isin(truth.status, ("ok", "fallback"))
    iou, best, inside = _overlaps(rows, truth, known)
    right = (iou > 0) & (rows.class_id == truth.class_id[best]) if len(truth) else np.zeros(len(rows), dtype=bool)
    matched = iou >= MATCH_IOU
    kept = ~is_copy(rows.nms_decay, options.min_decay, len(rows)) & (matched | (inside < 0.5))
    counts = np.ones(len(rows), dtype=bool) if background_is_wrong else matched
    return HeldOutRows(
        rows.class_score[kept], rows.mask_quality[kept], (rows.class_id if stratum is None else stratum)[kept],
        iou[kept], (right & matched)[kept], counts[kept],
    )  # fmt: skip


def _overlaps(
    rows: Instances, truth: Instances, known: npt.NDArray[np.bool_]
) -> tuple[Floats64, npt.NDArray[np.int64], Floats64]:
    """Per row: largest IoU with a known mask, that mask (of equal ones the first), largest share inside a region."""
    iou, inside = np.zeros(len(rows)), np.zeros(len(rows))
    best = np.zeros(len(rows), dtype=np.int64)
    begin, true_begin = rows.boxes_xywh[:, :2].astype(np.int64), truth.boxes_xywh[:, :2].astype(np.int64)
    end, true_end = begin + rows.boxes_xywh[:, 2:], true_begin + truth.boxes_xywh[:, 2:]
    meet = (np.minimum(end[:, None], true_end) > np.maximum(begin[:, None], true_begin)).all(axis=2)
    for row, true_row in np.argwhere(meet).tolist():
        shared = shared_px(rows, row, truth, true_row)
        area = int(rows.area_px[row])
        if not known[true_row]:
            inside[row] = max(inside[row], shared / area)
            continue
        value = shared / (area + int(truth.area_px[true_row]) - shared)
        if value > iou[row]:
            iou[row], best[row] = value, true_row
    return iou, best, inside


class Curve(NamedTuple):
    """A score's calibrated meaning.

    Args:
        score: (n,) float64 scores seen, ascending, each once.
        quality: (n,) float64, 0 to 1, not falling.
    """

    score: Floats64
    quality: Floats64

    @classmethod
    def fit(cls, score: npt.ArrayLike, outcome: npt.ArrayLike) -> "Curve":
        """Fit the non-falling function of least squared error.

        Args:
            score: (N,), at least one.
            outcome: (N,), 0 to 1.
        """
        from sklearn.isotonic import IsotonicRegression  # late: it takes seconds

        x, y = np.asarray(score, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
        seen = np.unique(x)
        fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(x, y).predict(seen)
        return cls(seen, np.asarray(fitted, dtype=np.float64))

    def threshold(self, wanted: float) -> tuple[float, float]:
        """Give the least score whose quality reaches a level, and the score that the ambiguous margin is below.

        Both are the same, unless no score reaches it: then :data:`~pipeline.pseudo_labels.quality.ABOVE_ALL`, and the
        greatest score seen.
        """
        reaches = np.flatnonzero(self.quality >= wanted - _ROUNDING)
        if not len(reaches):
            return ABOVE_ALL, float(self.score[-1])
        least = float(self.score[reaches[0]])
        return least, least


@dataclass(frozen=True, eq=False)
class Calibration:
    """Thresholds of K strata, and what they come from.

    Args:
        limits: The thresholds.
        class_curves: Per stratum, share of right classes at a class score.
        mask_curves: Per stratum, mean IoU at a mask quality.
        class_rows: Per stratum, its own held-out rows; with fewer than ``calibration_rows`` the curve is that of all.
        mask_rows: Likewise.
    """

    limits: Limits
    class_curves: tuple[Curve, ...]
    mask_curves: tuple[Curve, ...]
    class_rows: tuple[int, ...]
    mask_rows: tuple[int, ...]


def calibrate(
    rows: HeldOutRows, label_counts: Sequence[int], *, options: QualityOptions, names: Sequence[str] | None = None
) -> Calibration:
    """Learn the thresholds.

    Args:
        rows: Of all held-out images.
        label_counts: Labelled instances of each stratum.
        options: Wanted levels, margin, and how many rows a curve needs.
        names: Of the classes, for messages.

    Raises:
        PipelineError: If a class has no labelled instance, or no row meets a true mask.
    """
    require_labels(label_counts, names=names, thresholds="calibrated")
    require_strata(rows.stratum, len(label_counts))
    if not rows.class_counts.any():
        raise PipelineError(
            f"quality.thresholds: calibrated: none of the {len(rows)} rows on held-out images meets a true mask with "
            f"IoU ≥ {MATCH_IOU}; train the teacher for longer, or set it to fixed"
        )
    told, k = rows.class_counts, len(label_counts)
    class_curves, class_rows = _curves(
        rows.class_score[told], rows.class_right[told], rows.stratum[told], k, options.calibration_rows
    )
    mask_curves, mask_rows = _curves(rows.mask_quality, rows.iou, rows.stratum, k, options.calibration_rows)
    class_ends = [curve.threshold(options.class_wanted) for curve in class_curves]
    mask_ends = [curve.threshold(options.mask_wanted) for curve in mask_curves]
    limits = Limits(
        class_thr=tuple(thr for thr, _ in class_ends),
        mask_thr=tuple(thr for thr, _ in mask_ends),
        class_floor=tuple(seen - options.margin for _, seen in class_ends),
        mask_floor=tuple(seen - options.margin for _, seen in mask_ends),
    )
    return Calibration(limits, class_curves, mask_curves, class_rows, mask_rows)


def _curves(
    score: npt.NDArray[np.float32],
    outcome: npt.NDArray[np.float64] | npt.NDArray[np.bool_],
    stratum: npt.NDArray[np.int64],
    n_strata: int,
    least_rows: int,
) -> tuple[tuple[Curve, ...], tuple[int, ...]]:
    """Fit one curve for each stratum, the curve of all where it has few rows."""
    counts = np.bincount(stratum, minlength=n_strata).tolist()
    of_all = Curve.fit(score, outcome)
    own = (stratum == k for k in range(n_strata))
    curves = tuple(
        Curve.fit(score[mine], outcome[mine]) if count >= least_rows else of_all
        for mine, count in zip(own, counts, strict=True)
    )
    return curves, tuple(counts)
