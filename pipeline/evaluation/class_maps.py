"""How good class maps are: mean IoU over classes with the true masks, and how much of the image they know."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.geometry.point_owners import UNKNOWN
from pipeline.masks.instances import Instances


@dataclass(frozen=True)
class ClassMapQuality:
    """Figures of class maps, 0 to 1; NaN without any image.

    Args:
        mean_iou: IoU of each class and of background, over all known pixels, averaged over those that are there.
        object_iou: The same with all classes taken as one.
        known_frac: Share of the pixels that the maps know.
    """

    mean_iou: float
    object_iou: float
    known_frac: float


def class_map_quality(pairs: Iterable[tuple[npt.NDArray[np.uint8], Instances]], *, n_classes: int) -> ClassMapQuality:
    """Compare class maps with true masks.

    Args:
        pairs: (H, W) class map (0 background, k + 1 class_id k, 255 unknown) and true rows of each image; rows that are
            not ``ok`` (crowd regions) are left out where they lie.
        n_classes: Number of classes, without background.
    """
    side = n_classes + 1
    counts = np.zeros((side, side), np.int64)
    n_known = n_pixels = 0
    for classes, true in pairs:
        owners = true.label_map()
        kinds = np.concatenate([[0], np.where(true.status == "ok", true.class_id + 1, UNKNOWN)])
        truth = kinds[owners]
        n_pixels += int((truth != UNKNOWN).sum())
        both = (truth != UNKNOWN) & (classes != UNKNOWN)
        n_known += int(both.sum())
        counts += np.bincount(truth[both] * side + classes[both], minlength=side**2).reshape(side, side)
    object_counts = np.array(
        [[counts[0, 0], counts[0, 1:].sum()], [counts[1:, 0].sum(), counts[1:, 1:].sum()]], np.int64
    )
    return ClassMapQuality(
        mean_iou=float(np.mean(ious)) if len(ious := _ious(counts)) else math.nan,
        object_iou=float(_ious(object_counts)[-1]) if object_counts[1].sum() + object_counts[:, 1].sum() else math.nan,
        known_frac=n_known / n_pixels if n_pixels else math.nan,
    )


def _ious(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """IoU of each class that is there, from true × found counts."""
    shared = np.diag(counts)
    union = counts.sum(0) + counts.sum(1) - shared
    return np.asarray(shared[union > 0] / union[union > 0], np.float64)
