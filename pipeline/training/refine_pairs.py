"""What the refiner learns from: a teacher's rough masks of the strong images, each with the true mask it stands for."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.datasets.prepared import Prepared
from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.overlap import mask_iou
from pipeline.masks.rle import rle_to_window
from pipeline.masks.store import MaskStore


class Rough(NamedTuple):
    """A mask to refine.

    Attributes:
        size_hw: Size of its image.
        class_id: Class of its point.
        point_xy: Its point, image pixels.
        box_xywh: Tight box, image pixels.
        rle: COCO compressed counts of the full frame.
    """

    size_hw: tuple[int, int]
    class_id: int
    point_xy: tuple[float, float]
    box_xywh: tuple[int, int, int, int]
    rle: bytes


class RefinePair(NamedTuple):
    """A rough mask and the true one.

    Attributes:
        image_id: Their image.
        rough: The rough mask.
        truth: COCO compressed counts of the true mask.
        truth_px: Its pixels.
    """

    image_id: str
    rough: Rough
    truth: bytes
    truth_px: int


def is_refinable(rows: Instances) -> npt.NDArray[np.bool_]:
    """Tell which rows can be refined: those that are ``ok`` and have pixels."""
    refinable: npt.NDArray[np.bool_] = (rows.status == "ok") & (rows.area_px > 0)
    return refinable


def rough_mask(rows: Instances, row: int) -> Rough:
    """Give one row as a mask to refine."""
    x, y = rows.points_xy[row].tolist()
    left, top, width, height = rows.boxes_xywh[row].tolist()
    return Rough(rows.size_hw, int(rows.class_id[row]), (x, y), (left, top, width, height), rows.rle[row])


def require_known_classes(rows: Instances, n_classes: int, store: MaskStore, image_id: str) -> None:
    """Refuse rows of a class for which the refiner has no heatmap.

    Raises:
        PipelineError: If there is one.
    """
    if len(rows) and not (rows.class_id.min() >= 0 and rows.class_id.max() < n_classes):
        raise PipelineError(
            f"{store.path}: {image_id} has rows of class {int(rows.class_id.min())} to {int(rows.class_id.max())}, "
            f"expected 0 to {n_classes - 1}; run the stage that makes the store again, on the same prepared tables"
        )


def refine_pairs(
    prepared: Prepared, truth: MaskStore, rough: Sequence[MaskStore], image_ids: Sequence[str], *, n_classes: int
) -> list[RefinePair]:
    """Pair the rough masks of images with true masks of the same class.

    A rough mask stands for the mask of its own point, where the truth has that point and its mask holds it, and
    otherwise for the true mask with the greatest IoU; one that meets none is left out. (The published rule is the
    nearest true mask alone: it would teach that a mask which spilled over to a neighbour means the neighbour, whatever
    the point says.) Rows that are not ``ok`` or have no pixels are left out on both sides.

    Args:
        prepared: The data set; gives the images' sizes.
        truth: True masks; read for these images only.
        rough: Stores of one teacher's checkpoints.
        image_ids: Strong images; a rough store may lack some.
        n_classes: Number of classes.

    Returns:
        The pairs, image by image, store by store, row by row.

    Raises:
        PipelineError: If the truth lacks an image, sizes differ, or a class is unknown.
    """
    pairs = []
    for image_id in sorted(image_ids):
        true = truth.instances(image_id)
        true = true[is_refinable(true)]
        for store in rough:
            if image_id not in store:
                continue
            rows = store.instances(image_id)
            require_known_classes(rows, n_classes, store, image_id)
            if not rows.size_hw == true.size_hw == prepared.image(image_id).size_hw:
                raise PipelineError(
                    f"{store.path}: {image_id} is {rows.size_hw} pixels (height, width), {true.size_hw} in "
                    f"{truth.path} and {prepared.image(image_id).size_hw} in {prepared.folder}; run prepare again, and "
                    "the stages that make the masks"
                )
            for row in np.flatnonzero(is_refinable(rows)).tolist():
                found = _true_row(rows, row, true)
                if found is not None:
                    pairs.append(RefinePair(image_id, rough_mask(rows, row), true.rle[found], int(true.area_px[found])))
    return pairs


def _true_row(rows: Instances, row: int, true: Instances) -> int | None:
    """Find the true mask that a rough one stands for."""
    candidates = np.flatnonzero(true.class_id == rows.class_id[row]).tolist()
    for candidate in candidates:
        if true.point_id[candidate] == rows.point_id[row] and _holds(true, candidate, rows.points_xy[row].tolist()):
            return int(candidate)
    ious = [mask_iou(rows, row, true, candidate) for candidate in candidates]
    if not ious or max(ious) == 0:
        return None
    return int(candidates[int(np.argmax(ious))])


def _holds(rows: Instances, row: int, point_xy: Sequence[float]) -> bool:
    """Whether a point lies on a mask."""
    x, y = (int(np.floor(value + 0.5)) for value in point_xy)
    left, top, width, height = rows.boxes_xywh[row].tolist()
    if not (left <= x < left + width and top <= y < top + height):
        return False
    return bool(rle_to_window(rows.rle[row], rows.size_hw, (x, y, 1, 1))[0, 0])
