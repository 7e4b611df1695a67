"""Precision and recall of masks that are taken as they are, such as pseudo-labels: no score decides any more."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.overlap import mask_iou
from pipeline.masks.store import MaskStore

MATCH_IOU = 0.5
"""A row is right if it meets a true instance of its class with at least this IoU."""


@dataclass(frozen=True)
class PrecisionRecall:
    """Counts by class.

    Args:
        n_right: (C,) rows that are right; no two for one true instance.
        n_found: (C,) rows.
        n_true: (C,) true instances.
    """

    n_right: npt.NDArray[np.int64]
    n_found: npt.NDArray[np.int64]
    n_true: npt.NDArray[np.int64]

    @property
    def precision(self) -> float:
        """Share of rows that are right; NaN without rows."""
        return _share(int(self.n_right.sum()), int(self.n_found.sum()))

    @property
    def recall(self) -> float:
        """Share of true instances that are found; NaN without any."""
        return _share(int(self.n_right.sum()), int(self.n_true.sum()))

    @property
    def mean_class_recall(self) -> float:
        """Mean of the recalls of the classes that have instances: rare ones count like common ones."""
        there = self.n_true > 0
        return float((self.n_right[there] / self.n_true[there]).mean()) if there.any() else math.nan

    @property
    def mean_class_precision(self) -> float:
        """Mean of the precisions of the classes that have instances; of a class without rows it is 0."""
        there = self.n_true > 0
        return float((self.n_right[there] / np.maximum(self.n_found[there], 1)).mean()) if there.any() else math.nan

    def metrics(self, prefix: str) -> dict[str, float | None]:
        """Give every figure under its name in ``metrics.json``; None where it is undefined."""
        values = {
            "precision": self.precision,
            "recall": self.recall,
            "mean_class_precision": self.mean_class_precision,
            "mean_class_recall": self.mean_class_recall,
        }
        return {f"{prefix}_{name}": float(f"{v:.6g}") if math.isfinite(v) else None for name, v in values.items()}


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def precision_recall(
    found: MaskStore, truth: MaskStore, image_ids: Sequence[str], *, class_names: Sequence[str]
) -> PrecisionRecall:
    """Compare the rows that are ``ok`` with the true instances.

    Rows go to true instances of their class greedily, the surest row first and to the instance of largest IoU that is
    still free, as in COCO's AP. True rows that are not ``ok`` (crowd regions) or have no pixels are left out, and so
    are rows without pixels.

    Args:
        found: Rows; their scores give the order alone.
        truth: True masks.
        image_ids: Images to evaluate; both stores have them.
        class_names: Names of the classes 0, 1, ….

    Raises:
        PipelineError: If a row is of a class without a name, or an image of two sizes.
    """
    k = len(class_names)
    right, rows_of, true_of = (np.zeros(k, dtype=np.int64) for _ in range(3))
    for image_id in sorted(image_ids):
        rows, true = (_sound(store.instances(image_id)) for store in (found, truth))
        if rows.size_hw != true.size_hw:
            raise PipelineError(
                f"{found.path}: {image_id} is {rows.size_hw} pixels (height, width), but {true.size_hw} in "
                f"{truth.path}; run the stage that makes the masks again, on the same prepared tables"
            )
        for store, one in ((found, rows), (truth, true)):
            if len(one) and not 0 <= one.class_id.min() <= one.class_id.max() < k:
                raise PipelineError(
                    f"{store.path}: {image_id} has a row of class {int(one.class_id.max())}, expected 0 to {k - 1}; "
                    "run the stage that makes the store again"
                )
        rows_of += np.bincount(rows.class_id, minlength=k)
        true_of += np.bincount(true.class_id, minlength=k)
        right += np.bincount(rows.class_id[_right_rows(rows, true)], minlength=k)
    return PrecisionRecall(right, rows_of, true_of)


def _sound(rows: Instances) -> Instances:
    return rows[(rows.status == "ok") & (rows.area_px > 0)]


def _right_rows(rows: Instances, true: Instances) -> list[int]:
    free = set(range(len(true)))
    right = []
    for row in np.argsort(-np.nan_to_num(rows.score, nan=1.0), kind="stable").tolist():
        same = sorted(one for one in free if true.class_id[one] == rows.class_id[row])
        ious = [mask_iou(rows, row, true, one) for one in same]
        if ious and max(ious) >= MATCH_IOU:
            free.remove(same[int(np.argmax(ious))])
            right.append(row)
    return right
