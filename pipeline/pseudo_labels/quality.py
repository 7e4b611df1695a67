"""Which pseudo-labels are kept: class and mask judged apart, by two thresholds (PL-DC, section 2).

With class quality c and mask quality m, T for thresholds and δ for the margin:

- ``keep``: c ≥ T_c, m ≥ T_m, and more than ``min_area_px`` pixels;
- ``ambiguous``: not kept, but c ≥ T_c − δ and m ≥ T_m − δ; corrected, or ignored in training;
- ``drop``: all others.

Rows are judged by the thresholds of their stratum: their class or, where there is one class alone, whatever else the
caller sorts them by, as size or density. Thresholds come from ``fixed`` numbers, or are ``adaptive``
(:mod:`~pipeline.pseudo_labels.adaptive_thresholds`) or ``calibrated``
(:mod:`~pipeline.pseudo_labels.calibrated_thresholds`).

This project's own: SOLOv2 gives many rows for one object, which matrix NMS tells by a low ``nms_decay``. Two thresholds
on c and m do not see that, so rows below ``min_decay`` are dropped first. ``single``, to compare with, has one
threshold on c · m · decay, and tiers of the same margin.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances

Thresholds = Literal["off", "single", "fixed", "calibrated", "adaptive"]

ABOVE_ALL = float(np.nextafter(np.float32(1), np.float32(2)))
"""A threshold that no quality reaches."""

Tiers = npt.NDArray[np.int8]
Columns = npt.NDArray[np.floating[Any]]


class Tier(IntEnum):
    """What becomes of a row; higher is better."""

    DROP = 0
    AMBIGUOUS = 1
    KEEP = 2


@dataclass(frozen=True)
class QualityOptions:
    """How pseudo-labels are judged.

    Args:
        thresholds: Where they come from; ``off`` keeps all, ``single`` is one threshold on the product of the scores.
        score_thr: ``single``: least c · m · decay.
        class_thr: ``fixed``: least c, one for all strata, or one for each. Published, for a softmax: 0.85.
        mask_thr: ``fixed``: least m, likewise. Published: 0.9.
        margin: How far below its threshold a row is ambiguous. Published: 0.15.
        min_area_px: Kept rows have more image pixels than this. Published: 5.
        min_decay: Rows whose score matrix NMS lowered to less than this share are dropped; 0 for none.
        alpha: ``adaptive``: share of a threshold that stays at each image. Published, for each training step: 0.9996.
        class_thr_min: ``adaptive``: least T_c, and where that of the rarest class begins.
        class_thr_max: ``adaptive``: greatest T_c, where that of the commonest class begins.
        mask_thr_min: ``adaptive``: least T_m.
        mask_thr_max: ``adaptive``: greatest T_m.
        foreground_thr: ``adaptive``: rows of at least this c are averaged. There: those that are not no-object.
        class_wanted: ``calibrated``: least share of right classes that a kept row's c must stand for.
        mask_wanted: ``calibrated``: least mean IoU that a kept row's m must stand for.
        calibration_rows: ``calibrated``: a stratum with fewer held-out rows takes the curve of all.
    """

    thresholds: Thresholds = "fixed"
    score_thr: float = 0.3
    class_thr: float | tuple[float, ...] = 0.4
    mask_thr: float | tuple[float, ...] = 0.7
    margin: float = 0.15
    min_area_px: int = 5
    min_decay: float = 0.5
    alpha: float = 0.99
    class_thr_min: float = 0.25
    class_thr_max: float = 0.6
    mask_thr_min: float = 0.6
    mask_thr_max: float = 0.85
    foreground_thr: float = 0.3
    class_wanted: float = 0.7
    mask_wanted: float = 0.7
    calibration_rows: int = 20

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        known = ("off", "single", "fixed", "calibrated", "adaptive")
        if self.thresholds not in known:
            raise ValueError(f"thresholds: expected one of {', '.join(known)}, got {self.thresholds!r}")
        for name in (
            "score_thr", "class_thr", "mask_thr", "margin", "min_decay", "alpha", "class_thr_min", "class_thr_max",
            "mask_thr_min", "mask_thr_max", "foreground_thr", "class_wanted", "mask_wanted",
        ):  # fmt: skip
            value = getattr(self, name)
            for each in value if isinstance(value, tuple) else (value,):
                if not 0 <= each <= 1:  # also refuses NaN
                    raise ValueError(f"{name}: expected a number from 0 to 1, got {each!r}")
            if value == ():
                raise ValueError(f"{name}: expected a number, or one for each class, got none")
        for low, high in (("class_thr_min", "class_thr_max"), ("mask_thr_min", "mask_thr_max")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low}: expected at most {high} ({getattr(self, high)}), got {getattr(self, low)}")
        for name, least in (("min_area_px", 0), ("calibration_rows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Limits:
    """The thresholds of K strata; plain numbers, so that they can be written down.

    Args:
        class_thr: Per stratum T_c, 0 to 1, or :data:`ABOVE_ALL`.
        mask_thr: T_m, likewise.
        class_floor: Least c of ambiguous rows; at most T_c, and below 0 for no limit.
        mask_floor: Least m of ambiguous rows, likewise.

    Raises:
        ValueError: If they are not so.
    """

    class_thr: tuple[float, ...]
    mask_thr: tuple[float, ...]
    class_floor: tuple[float, ...]
    mask_floor: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what is no set of thresholds."""
        if not self.class_thr or len({len(self.class_thr), len(self.mask_thr)}) > 1:
            raise ValueError(
                f"class_thr, mask_thr: expected as many of both, and at least one, got {len(self.class_thr)} and "
                f"{len(self.mask_thr)}"
            )
        for name in ("class", "mask"):
            thr, floor = getattr(self, f"{name}_thr"), getattr(self, f"{name}_floor")
            wrong = [each for each in thr if not 0 <= each <= ABOVE_ALL]
            if wrong:
                raise ValueError(f"{name}_thr: expected numbers from 0 to 1, got {wrong[0]!r}")
            if len(floor) != len(thr) or not all(low <= high for low, high in zip(floor, thr, strict=True)):
                raise ValueError(f"{name}_floor: expected one for each threshold and not above it, got {floor}")

    @classmethod
    def of(cls, class_thr: Sequence[float], mask_thr: Sequence[float], *, margin: float) -> "Limits":
        """Put the floors a margin below the thresholds."""
        return cls(
            tuple(map(float, class_thr)), tuple(map(float, mask_thr)),
            tuple(float(each) - margin for each in class_thr), tuple(float(each) - margin for each in mask_thr),
        )  # fmt: skip

    @classmethod
    def fixed(cls, options: QualityOptions, n_strata: int) -> "Limits":
        """Take the thresholds of ``fixed``.

        Raises:
            PipelineError: If there is not one for each stratum.
        """
        both = []
        for name in ("class_thr", "mask_thr"):
            value = getattr(options, name)
            value = value if isinstance(value, tuple) else (value,) * n_strata
            if len(value) != n_strata:
                raise PipelineError(f"{name}: expected one number, or one for each of {n_strata} classes, got {value}")
            both.append(value)
        return cls.of(*both, margin=options.margin)

    def __len__(self) -> int:
        """Give the number of strata."""
        return len(self.class_thr)


def judge(
    class_score: Columns,
    mask_quality: Columns,
    area_px: npt.NDArray[np.integer[Any]],
    stratum: npt.NDArray[np.integer[Any]],
    *,
    limits: Limits,
    min_area_px: int,
    nms_decay: Columns | None = None,
    min_decay: float = 0.0,
) -> Tiers:
    """Sort rows into tiers, by two thresholds. The thresholds are rounded to the scores' dtype.

    Args:
        class_score: (N,) c, 0 to 1.
        mask_quality: (N,) m, 0 to 1.
        area_px: (N,) pixels.
        stratum: (N,) numbers from 0 to K − 1.
        limits: Of K strata.
        min_area_px: Kept rows have more pixels.
        nms_decay: (N,), 0 to 1, NaN where unknown.
        min_decay: Rows of less decay are dropped.

    Returns:
        (N,) int8, values of :class:`Tier`.

    Raises:
        PipelineError: If a stratum has no thresholds, or a score is NaN.
    """
    require_scores(class_score, mask_quality)
    require_strata(stratum, len(limits))

    def reach(scores: Columns, thresholds: tuple[float, ...]) -> npt.NDArray[np.bool_]:
        reached: npt.NDArray[np.bool_] = scores >= np.array(thresholds, dtype=scores.dtype)[stratum]
        return reached

    keep = reach(class_score, limits.class_thr) & reach(mask_quality, limits.mask_thr) & (area_px > min_area_px)
    near = reach(class_score, limits.class_floor) & reach(mask_quality, limits.mask_floor)
    return _tiers(keep, near & ~is_copy(nms_decay, min_decay, len(keep)))


def judge_product(
    class_score: Columns,
    mask_quality: Columns,
    area_px: npt.NDArray[np.integer[Any]],
    *,
    score_thr: float,
    margin: float,
    min_area_px: int,
    nms_decay: Columns | None = None,
) -> Tiers:
    """Sort rows into tiers, by one threshold on c · m · decay; for arguments and errors see :func:`judge`."""
    require_scores(class_score, mask_quality)
    score = class_score * mask_quality
    if nms_decay is not None:
        score = score * np.nan_to_num(nms_decay, nan=1.0)
    high, low = (np.asarray(each, dtype=score.dtype) for each in (score_thr, score_thr - margin))
    return _tiers((score >= high) & (area_px > min_area_px), score >= low)


def _tiers(keep: npt.NDArray[np.bool_], near: npt.NDArray[np.bool_]) -> Tiers:
    """Rows that are near and keep are kept; near ones are ambiguous."""
    return np.where(near, np.where(keep, Tier.KEEP, Tier.AMBIGUOUS), Tier.DROP).astype(np.int8)


def is_copy(nms_decay: Columns | None, min_decay: float, n_rows: int) -> npt.NDArray[np.bool_]:
    """(N,) bool: the rows whose score matrix NMS lowered below a share; none where it does not say."""
    if nms_decay is None:
        return np.zeros(n_rows, dtype=bool)
    return nms_decay < np.asarray(min_decay, dtype=nms_decay.dtype)


def require_scores(class_score: Columns, mask_quality: Columns) -> None:
    """Raise a PipelineError if a row lacks one of the two qualities."""
    for name, scores in (("class_score", class_score), ("mask_quality", mask_quality)):
        n_missing = int(np.isnan(scores).sum())
        if n_missing:
            raise PipelineError(
                f"mask store: {name}: {n_missing} of {len(scores)} rows have none, by which they shall be judged; run "
                "the pseudo_label stage with a method that gives it, or set quality.thresholds: off"
            )


def require_strata(stratum: npt.NDArray[np.integer[Any]], n_strata: int) -> None:
    """Raise a PipelineError if a row belongs to none of the strata."""
    unknown = np.unique(stratum[(stratum < 0) | (stratum >= n_strata)]).tolist()
    if unknown:
        raise PipelineError(
            f"mask store: class_id (or stratum) {', '.join(map(str, unknown[:5]))} has no thresholds, which are there "
            f"for 0 to {n_strata - 1}; give one for each, or learn them on a data set of the same classes"
        )


def judge_scores(
    class_score: Columns,
    mask_quality: Columns,
    area_px: npt.NDArray[np.integer[Any]],
    stratum: npt.NDArray[np.integer[Any]],
    *,
    options: QualityOptions,
    limits: Limits | None = None,
    nms_decay: Columns | None = None,
) -> Tiers:
    """Sort rows into tiers, as the options say; see :func:`judge` for the columns and :func:`judge_rows` for the rest.

    Raises:
        PipelineError: If a row lacks a score, or its stratum thresholds.
        ValueError: If ``limits`` are needed and not given.
    """
    if options.thresholds == "off":
        return np.full(len(class_score), Tier.KEEP, dtype=np.int8)
    if options.thresholds == "single":
        return judge_product(
            class_score, mask_quality, area_px, score_thr=options.score_thr, margin=options.margin,
            min_area_px=options.min_area_px, nms_decay=nms_decay,
        )  # fmt: skip
    if options.thresholds == "fixed" and limits is None:
        lists = [each for each in (options.class_thr, options.mask_thr) if isinstance(each, tuple)]
        limits = Limits.fixed(options, len(lists[0]) if lists else int(stratum.max(initial=0)) + 1)
    if limits is None:
        raise ValueError(f"limits: expected them, as thresholds is {options.thresholds}")
    return judge(
        class_score, mask_quality, area_px, stratum, limits=limits, min_area_px=options.min_area_px,
        nms_decay=nms_decay, min_decay=options.min_decay,
    )  # fmt: skip


def judge_rows(
    rows: Instances,
    *,
    options: QualityOptions,
    limits: Limits | None = None,
    stratum: npt.NDArray[np.int64] | None = None,
) -> Tiers:
    """Sort the rows of an image into tiers, as the options say.

    Args:
        rows: N rows with ``class_score`` and ``mask_quality``.
        options: See :class:`QualityOptions`.
        limits: Thresholds that were learnt; ``calibrated`` and ``adaptive`` need them.
        stratum: (N,); the rows' classes when None.

    Returns:
        (N,) int8, values of :class:`Tier`.

    Raises:
        PipelineError: If a row lacks a score, or its stratum thresholds.
        ValueError: If ``limits`` are needed and not given.
    """
    return judge_scores(
        rows.class_score, rows.mask_quality, rows.area_px, rows.class_id if stratum is None else stratum,
        options=options, limits=limits, nms_decay=rows.nms_decay,
    )  # fmt: skip


def with_tiers(rows: Instances, tiers: Tiers, *, dropped: Literal["remove", "ignore"] = "remove") -> Instances:
    """Write the tiers into the rows: ambiguous ones get that status, which training ignores.

    A row whose status already says that it is not to be learnt keeps it.

    Args:
        rows: N rows.
        tiers: (N,), of :func:`judge_rows`.
        dropped: What becomes of dropped rows: gone, so that training sees background there, or ambiguous, too, which
            is right where something is known to be: at points, in crowds.
    """
    unsure = tiers < Tier.KEEP
    status = np.where(unsure & np.isin(rows.status, ("ok", "fallback")), "ambiguous", rows.status)
    changed = replace(rows, status=status)
    return changed if dropped == "ignore" else changed[tiers > Tier.DROP]
