"""What judging pseudo-labels came to, and the figures of its plots."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

TIERS = ("drop", "ambiguous", "keep")
"""Names of tiers 0, 1 and 2, as in the columns of ``yields``."""
GOOD_IOU = 0.5
"""A mask with at least this IoU is right."""
PLANE_ROWS = 4000
"""No more rows than this are drawn; of more, every so-manieth."""
N_BINS = 20
_WILSON_Z = 1.96
_SLACK = 1e-6

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class QualityView:
    """What judging pseudo-labels came to.

    N rows lie on held-out labelled images, whose truth is known; N may be 0. K strata: classes or, where there is one
    class alone, sizes or densities.

    Args:
        title: Headline, such as the data set's name.
        facts: Name → value of what was run: method, thresholds, data set.
        names: K names of the strata.
        class_score: (N,) c, 0 to 1.
        mask_quality: (N,) m, 0 to 1.
        stratum: (N,) int, 0 to K − 1.
        iou: (N,) best IoU with a true mask, 0 for none.
        class_right: (N,) bool, whether the row's class is that of the true mask.
        class_counts: (N,) bool, rows that say something of the class score.
        tier: (N,) int, 0 drop, 1 ambiguous, 2 keep.
        class_thr: (K,) least c of kept rows, above 1 where none is kept; None for no limit.
        mask_thr: (K,) least m, likewise.
        score_thr: Least c · m · decay of kept rows, where one threshold judges them; None where not.
        yields: (K, 3) int, rows of the unlabelled images: dropped, ambiguous, kept.
        class_floor: (K,) least c of ambiguous rows; None leaves their band out of the plot.
        mask_floor: (K,) least m of ambiguous rows, likewise.
        score_floor: Least c · m · decay of ambiguous rows, likewise.

    Raises:
        ValueError: If lengths do not agree, or a value is out of its range.
    """

    title: str
    facts: Mapping[str, str]
    names: tuple[str, ...]
    class_score: Floats
    mask_quality: Floats
    stratum: Integers
    iou: Floats
    class_right: Flags
    class_counts: Flags
    tier: Integers
    class_thr: Floats | None
    mask_thr: Floats | None
    score_thr: float | None
    yields: Integers
    class_floor: Floats | None = None
    mask_floor: Floats | None = None
    score_floor: float | None = None

    def __post_init__(self) -> None:
        """Refuse columns that do not belong together."""
        n, k = len(self.class_score), len(self.names)
        for name in ("class_score", "mask_quality", "stratum", "iou", "class_right", "class_counts", "tier"):
            self._require_shape(name, (n,))
        for name in ("class_thr", "mask_thr", "class_floor", "mask_floor"):
            if getattr(self, name) is not None:
                self._require_shape(name, (k,))
        self._require_shape("yields", (k, 3))
        for name, top in (("class_score", 1), ("mask_quality", 1), ("iou", 1), ("stratum", k - 1), ("tier", 2)):
            values = getattr(self, name)
            wrong = values[~((values >= -_SLACK) & (values <= top + _SLACK))]  # NaN, too
            if len(wrong):
                raise ValueError(f"{name}: expected numbers from 0 to {top}, got {wrong[0]} (of {len(wrong)} such)")

    def _require_shape(self, name: str, shape: tuple[int, ...]) -> None:
        found = np.shape(getattr(self, name))
        if found != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {found}")

    def __len__(self) -> int:
        """Give N, the number of held-out rows."""
        return len(self.class_score)

    @property
    def right(self) -> Flags:
        """(N,) bool, rows whose mask and class are both right."""
        found: Flags = (np.asarray(self.iou) >= GOOD_IOU) & self.class_right
        return found

    def shown(self) -> Integers:
        """Give the numbers of the rows that are drawn, in their order: all, or :data:`PLANE_ROWS` spread evenly."""
        n = len(self)
        if n <= PLANE_ROWS:
            return np.arange(n)
        by_stratum = np.argsort(self.stratum, kind="stable")  # spread over the strata too
        return np.sort(by_stratum[np.arange(PLANE_ROWS) * n // PLANE_ROWS])


def plane_table(view: QualityView) -> pa.Table:
    """Give the rows that are drawn, with scores to six digits."""
    rows = view.shown()
    return pa.table(
        {
            "stratum": pa.array([view.names[k] for k in view.stratum[rows]], pa.string()),
            "class_score": _digits(view.class_score[rows]),
            "mask_quality": _digits(view.mask_quality[rows]),
            "iou": _digits(view.iou[rows]),
            "class_right": pa.array(view.class_right[rows].tolist(), pa.bool_()),
            "tier": pa.array([TIERS[tier] for tier in view.tier[rows]], pa.string()),
        }
    )


def class_reliability(view: QualityView) -> pa.Table:
    """Compare the class score with the share of right classes, over the rows of ``class_counts``."""
    counts = view.class_counts
    return reliability(view.class_score[counts], view.class_right[counts].astype(np.float64))


def mask_reliability(view: QualityView) -> pa.Table:
    """Compare the mask quality with the mean IoU, over all held-out rows."""
    return reliability(view.mask_quality, view.iou)


def reliability(scores: Floats, observed: Floats) -> pa.Table:
    """Average what was observed in bins of the score.

    Args:
        scores: (N,) 0 to 1.
        observed: (N,) 0 to 1, what a reliable score would be on average.

    Returns:
        A row for each bin that is not empty: ``bin_low`` ≤ score < ``bin_high`` (the last includes 1), ``rows``,
        ``mean_score``, ``observed``, and Wilson's interval of 95 % for it, ``observed_low`` to ``observed_high``. For
        values that are not all 0 or 1 that interval is too wide, never too narrow: they vary less.
    """
    edges = np.arange(N_BINS + 1) / N_BINS
    values = np.asarray(scores, dtype=np.float64)
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, N_BINS - 1)
    n = np.bincount(place, minlength=N_BINS)
    used = np.flatnonzero(n)
    n = n[used]
    mean_score = np.bincount(place, weights=values, minlength=N_BINS)[used] / n
    mean = np.bincount(place, weights=observed, minlength=N_BINS)[used] / n
    spread = _WILSON_Z**2 / n
    middle = (mean + spread / 2) / (1 + spread)
    half = _WILSON_Z * np.sqrt(np.clip(mean * (1 - mean), 0, None) / n + spread / (4 * n)) / (1 + spread)
    return pa.table(
        {
            "bin_low": edges[used],
            "bin_high": edges[used + 1],
            "rows": n,
            "mean_score": _digits(mean_score),
            "observed": _digits(mean),
            "observed_low": _digits(np.clip(middle - half, 0, 1)),
            "observed_high": _digits(np.clip(middle + half, 0, 1)),
        }
    )


def calibration_error(table: pa.Table) -> float | None:
    """Give the mean distance of score and observation over the rows of a reliability table; None without rows."""
    n, score, observed = (table[name].to_numpy() for name in ("rows", "mean_score", "observed"))
    return float(np.average(np.abs(score - observed), weights=n)) if len(n) else None


def yield_table(view: QualityView) -> pa.Table:
    """Give the unlabelled images' rows of each stratum and tier, kept ones first."""
    tiers = (2, 1, 0)
    return pa.table(
        {
            "stratum": pa.array([name for name in view.names for _ in tiers], pa.string()),
            "tier": pa.array([TIERS[tier] for _ in view.names for tier in tiers], pa.string()),
            "rows": pa.array([int(counts[tier]) for counts in view.yields for tier in tiers], pa.int64()),
        }
    )


def kept_precision(view: QualityView, stratum: int | None = None) -> tuple[float | None, int]:
    """Give the share of the kept held-out rows that are right, None without rows, and their number.

    Args:
        view: What judging came to.
        stratum: That one only; None for all.
    """
    kept = np.asarray(view.tier) == TIERS.index("keep")
    if stratum is not None:
        kept = kept & (np.asarray(view.stratum) == stratum)
    n = int(kept.sum())
    return (float(view.right[kept].mean()) if n else None), n


def _digits(values: Floats) -> npt.NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64).round(6)
