"""The bytes of a soft mask: a row's ``prob_q8`` in a mask store, probabilities on cells of the image.

``prob_q8`` holds the soft mask on the stride-4 cells of the image (cell j has its centre at x = 4j + 1.5) that the
row's tight box touches, and one cell more on each side: five little-endian uint32 (stride, first column, first row,
columns, rows; all in cells), then the cells row by row, one byte each, probability · 255 rounded. Parquet compresses
them; they are not compressed twice.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

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
            ticks.append(Ticks.at(place, self.prob.shape[cells]))
        return read_at(self.prob, *ticks)


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


class Ticks(NamedTuple):
    """Places along one axis of a map: the two cells around each, and the share of the second."""

    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]
    share: Floats32

    @classmethod
    def at(cls, place: npt.NDArray[np.floating], cells: int) -> "Ticks":
        """Find places, counted in cells from the first one's centre; beyond the outer centres they read the nearest."""
        clamped: npt.NDArray[np.float64] = np.clip(place, 0, cells - 1)
        low = np.floor(clamped).astype(np.int64)
        return cls(low, np.minimum(low + 1, cells - 1), (clamped - low).astype(np.float32))

    def cut(self, first: int, end: int) -> "Ticks":
        """Take some of the places."""
        return Ticks(self.low[first:end], self.high[first:end], self.share[first:end])


def read_at(cells: Floats32, rows: Ticks, columns: Ticks) -> Floats32:
    """Read a map bilinearly at the crossings of rows and columns."""
    share_y, share_x = rows.share[:, None], columns.share[None, :]
    lines: Floats32 = cells[rows.low] * (1 - share_y) + cells[rows.high] * share_y
    values: Floats32 = lines[:, columns.low] * (1 - share_x) + lines[:, columns.high] * share_x
    return values
