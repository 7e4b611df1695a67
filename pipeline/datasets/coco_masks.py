"""The three forms of a COCO ``segmentation``: polygons, run lengths as numbers, run lengths compressed."""

import math
from typing import Any

import numpy as np
from rlemasklib import RLEMask

from pipeline.masks.rle import Window

MIN_NUMBERS = 6
"""A polygon of fewer numbers than three corners have covers nothing."""
MAX_ABS_PX = 2**20
EMPTY = Window(np.zeros((0, 0), np.bool_), 0, 0)


def segmentation_to_window(segmentation: Any, size_hw: tuple[int, int]) -> Window:
    """Turn a ``segmentation`` into the pixels that COCO's own tools give it, in the tight box around them.

    Args:
        segmentation: A list of polygons ``[x, y, x, y, …]``, corner-based pixels, whose union it is; or
            ``{"size": [height, width], "counts": …}`` with counts as a list or as compressed text; or ``None``.
        size_hw: Height and width of the image.

    Returns:
        The mask; without pixels where there is no polygon of at least three corners, or all lies outside the image.

    Raises:
        ValueError: If it is none of these, or was made for an image of another size.
    """
    if segmentation is None or (isinstance(segmentation, list) and not segmentation):
        return EMPTY
    if isinstance(segmentation, list):
        masks = [_polygon(one, size_hw) for one in segmentation if not isinstance(one, list) or len(one) >= MIN_NUMBERS]
        if not masks:
            return EMPTY
        return _window(masks[0] if len(masks) == 1 else RLEMask.union(masks))
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        raise ValueError(f"segmentation: expected polygons or run lengths, got {str(segmentation)[:40]}")
    stated = segmentation["size"]
    if not isinstance(stated, list) or [int(side) for side in stated] != list(size_hw):
        raise ValueError(f"segmentation: its size is {stated} (height, width), the image's is {list(size_hw)}")
    counts = segmentation["counts"]
    try:
        if isinstance(counts, str):
            return _window(RLEMask.from_dict({"size": size_hw, "counts": counts.encode("ascii")}))
        numbers = np.array(counts, np.int64)
        if numbers.ndim != 1 or (numbers < 0).any() or numbers.max(initial=0) > np.iinfo(np.uint32).max:
            raise ValueError("run lengths must be at least 0")
        return _window(RLEMask.from_counts(numbers.astype(np.uint32), size_hw))
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"segmentation: its run lengths do not fit an image of {list(size_hw)} ({error})") from error


def _polygon(corners: Any, size_hw: tuple[int, int]) -> RLEMask:
    if not isinstance(corners, list):
        raise ValueError(f"segmentation: expected a list of polygons, got a list with {str(corners)[:40]}")
    if len(corners) % 2:
        raise ValueError(f"segmentation: a polygon has {len(corners)} numbers, expected x and y of each corner")
    for value in corners:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and abs(value) <= MAX_ABS_PX):
            raise ValueError(f"segmentation: a polygon has the corner coordinate {str(value)[:40]}")
    return RLEMask.from_polygon(np.array(corners, np.float64).reshape(-1, 2), imshape=size_hw)


def _window(mask: RLEMask) -> Window:
    x, y, width, height = (int(value) for value in mask.bbox().tolist())
    if width == 0 or height == 0:
        return EMPTY
    pixels = mask.crop([x, y, width, height], inplace=True).to_array(order="C")
    return Window(np.asarray(pixels, np.uint8).view(np.bool_), x, y)
