"""Soft masks: a network's probabilities at quarter size, brought to the image and made rows of a mask store."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window
from pipeline.masks.soft_format import SOFT_STRIDE, SoftMask, Ticks, encode_soft, read_at
from pipeline.models.solo_inference import MASK_PROB
from pipeline.models.solov2 import MASK_STRIDE

Floats32 = npt.NDArray[np.float32]


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
        Ticks.at((np.arange(whole) + 0.5) * step - 0.5, cells)
        for whole, step, cells in zip(image_hw, scale, cells_hw, strict=True)
    ]
    windows: list[Window] = []
    soft: list[bytes | None] = []
    for chunk in soft_masks:
        cells = chunk.detach().float().cpu().numpy()[:, : cells_hw[0], : cells_hw[1]]
        inside: npt.NDArray[np.bool_] = cells > MASK_PROB
        reaches = [_reach(inside, 2, pixels[0]), _reach(inside, 1, pixels[1])]
        for mask, (top, bottom), (left, right) in zip(cells, *reaches, strict=True):
            fine = read_at(mask, pixels[0].cut(top, bottom), pixels[1].cut(left, right)) > MASK_PROB
            windows.append(Window(fine, left, top))
            if keep_prob:
                soft.append(_stored(mask, windows[-1], scale, image_hw))
    if keep_prob:
        columns["prob_q8"] = soft
    return Instances.from_windows(image_hw, windows, **columns)


def _reach(inside: npt.NDArray[np.bool_], across: int, ticks: Ticks) -> list[tuple[int, int]]:
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
        ticks.append(Ticks.at(centers * step - 0.5, cells))
        corner.append(first)
    return encode_soft(SoftMask(read_at(mask, *ticks), x0=corner[1], y0=corner[0]))
