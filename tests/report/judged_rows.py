"""Rows of a made-up teacher, judged: scores go with IoU as they do in a trained network."""

from typing import Any

import numpy as np

from pipeline.report.quality_view import QualityView


def judged(n: int = 900, names: tuple[str, ...] = ("disc", "square", "ring"), **changes: Any) -> QualityView:
    """Give N held-out rows; rarer strata come later, and a class threshold of 0.4, one of 0.7 for masks."""
    rng = np.random.default_rng(5)
    k = len(names)
    commonness = 1 / (1 + np.arange(k)) if k else np.ones(0)
    stratum = rng.choice(k, n, p=commonness / commonness.sum()) if k else np.zeros(0, dtype=np.int64)
    found = rng.random(n) < 0.7
    iou = np.where(found, rng.beta(6, 1.8, n), rng.beta(0.5, 4, n) * 0.5)
    right = found & (rng.random(n) < 0.85)
    class_score = np.where(right, rng.beta(4, 3, n), rng.beta(1.4, 5, n)).astype(np.float32)
    mask_quality = np.clip(0.52 + 0.45 * iou + rng.normal(0, 0.06, n), 0.5, 1).astype(np.float32)
    class_thr, mask_thr = np.full(k, 0.4), np.full(k, 0.7)
    floors = {"class_floor": class_thr - 0.15, "mask_floor": mask_thr - 0.15}
    columns: dict[str, Any] = {
        "title": "Shapes", "facts": {"thresholds": "fixed", "data set": "shapes"}, "names": names,
        "class_score": class_score, "mask_quality": mask_quality, "stratum": stratum, "iou": iou,
        "class_right": right, "class_counts": iou >= 0.5, "class_thr": class_thr, "mask_thr": mask_thr,
        "score_thr": None, **floors,
    }  # fmt: skip
    keep = (class_score >= 0.4) & (mask_quality >= 0.7)
    near = (class_score >= 0.25) & (mask_quality >= 0.55)
    columns["tier"] = np.where(keep, 2, np.where(near, 1, 0)).astype(np.int8)
    columns["yields"] = np.array([[7 * (k - i), 3 + i, 11 * (k - i) ** 2] for i in range(k)]).reshape(k, 3)
    return QualityView(**(columns | changes))
