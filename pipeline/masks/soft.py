"""Soft masks: a network's probabilities at quarter size, brought to the image and kept as bytes in a mask store.

A row's ``prob_q8`` holds its soft mask on the stride-4 cells of the image (cell j has its centre at x = 4j + 1.5) that
its tight box touches, and one cell more on each side: five little-endian uint32 (stride, first column, first row,
columns, rows; all in cells), then the cells row by row, one byte each, probability · 255 rounded. Parquet compresses
them; they are not compressed twice.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window
from pipeline.models.solo_inference import MASK_PROB
from pipeline.models.solov2 import MASK_STRIDE

SOFT_STRIDE = 4
"""Image pixels per cell of a stored soft mask."""
_HEADER = struct.Struct("<5I")

Floats32 = npt.NDArray[np.float32]


class SoftMask(NamedTuple):
    """A soft mask on cells of the image.

    Args:
        prob: (h, w) float32, 0 to 1.
        x0: First column, cells.
        y0: First row, cells.
        stride: Image pixels per cell.
    """

    prob: Floats32
    x0: int
    y0: int
    stride: int = SOFT_STRIDE

    def in_box(self, box_xywh: Sequence[int] | npt.NDArray[np.integer]) -> Floats32:
        """Read the probabilities of the pixels of a box, (h, w) float32; bilinear, beyond its cells the nearest."""
        x, y, width, height = (int(value) for value in box_xywh)
        ticks = []
        for first, count, origin, cells in ((y, height, self.y0, 0), (x, width, self.x0, 1)):
            place = (np.arange(first, first + count) + 0.5) / self.stride - 0.5 - origin
            ticks.append(_Ticks.at(place, self.prob.shape[cells]))
        return _read(self.prob, *ticks)


def encode_soft(mask: SoftMask) -> bytes:
    """Give the bytes of a soft mask, as the head of this file describes them."""
    height, width = mask.prob.shape
    levels = np.clip(np.rint(mask.prob * 255.0), 0, 255).astype(np.uint8)
    cells: bytes = levels.tobytes()
    return _HEADER.pack(mask.stride, mask.x0, mask.y0, width, height) + cells


def decode_soft(data: bytes) -> SoftMask:
    """Read a soft mask back; probabilities are within 1/510 of those encoded.

    Raises:
        ValueError: If the bytes are something else.
    """
    if len(data) >= _HEADER.size:
        stride, x0, y0, width, height = _HEADER.unpack_from(data)
        if stride > 0 and len(data) == _HEADER.size + width * height:
            levels = np.frombuffer(data, np.uint8, offset=_HEADER.size).reshape(height, width)
            return SoftMask(levels.astype(np.float32) / np.float32(255), x0, y0, stride)
    raise ValueError(f"prob_q8: {len(data)} bytes that are no soft mask; make the store again")


class _Ticks(NamedTuple):
    """Places along one axis of a map: the two cells around each, and the share of the second."""

    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]
    share: Floats32

    @classmethod
    def at(cls, place: npt.NDArray[np.floating], cells: int) -> "_Ticks":
        clamped: npt.NDArray[np.float64] = np.clip(place, 0, cells - 1)
        low = np.floor(clamped).astype(np.int64)
        return cls(low, np.minimum(low + 1, cells - 1), (clamped - low).astype(np.float32))

    def cut(self, first: int, end: int) -> "_Ticks":
        return _Ticks(self.low[first:end], self.high[first:end], self.share[first:end])


def _read(cells: Floats32, rows: _Ticks, columns: _Ticks) -> Floats32:
    """Read a map bilinearly at the crossings of rows and columns."""
    share_y, share_x = rows.share[:, None], columns.share[None, :]
    lines: Floats32 = cells[rows.low] * (1 - share_y) + cells[rows.high] * share_y
    values: Floats32 = lines[:, columns.low] * (1 - share_x) + lines[:, columns.high] * share_x
    return values


def soft_masks_to_instances(
    soft_masks: Iterable[Tensor],
    *,
    size_hw: tuple[int, int],
    image_hw: tuple[int, int],
    keep_prob: bool = False,
    **columns: Any,
) -> Instances:
    """Bring soft masks to the size of the image, cut them at ½ and make them rows.

    Only the part of the image that a mask can reach is computed, so that neither memory nor time grow with the image.

    Args:
        soft_masks: Chunks of (n, H/4, W/4) probabilities on the network's padded input, together one for each row.
        size_hw: Size of the image in that input, pixels; it begins at the upper left corner.
        image_hw: Size of the image itself.
        keep_prob: Give ``prob_q8`` too, None for a row without a mask.
        columns: Of :meth:`~pipeline.masks.instances.Instances.from_windows`, under the same names.
    """
    cells_hw = tuple(-(-side // MASK_STRIDE) for side in size_hw)
    scale = [inside / (MASK_STRIDE * whole) for inside, whole in zip(size_hw, image_hw, strict=True)]
    pixels = [
        _Ticks.at((np.arange(whole) + 0.5) * step - 0.5, cells)
        for whole, step, cells in zip(image_hw, scale, cells_hw, strict=True)
    ]
    windows: list[Window] = []
    soft: list[bytes | None] = []
    for chunk in soft_masks:
        cells = chunk.detach().float().cpu().numpy()[:, : cells_hw[0], : cells_hw[1]]
        inside: npt.NDArray[np.bool_] = cells > MASK_PROB
        reaches = [_reach(inside, 2, pixels[0]), _reach(inside, 1, pixels[1])]
        for mask, (top, bottom), (left, right) in zip(cells, *reaches, strict=True):
            fine = _read(mask, pixels[0].cut(top, bottom), pixels[1].cut(left, right)) > MASK_PROB
            windows.append(Window(fine, left, top))
            if keep_prob:
                soft.append(_stored(mask, windows[-1], scale, image_hw))
    if keep_prob:
        columns["prob_q8"] = soft
    return Instances.from_windows(image_hw, windows, **columns)


def _reach(inside: npt.NDArray[np.bool_], across: int, ticks: _Ticks) -> list[tuple[int, int]]:
    """First pixel and pixel after the last that read a cell inside the mask, of each of (n, h, w); 0, 0 for none."""
    occupied: npt.NDArray[np.bool_] = np.asarray(inside.any(axis=across))
    first = occupied.argmax(axis=1)
    last = occupied.shape[1] - 1 - occupied[:, ::-1].argmax(axis=1)
    begin, end = np.searchsorted(ticks.high, first, side="left"), np.searchsorted(ticks.low, last, side="right")
    there = occupied.any(axis=1)
    return list(zip((begin * there).tolist(), (end * there).tolist(), strict=True))


def _stored(mask: Floats32, window: Window, scale: Sequence[float], image_hw: tuple[int, int]) -> bytes | None:
    """Give prob_q8 of a mask at quarter size, around the pixels of its window; None without pixels."""
    rows, columns = np.flatnonzero(window.mask.any(axis=1)), np.flatnonzero(window.mask.any(axis=0))
    if not len(rows):
        return None
    ticks, corner = [], []
    for hit, origin, whole, step, cells in zip(
        (rows, columns), (window.y0, window.x0), image_hw, scale, mask.shape, strict=True
    ):
        first = max((origin + int(hit[0])) // SOFT_STRIDE - 1, 0)
        end = min((origin + int(hit[-1])) // SOFT_STRIDE + 2, -(-whole // SOFT_STRIDE))
        centers = SOFT_STRIDE * np.arange(first, end) + SOFT_STRIDE / 2
        ticks.append(_Ticks.at(centers * step - 0.5, cells))
        corner.append(first)
    return encode_soft(SoftMask(_read(mask, *ticks), x0=corner[1], y0=corner[0]))
