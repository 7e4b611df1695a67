"""Cells of SOLO's grids: which cell of an S×S grid over the padded input holds a point."""

from collections.abc import Sequence

import torch
from torch import Tensor


def grid_cells(points_xy: Tensor, *, padded_hw: tuple[int, int], grids: Sequence[int]) -> Tensor:
    """Give the cell that holds each point, on every level; points beyond the input take the nearest cell.

    Pixel centres are at whole numbers, so that a point stands at share (x + ½) / W of the input's width. Targets and
    lookups both come here, and so agree on every cell.

    Args:
        points_xy: (N, 2) float, pixels of the network's input.
        padded_hw: Size of the network's input, padding included.
        grids: Cells along each side, per level.

    Returns:
        (N, L, 2) int64: column and row of the cell.

    Raises:
        ValueError: If a coordinate is not finite.
    """
    if not bool(torch.isfinite(points_xy).all()):
        raise ValueError("points_xy: expected finite coordinates; mend the annotation that holds NaN or infinity")
    share = (points_xy.double() + 0.5) / points_xy.new_tensor([padded_hw[1], padded_hw[0]], dtype=torch.float64)
    sides = torch.tensor(tuple(grids), dtype=torch.float64, device=points_xy.device)
    cells = (share[:, None, :] * sides[:, None]).floor()
    return cells.clamp(min=0).minimum(sides[:, None] - 1).long()
