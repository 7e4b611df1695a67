"""Unlabelled images as training sees them: a teacher's candidates for heads, judged or not, and their masks."""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline.datasets.prepared import Prepared
from pipeline.geometry.circles import circle_pixels
from pipeline.masks.instances import Instances
from pipeline.masks.store import MaskStore
from pipeline.models.crowd_net import STRIDE
from pipeline.pseudo_labels.soft_view import View, require_soft
from pipeline.pseudo_labels.uncertainty import joined_pixel_weights
from pipeline.training.scenes import Scene, SceneSource, scene_pixels

LEAST_IGNORED_PX, MOST_IGNORED_PX = float(STRIDE), 16.0
"""Bounds of the disc around an ignored head; the greater is that of exclusivity's around unsure heads."""


def is_judged(masks: MaskStore) -> bool:
    """Tell whether thresholds have sorted the rows of a store, as its provenance says; the stage judge writes it."""
    quality = masks.provenance.params.get("quality", {})
    return str(quality.get("thresholds", "off")) != "off"


def head_prob(rows: Instances, *, judged: bool) -> npt.NDArray[np.float64]:
    """Say how sure each candidate is: (N,), its probability or, judged, inf for kept rows and 0 for all others.

    So a kept row is a confident head whatever its probability, as judging has the last word.
    """
    if judged:
        return np.where(rows.status == "ok", math.inf, 0.0)
    return np.asarray(rows.score, dtype=np.float64)


def ignored_pixels(rows: Instances, label_map: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Mark what no loss shall look at: where rows lie that were not kept, so that they are no background.

    That is their masks, and discs around their points, of half their circle's radius but within 4 to 16 px, so that a
    row with a bad mask or none is left alone, too. Pixels of kept masks are never ignored.

    Args:
        rows: Of a judged store, in the order of the label map.
        label_map: (H, W).
    """
    unsure = np.append(False, rows.status != "ok")
    ignored: npt.NDArray[np.bool_] = unsure[label_map]
    chosen = unsure[1:]
    radius_px = np.clip(rows.radius_px[chosen] / 2, LEAST_IGNORED_PX, MOST_IGNORED_PX)
    discs = circle_pixels(torch.from_numpy(rows.points_xy[chosen]), torch.from_numpy(radius_px), size_hw=rows.size_hw)
    ignored[discs.y_px.numpy(), discs.x_px.numpy()] = True
    ignored &= (label_map == 0) | unsure[label_map]
    return ignored


def cell_weights(rows: Instances) -> npt.NDArray[np.float32]:
    """Weigh the stride-4 cells of an image by the certainty of its masks: (⌈H/4⌉, ⌈W/4⌉) float32, 0 to 1.

    Raises:
        PipelineError: If a row with a mask has no soft mask.
    """
    height, width = rows.size_hw
    padded = -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE
    view = View.whole(rows.size_hw, rows.size_hw, padded)
    weights: npt.NDArray[np.float32] = joined_pixel_weights(rows, view, stride=STRIDE).numpy()
    return weights


def require_soft_masks(masks: MaskStore) -> None:
    """Make sure that a store has what weights are made of.

    Raises:
        PipelineError: If a row with a mask has no soft mask.
    """
    for image_id in masks.image_ids:
        rows = masks.instances(image_id)
        require_soft(rows, np.ones(len(rows), dtype=bool), why="retrain.unlabeled.pixel_weights: uncertainty")


def pseudo_labeled_scenes(
    prepared: Prepared,
    masks: MaskStore,
    *,
    cache_mib: int,
    pixel_weights: Literal["off", "uncertainty"] = "off",
) -> SceneSource:
    """Give the images of a store of pseudo-labels, with its candidates for heads.

    Args:
        prepared: The data set; no points are read.
        masks: The store, judged or not.
        cache_mib: Memory for scenes, in MiB.
        pixel_weights: Whether to weigh the cells.
    """
    judged = is_judged(masks)

    def read(image_id: str) -> Scene:
        rows, label_map = masks.instances(image_id), masks.label_map(image_id)
        return Scene(
            scene_pixels(prepared, image_id),
            np.asarray(rows.points_xy, dtype=np.float64),
            head_prob(rows, judged=judged),
            label_map,
            ignored=ignored_pixels(rows, label_map) if judged else None,
            cell_weights=cell_weights(rows) if pixel_weights != "off" else None,
        )

    return SceneSource(masks.image_ids, read, cache_mib=cache_mib)
