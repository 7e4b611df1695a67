"""Masks as run lengths: COCO's compressed counts of the whole image, encoded and decoded in small windows.

The counts run down the columns of the full frame (COCO's column-major order), but no full-frame mask is ever made: a
window is encoded and its run lengths are padded to the image, or cropped before they are decoded.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rlemasklib import RLEMask

MAX_LABELS = 2**31 - 1


class Window(NamedTuple):
    """A mask in a window of the image.

    Attributes:
        mask: (h, w) bool.
        x0: Column of the window's left edge, image pixels.
        y0: Row of the window's top edge, image pixels.
    """

    mask: npt.NDArray[np.bool_]
    x0: int
    y0: int


class EncodedWindow(NamedTuple):
    """Run lengths of one mask with what a store keeps beside them.

    Attributes:
        rle: COCO compressed counts of the full frame.
        box_xywh: Tight box around the mask, image pixels; zeros for an empty mask.
        area_px: Number of pixels in the mask.
    """

    rle: bytes
    box_xywh: tuple[int, int, int, int]
    area_px: int


def encode_window(mask: npt.NDArray[np.bool_], x0: int, y0: int, size_hw: tuple[int, int]) -> EncodedWindow:
    """Encode a mask given in a window of the image.

    Args:
        mask: (h, w) bool; a window without rows or columns is an empty mask.
        x0: Column of the window's left edge, image pixels.
        y0: Row of the window's top edge, image pixels.
        size_hw: Height and width of the image.

    Raises:
        ValueError: If the window does not lie inside the image.
    """
    height, width = size_hw
    if mask.ndim != 2:
        raise ValueError(f"mask: expected a window of shape (h, w), got shape {mask.shape}")
    h, w = mask.shape
    if h == 0 or w == 0:
        return EncodedWindow(empty_rle(size_hw), (0, 0, 0, 0), 0)
    below, right = height - y0 - h, width - x0 - w
    if min(x0, y0, below, right) < 0:
        raise ValueError(
            f"window: {h} x {w} pixels at x0 {x0}, y0 {y0} leaves the image of {height} x {width}; clip it first"
        )
    coded = RLEMask.from_array(mask.view(np.uint8) if mask.dtype == np.bool_ else (mask != 0).view(np.uint8))
    area_px = int(coded.area())
    if area_px == 0:
        return EncodedWindow(empty_rle(size_hw), (0, 0, 0, 0), 0)
    box_x, box_y, box_w, box_h = (int(value) for value in coded.bbox().tolist())
    rle: bytes = coded.pad(y0, below, x0, right).to_dict()["counts"]
    return EncodedWindow(rle, (box_x + x0, box_y + y0, box_w, box_h), area_px)


def window_to_rle(mask: npt.NDArray[np.bool_], x0: int, y0: int, size_hw: tuple[int, int]) -> bytes:
    """Give the COCO compressed counts of a mask given in a window; see :func:`encode_window`."""
    return encode_window(mask, x0, y0, size_hw).rle


def empty_rle(size_hw: tuple[int, int]) -> bytes:
    """Give the COCO compressed counts of a mask without pixels."""
    rle: bytes = RLEMask.zeros(size_hw).to_dict()["counts"]
    return rle


def rle_to_window(
    rle: bytes, size_hw: tuple[int, int], box_xywh: tuple[int, int, int, int] | npt.NDArray[np.integer]
) -> npt.NDArray[np.bool_]:
    """Decode the part of a mask that lies in a box.

    Args:
        rle: COCO compressed counts of the full frame.
        size_hw: Height and width of the image.
        box_xywh: Box inside the image, image pixels; it need not be tight.

    Returns:
        (h, w) bool, row-major.

    Raises:
        ValueError: If the counts do not fit the image.
    """
    x, y, w, h = (int(value) for value in box_xywh)
    if w == 0 or h == 0:
        return np.zeros((h, w), dtype=np.bool_)
    window: npt.NDArray[np.uint8] = _decoded(rle, size_hw).crop([x, y, w, h], inplace=True).to_array(order="C")
    return window.view(np.bool_)


def rles_to_label_map(rles: Sequence[bytes], size_hw: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Paint masks into one map; where two claim a pixel, the later one has it.

    Args:
        rles: COCO compressed counts of the full frame, one for each instance.
        size_hw: Height and width of the image.

    Returns:
        (H, W) int32: 0 is background, k + 1 is ``rles[k]``.

    Raises:
        ValueError: If counts do not fit the image.
    """
    label_map = np.zeros(size_hw, dtype=np.int32)
    # The library paints runs into uint8 arrays only, with one value per channel: a label is its own four bytes.
    channels = label_map.view(np.uint8).reshape(*size_hw, 4)
    labels = np.arange(1, len(rles) + 1, dtype=np.int32).view(np.uint8).reshape(-1, 4)
    for rle, label in zip(rles, labels, strict=True):
        _decoded(rle, size_hw).decode_into(channels, fg_value=label)
    return label_map


def _decoded(rle: bytes, size_hw: tuple[int, int]) -> RLEMask:
    try:
        return RLEMask.from_dict({"size": size_hw, "counts": rle})
    except ValueError as error:
        raise ValueError(f"rle: counts do not fit an image of {size_hw[0]} x {size_hw[1]} pixels ({error})") from error
