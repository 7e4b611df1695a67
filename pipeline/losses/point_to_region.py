"""Point-to-region loss (P2R): each head teaches the region nearest to it by one cell (arXiv 2603.16241, §3.1).

In the region R_j of head b_j, with scale σ_j = clip(max distance in R_j, 8, 96), the cell with the least
8·‖a_i − b_j‖ / σ_j − z_i is the positive one; no gradient goes through that choice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor

MAX_DISTANCE_PX = 96.0
MIN_SCALE_PX = 8.0
DISTANCE_WEIGHT = 8.0
EMPTY_WEIGHT = 0.5


class Regions(NamedTuple):
    """Which head each cell belongs to.

    Args:
        head: (h·w,) int64, row of the head, -1 where none is near enough.
        distance_px: (h·w,) float64, to the nearest head; inf without heads.
    """

    head: npt.NDArray[np.int64]
    distance_px: npt.NDArray[np.float64]


def point_to_region_loss(
    logits: Tensor,
    points_xy: Sequence[Tensor],
    *,
    stride: int = 4,
    cut_out: Tensor | None = None,
    cell_weights: Tensor | None = None,
) -> Tensor:
    """Average BCE·(1 + T) over all cells of a batch, T = 1 in the positive cells; images without heads weigh half.

    Args:
        logits: (B, h, w).
        points_xy: Per image (N, 2), heads in image pixels.
        stride: Image pixels per cell; cell (i, j) stands for the image point (s·j + (s−1)/2, s·i + (s−1)/2).
        cut_out: (B, h, w) bool; these cells weigh 0, but stay in the denominator and may be chosen as positive.
        cell_weights: (B, h, w) further weights, 0 to 1; they are not renormalised.

    Returns:
        Scalar.

    Raises:
        ValueError: If batch sizes differ or a point is not finite.
    """
    if len(points_xy) != len(logits):
        raise ValueError(f"points_xy: expected one array for each of the {len(logits)} images, got {len(points_xy)}")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    targets = torch.zeros_like(logits)
    weights = torch.ones_like(logits)
    for b, heads in enumerate(points_xy):
        if len(heads) == 0:
            weights[b] = EMPTY_WEIGHT
            continue
        targets[b].view(-1)[positive_cells(logits[b], heads, stride=stride)] = 1.0
    weights = weights * (1.0 + targets)
    if cut_out is not None:
        weights = weights * ~cut_out
    if cell_weights is not None:
        weights = weights * cell_weights.to(weights)
    return F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum") / max(logits.numel(), 1)


def positive_cells(logits: Tensor, points_xy: Tensor, *, stride: int = 4) -> Tensor:
    """Choose the positive cell of every head that has a region.

    Args:
        logits: (h, w).
        points_xy: (N, 2), image pixels.
        stride: Image pixels per cell.

    Returns:
        (K,) int64 flat cell numbers, K ≤ N. Of equal cells the first in (y, x) is chosen.
    """
    height, width = logits.shape
    heads_xy = points_xy.detach().cpu().double().numpy().reshape(-1, 2)
    regions = nearest_heads((height, width), heads_xy, stride=stride)
    cell = torch.from_numpy(np.flatnonzero(regions.head >= 0)).to(logits.device)
    head = torch.from_numpy(regions.head).to(logits.device)[cell]
    distance = torch.from_numpy(regions.distance_px).to(logits.device)[cell]

    count = len(heads_xy)
    scale = distance.new_zeros(count).scatter_reduce(0, head, distance, "amax").clamp(MIN_SCALE_PX, MAX_DISTANCE_PX)
    cost = DISTANCE_WEIGHT * distance / scale[head] - logits.detach().flatten()[cell].double()
    least = cost.new_full((count,), float("inf")).scatter_reduce(0, head, cost, "amin")
    at_least = cost == least[head]
    last = height * width
    first = cell.new_full((count,), last).scatter_reduce(0, head[at_least], cell[at_least], "amin")
    return first[first < last]


def nearest_heads(shape_hw: tuple[int, int], points_xy: npt.NDArray[np.float64], *, stride: int = 4) -> Regions:
    """Give each cell to its nearest head, if nearer than 96 px; of equally near heads to the first in (y, x).

    Args:
        shape_hw: Size of the logit map, cells.
        points_xy: (N, 2) float64, image pixels.
        stride: Image pixels per cell.

    Raises:
        ValueError: If a point is not finite.
    """
    if not np.isfinite(points_xy).all():
        raise ValueError("points_xy: expected finite coordinates; mend the annotation that holds NaN or infinity")
    height, width = shape_hw
    row, column = np.divmod(np.arange(height * width), max(width, 1))
    cells_xy = stride * np.stack([column, row], axis=1) + (stride - 1) / 2
    if len(points_xy) == 0:
        return Regions(np.full(len(cells_xy), -1, np.int64), np.full(len(cells_xy), np.inf))
    places_yx, first_row = np.unique(points_xy[:, ::-1], axis=0, return_index=True)
    tree = cKDTree(places_yx[:, ::-1])
    distance, place = _query_first(tree, cells_xy)
    near = distance < MAX_DISTANCE_PX
    return Regions(np.where(near, first_row[place], -1), distance)


def _query_first(
    tree: cKDTree, queries_xy: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Nearest point of each query; of equally near ones the smallest row, which the tree alone does not promise."""
    if tree.n == 1:
        distance, place = tree.query(queries_xy, k=1)
        return distance, place.astype(np.int64)
    distances, places = tree.query(queries_xy, k=2)
    distance, place = distances[:, 0].copy(), places[:, 0].astype(np.int64)
    tied = np.flatnonzero(distances[:, 1] == distance)
    k = 2
    while len(tied):
        k = min(2 * k, tree.n)
        distances, places = tree.query(queries_xy[tied], k=k)
        equal = distances == distances[:, :1]
        place[tied] = np.where(equal, places, tree.n).min(axis=1)
        tied = tied[equal[:, -1]] if k < tree.n else tied[:0]
    return distance, place
