"""Detections that count: the score from which they do, how well they count, and how well they cover what is there.

AP looks at detections of every score. A user keeps those above one score; it is chosen on held-out labelled images.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.calibration import Calibration, calibrate_threshold
from pipeline.evaluation.counting import counting_errors
from pipeline.evaluation.instance_iou import MatchResult, Overlaps, match_overlaps, pool_matches
from pipeline.masks.instances import Instances
from pipeline.masks.overlap import mask_iou
from pipeline.masks.store import MaskStore

_LEAST = 1e-6


def choose_score_threshold(scores: Sequence[npt.NDArray[np.floating]], true_counts: Sequence[int]) -> float:
    """Choose the score above which detections count, so that the MAE of the count is least, exactly.

    Scores become logits, and :func:`calibrate_threshold` chooses among them: of equally good thresholds the one nearest
    0.5, and none nearer to 0 or 1 than 0.7 %.

    Args:
        scores: Of each held-out image, the scores of all its detections, 0 to 1, in any order.
        true_counts: Objects of each image.

    Raises:
        ValueError: If there is no image, or not one count for each.
    """
    bounded = [np.clip(np.asarray(one, dtype=np.float64), _LEAST, 1 - _LEAST) for one in scores]
    logits = [(np.log(one) - np.log1p(-one)).astype(np.float32) for one in bounded]
    chosen: Calibration = calibrate_threshold(logits, true_counts)
    return 1 / (1 + math.exp(-chosen.threshold))


def counted_figures(
    found: MaskStore, truth: MaskStore, true_counts: Mapping[str, int | None], *, threshold: float
) -> dict[str, float | None]:
    """Keep the detections above a score; compare their number and their masks with the truth, classes not told apart.

    Args:
        found: Detections with ``score``.
        truth: True masks; rows that are not ``ok`` (crowd regions) or have no pixels are left out.
        true_counts: Image → its number of objects, None where that is not known (an image with a crowd region).
        threshold: Score above which a detection counts.

    Returns:
        ``matched_iou_truth``: sum of the IoUs of the best one-to-one matching / number of true masks of all images.
        ``mae``: mean absolute error of the count over the images whose count is known. Both None where undefined.
    """
    matches, counted, true = [], [], []
    for image_id in sorted(true_counts):
        rows, there = found.instances(image_id), truth.instances(image_id)
        kept = rows[rows.score > threshold]
        matches.append(match_instances(kept, there[there.status == "ok"]))
        number = true_counts[image_id]
        if number is not None:
            counted.append(len(kept))
            true.append(number)
    figures = {
        "matched_iou_truth": pool_matches(matches).mean_matched_iou,
        "mae": counting_errors(counted, true).mae,
    }
    return {name: float(f"{value:.6g}") if math.isfinite(value) else None for name, value in figures.items()}


def match_instances(found: Instances, true: Instances) -> MatchResult:
    """Match masks of one image one to one so that the sum of their IoUs is greatest; masks may overlap each other.

    A mask without pixels does not count. ``predicted`` and ``true`` of the result are rows.

    Raises:
        ValueError: If the images differ in size.
    """
    solid_found, solid_true = np.flatnonzero(found.area_px > 0), np.flatnonzero(true.area_px > 0)
    pairs = [(p, t, mask_iou(found, p, true, t)) for p in solid_found.tolist() for t in solid_true.tolist()]
    meeting = [pair for pair in pairs if pair[2] > 0]
    return match_overlaps(
        Overlaps(
            predicted=np.array([p for p, _, _ in meeting], dtype=np.int64),
            true=np.array([t for _, t, _ in meeting], dtype=np.int64),
            iou=np.array([iou for _, _, iou in meeting], dtype=np.float64),
            n_predicted=len(solid_found),
            n_true=len(solid_true),
        )
    )
