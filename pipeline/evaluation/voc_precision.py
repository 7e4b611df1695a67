"""VOC's mask AP: a detection counts for the true instance that it overlaps most, found once; area under all points.

The rule of the figures mAP25/50/70/75 of papers on VOC 2012. It differs from COCO's in two things: a detection whose
best instance is taken does not look for another one, and precision is integrated over every recall, not over 101.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

VOC_IOUS = (0.25, 0.5, 0.7, 0.75)
"""IoU at which a detection is right: those of mAP25, mAP50, mAP70 and mAP75."""


class VocPrecision:
    """Collects detections class by class, and gives VOC's AP.

    Args:
        n_classes: Classes 0, 1, ….
    """

    def __init__(self, n_classes: int) -> None:
        self._n_true = np.zeros(n_classes, np.int64)
        self._scores: list[list[npt.NDArray[np.float64]]] = [[] for _ in range(n_classes)]
        self._right: list[list[npt.NDArray[np.bool_]]] = [[] for _ in range(n_classes)]

    def add(
        self, class_id: int, scores: Sequence[float], ious: npt.NDArray[np.float64], regions: npt.NDArray[np.bool_]
    ) -> None:
        """Take in one class of one image.

        Args:
            class_id: The class.
            scores: D scores, highest first.
            ious: (D, T) IoU with the class's true rows; with a region, the share of the detection that lies in it.
            regions: (T,) which of them are regions: no instance to find, and detections in them count neither way.
        """
        self._n_true[class_id] += int((~regions).sum())
        if not len(scores):
            return
        right = np.zeros((len(VOC_IOUS), len(scores)), bool)
        counted = np.ones((len(VOC_IOUS), len(scores)), bool)
        apart, within = ious[:, ~regions], ious[:, regions]
        overlap = apart.max(axis=1, initial=0.0)
        best = apart.argmax(axis=1) if apart.shape[1] else np.zeros(len(scores), np.int64)
        for k, iou in enumerate(VOC_IOUS):
            finds = np.flatnonzero(overlap >= iou)
            right[k, finds[np.unique(best[finds], return_index=True)[1]]] = True
            counted[k] = (overlap >= iou) | (within.max(axis=1, initial=0.0) < iou)
        # a detection that does not count is marked by no score, at its own IoU alone
        self._scores[class_id].append(np.where(counted, np.asarray(scores, np.float64), -np.inf))
        self._right[class_id].append(right)

    def result(self) -> Mapping[float, float]:
        """Give IoU → mean AP over the classes that have true instances; NaN where none has."""
        found: dict[float, float] = {}
        for k, iou in enumerate(VOC_IOUS):
            each = [self._class_ap(class_id, k) for class_id in np.flatnonzero(self._n_true).tolist()]
            found[iou] = float(np.mean(each)) if each else math.nan
        return found

    def _class_ap(self, class_id: int, k: int) -> float:
        if not self._scores[class_id]:
            return 0.0
        scores = np.concatenate([one[k] for one in self._scores[class_id]])
        right = np.concatenate([one[k] for one in self._right[class_id]])
        order = np.argsort(-scores, kind="stable")
        order = order[np.isfinite(scores[order])]
        hits = np.cumsum(right[order])
        precision = hits / np.arange(1, len(order) + 1)
        best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
        return float(best_from_here[right[order]].sum() / self._n_true[class_id])
