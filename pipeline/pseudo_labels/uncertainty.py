"""How far each pixel of a pseudo-label is to be trusted: |2p − 1|, with the teacher's probability p (PL-DC, section 4).

The weights lie on cells of the network's input (stride 4, as SOLOv2's mask features), for the loss of each instance
(``solo_loss(pixel_weights=...)``), or of all together (per-pixel cross-entropy of a crowd). They are not renormalised.

The teacher's certainty is read between the cells of the store, not its probability: where a sure teacher's mask ends,
p passes ½, and would count as doubt at every size but the store's. So p in {0, 1} weighs 1 at every size. Where the
store has no cell, the mask does not reach, and the weight is 1, as it is in the padding.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.masks.instances import Instances
from pipeline.masks.soft_format import SOFT_STRIDE
from pipeline.pseudo_labels.soft_view import CellWindow, View, read_coverage, read_soft, require_soft

PixelWeights = Literal["off", "uncertainty"]
"""``off`` weighs every pixel 1."""

TRUTH_SOURCE = "truth"
"""``source`` of rows that a person drew; they weigh 1."""

Floats32 = npt.NDArray[np.float32]


def certainty(prob: Floats32) -> Floats32:
    """Give |2p − 1| of probabilities."""
    return np.abs(2 * prob - 1)


def weight_windows(rows: Instances, view: View, *, stride: int = SOFT_STRIDE) -> list[CellWindow]:
    """Weigh the cells of a view around each instance; all other cells weigh 1.

    Args:
        rows: N rows of the image that the view shows.
        view: What is shown; see :class:`~pipeline.pseudo_labels.soft_view.View`.
        stride: View pixels per cell.

    Returns:
        One for each row, of values in [0, 1]; without cells for truth, and for rows without a mask.

    Raises:
        PipelineError: If a row with a mask has no ``prob_q8``.
    """
    pseudo = rows.source != TRUTH_SOURCE
    require_soft(rows, pseudo, why="pixel_weights: uncertainty")
    windows: list[CellWindow] = [CellWindow(np.zeros((0, 0), dtype=np.float32), 0, 0)] * len(rows)
    judged = np.flatnonzero(pseudo)
    for row, window in zip(judged.tolist(), read_soft(rows[judged], view, stride=stride, value=certainty), strict=True):
        windows[row] = window
    return windows


def pixel_weights(
    rows: Instances, view: View, *, mode: PixelWeights = "uncertainty", stride: int = SOFT_STRIDE
) -> Tensor:
    """Weigh every cell of a view, for each instance apart.

    For the arguments see :func:`weight_windows`; with ``mode`` off no soft mask is needed.

    Returns:
        (N, H/stride, W/stride) float32 in [0, 1].

    Raises:
        PipelineError: If a row with a mask has no ``prob_q8``.
    """
    weights = np.ones((len(rows), *view.cells_hw(stride)), dtype=np.float32)
    if mode != "off":
        for window, onto in zip(weight_windows(rows, view, stride=stride), weights, strict=True):
            window.paste(onto)
    return torch.from_numpy(weights)


def joined_pixel_weights(
    rows: Instances, view: View, *, mode: PixelWeights = "uncertainty", stride: int = SOFT_STRIDE
) -> Tensor:
    """Weigh every cell of a view for the loss of the foreground, all instances together.

    A cell is as sure as the instance that is most likely there: with s = ±|2p − 1|, positive where p > ½, the weight is
    |max s|. Cells that a true mask covers by half weigh 1.

    For the arguments see :func:`weight_windows`.

    Returns:
        (H/stride, W/stride) float32 in [0, 1].

    Raises:
        PipelineError: If a row with a mask has no ``prob_q8``.
    """
    signed = np.full(view.cells_hw(stride), -1.0, dtype=np.float32)
    if mode != "off":
        likely = read_soft(rows, view, stride=stride)
        for window, prob in zip(weight_windows(rows, view, stride=stride), likely, strict=True):
            if window.values.size:
                _raise_to(signed, window._replace(values=np.where(prob.values > 0.5, window.values, -window.values)))
        for cover in read_coverage(rows[rows.source == TRUTH_SOURCE], view, stride=stride):
            _raise_to(signed, cover._replace(values=np.where(cover.values >= 0.5, 1, -1).astype(np.float32)))
    return torch.from_numpy(np.abs(signed))


def _raise_to(signed: Floats32, window: CellWindow) -> None:
    """Take the larger of a map and a window of it."""
    height, width = window.values.shape
    part = signed[window.y0 : window.y0 + height, window.x0 : window.x0 + width]
    np.maximum(part, window.values, out=part)
