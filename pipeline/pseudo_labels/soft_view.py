"""Stored soft masks on the cells of a view: a piece of an image, resized and perhaps flipped, as a network sees it."""

from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.soft_format import SOFT_STRIDE, SoftMask, decode_soft

Floats32 = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]


class View(NamedTuple):
    """Where the pixels of a network's input come from.

    Args:
        window_xywh: The piece of the image that is shown, image pixels.
        at_xywh: Where it lies in the view, view pixels; the rest is padding.
        size_hw: Size of the view.
        flip: The piece is shown mirrored, left for right.
    """

    window_xywh: tuple[int, int, int, int]
    at_xywh: tuple[int, int, int, int]
    size_hw: tuple[int, int]
    flip: bool = False

    @classmethod
    def whole(
        cls, image_hw: tuple[int, int], size_hw: tuple[int, int], padded_hw: tuple[int, int], *, flip: bool = False
    ) -> Self:
        """Show a whole image, resized (and flipped), then padded below and to the right.

        Args:
            image_hw: Size of the image.
            size_hw: Its size in the view.
            padded_hw: Size of the view.
            flip: Mirror it.
        """
        return cls((0, 0, image_hw[1], image_hw[0]), (0, 0, size_hw[1], size_hw[0]), padded_hw, flip)

    def cells_hw(self, stride: int) -> tuple[int, int]:
        """Count the cells of a stride.

        Raises:
            ValueError: If the view is no multiple of it.
        """
        height, width = self.size_hw
        if height % stride or width % stride:
            raise ValueError(f"size_hw: expected multiples of the stride of {stride}, got {self.size_hw}")
        return height // stride, width // stride

    def image_ticks(self, axis: int, stride: int) -> tuple[slice, Floats64]:
        """Find the cells whose centre shows the image along an axis, and where each begins, centres and ends there.

        Args:
            axis: 0 for rows, 1 for columns.
            stride: View pixels per cell.

        Returns:
            The cells, and (n, 3) places along the image: two sides, ascending, and the centre between them, counted
            from the edge of pixel 0, so that the centre of pixel 0 is at ½.
        """
        count = self.cells_hw(stride)[axis]
        start, length = self.window_xywh[1 - axis], self.window_xywh[3 - axis]
        at, at_length = self.at_xywh[1 - axis], self.at_xywh[3 - axis]
        edge = stride * np.arange(count, dtype=np.float64)
        share = (np.stack([edge, edge + stride / 2, edge + stride], axis=1) - at) / at_length
        inside = np.flatnonzero((share[:, 1] > 0) & (share[:, 1] < 1))
        share = share[inside]
        if axis == 1 and self.flip:
            share = 1.0 - share[:, ::-1]
        cells = slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)
        return cells, start + share * length


class CellWindow(NamedTuple):
    """Values on some cells of a view.

    Args:
        values: (h, w) float32.
        x0: First column, cells of the view.
        y0: First row, cells of the view.
    """

    values: Floats32
    x0: int
    y0: int

    def paste(self, onto: Floats32) -> None:
        """Write the values into a map of all cells."""
        height, width = self.values.shape
        onto[self.y0 : self.y0 + height, self.x0 : self.x0 + width] = self.values


NOTHING = CellWindow(np.zeros((0, 0), dtype=np.float32), 0, 0)
"""Of a mask that the view does not show."""


def require_soft(rows: Instances, needed: npt.NDArray[np.bool_], *, why: str) -> None:
    """Make sure that rows have their soft mask; a row without a mask needs none.

    Args:
        rows: Of one image.
        needed: (N,), rows to look at.
        why: The option that needs them, as the message shall name it.

    Raises:
        PipelineError: If one has none.
    """
    blobs = rows.prob_q8 if rows.prob_q8 is not None else [None] * len(rows)
    missing = needed & (rows.area_px > 0) & np.array([blob is None for blob in blobs], dtype=bool)
    if missing.any():
        raise PipelineError(
            f"mask store: prob_q8: {int(missing.sum())} of {len(rows)} rows have no soft mask, as {why} needs; run the "
            "pseudo_label stage again with keep_prob: true, or turn that option off"
        )


def read_soft(
    rows: Instances,
    view: View,
    *,
    stride: int = SOFT_STRIDE,
    value: Callable[[Floats32], Floats32] = lambda prob: prob,
) -> list[CellWindow]:
    """Read the soft masks of an image at the centres of a view's cells, bilinearly.

    Beyond the cells that the store has nothing is known but that the mask does not reach there; a window ends with
    them. A row without a soft mask gives no cell.

    Args:
        rows: N rows of the image that the view shows.
        view: What is shown.
        stride: View pixels per cell.
        value: What is read instead of the probability, from (h, w) probabilities of the stored cells.

    Returns:
        One for each row.
    """
    blobs = rows.prob_q8 if rows.prob_q8 is not None else [None] * len(rows)
    ticks = [view.image_ticks(axis, stride) for axis in (0, 1)]
    return [NOTHING if blob is None else _read_one(decode_soft(blob), ticks, value) for blob in blobs]


def _read_one(mask: SoftMask, ticks: list[tuple[slice, Floats64]], value: Callable[[Floats32], Floats32]) -> CellWindow:
    cells = value(mask.prob)
    lows, highs, shares, firsts = [], [], [], []
    for (shown, places), origin, count in zip(ticks, (mask.y0, mask.x0), cells.shape, strict=True):
        place = places[:, 1] / mask.stride - 0.5 - origin
        hit = np.flatnonzero((place >= -0.5) & (place <= count - 0.5))
        if not len(hit):
            return NOTHING
        clamped = np.clip(place[hit], 0, count - 1)
        low = np.floor(clamped).astype(np.int64)
        lows.append(low)
        highs.append(np.minimum(low + 1, count - 1))
        shares.append((clamped - low).astype(np.float32))
        firsts.append(shown.start + int(hit[0]))
    share_y, share_x = shares[0][:, None], shares[1][None, :]
    lines = cells[lows[0]] * (1 - share_y) + cells[highs[0]] * share_y
    values = lines[:, lows[1]] * (1 - share_x) + lines[:, highs[1]] * share_x
    return CellWindow(values.astype(np.float32), x0=firsts[1], y0=firsts[0])


def read_coverage(rows: Instances, view: View, *, stride: int = SOFT_STRIDE) -> list[CellWindow]:
    """Give the share of each cell of a view that a mask covers, 0 to 1, exactly; for arguments see :func:`read_soft`.

    A thing smaller than a cell is seen, too, unlike at the centres of cells.
    """
    ticks = [view.image_ticks(axis, stride) for axis in (0, 1)]
    return [_cover_one(rows, row, ticks) if rows.area_px[row] else NOTHING for row in range(len(rows))]


def _cover_one(rows: Instances, row: int, ticks: list[tuple[slice, Floats64]]) -> CellWindow:
    mask, x0, y0 = rows.window(row)
    shares, firsts = [], []
    for (shown, places), origin, count in zip(ticks, (y0, x0), mask.shape, strict=True):
        hit = np.flatnonzero((places[:, 2] > origin) & (places[:, 0] < origin + count))
        if not len(hit):
            return NOTHING
        begin, end = places[hit, 0][:, None], places[hit, 2][:, None]
        pixel = origin + np.arange(count)
        shared = np.clip(np.minimum(end, pixel + 1) - np.maximum(begin, pixel), 0, None)
        shares.append(shared / (end - begin))
        firsts.append(shown.start + int(hit[0]))
    values = shares[0] @ mask.astype(np.float64) @ shares[1].T
    return CellWindow(values.astype(np.float32), x0=firsts[1], y0=firsts[0])
