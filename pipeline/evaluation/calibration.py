"""The count threshold that suits held-out labelled images best; off by default, the paper counts logits above 0."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LIMIT_LOGIT = 5.0
"""Thresholds beyond ± this are not looked at: probabilities below 0.7 % or above 99.3 %."""


@dataclass(frozen=True)
class Calibration:
    """A chosen threshold and what it does where it was chosen.

    Args:
        threshold: A cell counts as a head if its logit is greater; a float32 value. 0 is the paper's.
        mae: MAE of the counts on the held-out images with that threshold, heads.
        mae_uncalibrated: The same with threshold 0.
        n_images: Number of held-out images.
    """

    threshold: float
    mae: float
    mae_uncalibrated: float
    n_images: int


def calibrate_threshold(
    logits: Sequence[npt.NDArray[np.float32]], true_counts: Sequence[int], *, limit: float = LIMIT_LOGIT
) -> Calibration:
    """Choose the threshold on logits with the least MAE of the count (of XMask's count, section 7), exactly.

    As the threshold falls below a logit, one image counts one head more. So one pass over all logits, from the
    greatest down, gives the error between any two of them: O(n log n). Of equally good thresholds the one nearest 0 is
    taken: 0 itself if it is among them, else the middle between two logits.

    Args:
        logits: Of each image, all logits above ``-limit``, in any order and shape; lesser ones change nothing.
        true_counts: Annotated heads of each image.
        limit: Thresholds from ``-limit`` to ``limit`` are tried.

    Raises:
        ValueError: If there is no image, or not one count for each.
    """
    if not logits or len(logits) != len(true_counts):
        raise ValueError(f"calibration: expected images and a count for each, got {len(logits)} and {len(true_counts)}")
    values: list[npt.NDArray[np.float32]] = []
    changes: list[npt.NDArray[np.int64]] = []
    error = error_at_zero = 0
    for image, true in zip(logits, true_counts, strict=True):
        falling = -np.sort(-np.asarray(image, dtype=np.float32).ravel())
        n_sure = int((falling > limit).sum())
        within = falling[(falling > -limit) & (falling <= limit)]
        error += abs(n_sure - true)
        error_at_zero += abs(int((falling > 0).sum()) - true)
        values.append(within)
        changes.append(np.where(n_sure + np.arange(len(within)) < true, -1, 1))
    value, change = np.concatenate(values), np.concatenate(changes)
    order = np.argsort(-value, kind="stable")
    value = value[order]
    ends = np.append(value[1:] != value[:-1], True) if len(value) else np.zeros(0, dtype=bool)
    # Interval k lies from the k-th distinct logit (not counted there) up to the one before.
    bounds = np.concatenate([[np.float32(limit)], value[ends], [np.float32(-limit)]])
    errors = error + np.concatenate([[0], np.cumsum(change[order])[ends]])
    best = np.flatnonzero(errors == errors.min())
    thresholds = [_nearest_to_zero(bounds[k + 1], bounds[k], is_top=k == 0) for k in best]
    return Calibration(
        threshold=min(thresholds, key=abs),
        mae=float(errors.min()) / len(logits),
        mae_uncalibrated=error_at_zero / len(logits),
        n_images=len(logits),
    )


def _nearest_to_zero(low: np.float32, high: np.float32, *, is_top: bool) -> float:
    """Give 0 if low ≤ 0 < high (up to the top: ≤), else the middle, rounded so that it stays below high."""
    if low <= 0 < high or (is_top and low <= 0):
        return 0.0
    middle = np.float32((np.float64(low) + np.float64(high)) / 2)
    return float(low if middle >= high else middle)


def matching_threshold(scores: Sequence[npt.NDArray[Any]], *, mean_count: float) -> float:
    """Give the threshold at or above which there are, on average over images, as many scores as wanted.

    Args:
        scores: Per image, the candidates' probabilities.
        mean_count: Wanted mean number of candidates of an image; all are taken where there are not so many.

    Returns:
        A probability strictly between 0 and 1; 0.5 without candidates.
    """
    ranked = np.sort(np.concatenate([np.asarray(each, dtype=np.float64) for each in scores] or [np.zeros(0)]))[::-1]
    if not len(ranked):
        return 0.5
    wanted = min(max(round(mean_count * len(scores)), 1), len(ranked))
    return float(np.clip(ranked[wanted - 1], 1e-6, 1 - 1e-6))
