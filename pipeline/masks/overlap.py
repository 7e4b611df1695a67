"""How far two masks of one image overlap, decoded only where their boxes meet."""

from pipeline.masks.instances import Instances
from pipeline.masks.rle import rle_to_window


def shared_px(one: Instances, row: int, other: Instances, other_row: int) -> int:
    """Count the pixels that two masks share.

    Args:
        one: Instances of an image.
        row: Row of ``one``.
        other: Instances of the same image.
        other_row: Row of ``other``.

    Raises:
        ValueError: If the images differ in size, or run lengths are damaged.
    """
    if one.size_hw != other.size_hw:
        raise ValueError(f"size_hw: expected masks of one image, got {one.size_hw} and {other.size_hw}")
    x, y, w, h = one.boxes_xywh[row].tolist()
    other_x, other_y, other_w, other_h = other.boxes_xywh[other_row].tolist()
    left, top = max(x, other_x), max(y, other_y)
    width, height = min(x + w, other_x + other_w) - left, min(y + h, other_y + other_h) - top
    if width <= 0 or height <= 0:
        return 0
    box = left, top, width, height
    both = rle_to_window(one.rle[row], one.size_hw, box) & rle_to_window(other.rle[other_row], one.size_hw, box)
    return int(both.sum())


def mask_iou(one: Instances, row: int, other: Instances, other_row: int) -> float:
    """Give the IoU of two masks, 0 where both are empty; arguments and errors as in :func:`shared_px`."""
    shared = shared_px(one, row, other, other_row)
    union = int(one.area_px[row]) + int(other.area_px[other_row]) - shared
    return shared / union if union else 0.0
