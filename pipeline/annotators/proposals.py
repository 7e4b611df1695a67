"""What the network says of one image, kept small: the cells under each circle of every candidate mask.

This is the costly part of EDP-SAM, and it does not depend on how candidates are chosen. It is cached by itself, so that
another exclusion threshold costs no network. Logits are kept in sixteenths, from -8 to 8: the border of a mask moves by
less than a hundredth of a cell where logits climb by 4 per cell, and the file is a quarter of float32's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save
from torch import Tensor

from pipeline.annotators.exclusion import Candidates
from pipeline.errors import PipelineError
from pipeline.geometry.tiles import Tile

LOGIT_STEP = 1 / 16
LOGIT_MAX = 127 * LOGIT_STEP


@dataclass(frozen=True)
class CellSpans:
    """Which cells of a tile's grid lie under windows of the image: enough to sample every pixel bilinearly.

    Args:
        first_xy: (P, 2) int64 column and row of the first cell.
        sizes_hw: (P, 2) int64 numbers of rows and columns.
    """

    first_xy: NDArray[np.int64]
    sizes_hw: NDArray[np.int64]


def cell_spans(
    points_xy: NDArray[np.float64],
    radius_px: NDArray[np.float64],
    tile: Tile,
    grid: int,
    size_hw: tuple[int, int],
) -> CellSpans:
    """Give the cells under circles.

    Args:
        points_xy: (P, 2) float64 centres, image pixels.
        radius_px: (P,) float64.
        tile: The tile.
        grid: Cells along its side.
        size_hw: Height and width of the image; circles are clipped to it.
    """
    corner, edge = np.array([tile.x0, tile.y0]), np.array(size_hw[::-1]) - 1
    low_px = np.clip(np.floor(points_xy - radius_px[:, None]), 0, edge)
    high_px = np.clip(np.ceil(points_xy + radius_px[:, None]), 0, edge)
    first = np.floor((low_px - corner + 0.5) / tile.side_px * grid - 0.5)
    last = np.floor((high_px - corner + 0.5) / tile.side_px * grid - 0.5) + 1
    first, last = np.clip(first, 0, grid - 1).astype(np.int64), np.clip(last, 0, grid - 1).astype(np.int64)
    return CellSpans(first, (last - first + 1)[:, ::-1])


def crop_cells(logits: Tensor, spans: CellSpans) -> Tensor:
    """Cut (P, C, G, G) logits to their spans, padded to one size by the last cells: (P, C, h, w)."""
    rows, columns = (int(value) for value in spans.sizes_hw.max(0))
    first = torch.from_numpy(spans.first_xy).to(logits.device)
    sizes = torch.from_numpy(np.ascontiguousarray(spans.sizes_hw)).to(logits.device)
    y = first[:, 1, None] + torch.minimum(torch.arange(rows, device=logits.device), sizes[:, 0, None] - 1)
    x = first[:, 0, None] + torch.minimum(torch.arange(columns, device=logits.device), sizes[:, 1, None] - 1)
    which = torch.arange(len(logits), device=logits.device)
    return logits.permute(0, 2, 3, 1)[which[:, None, None], y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def quantize(logits: Tensor) -> Tensor:
    """Logits in sixteenths as int8; never from one side of 0 to the other."""
    steps = (logits.float() / LOGIT_STEP).round()
    # What rounds to 0 keeps its side: 0 itself is outside a mask, so only the positive need help.
    steps = torch.where((steps == 0) & (logits > 0), torch.ones_like(steps), steps)
    return steps.clamp(-127, 127).to(torch.int8)


@dataclass(frozen=True)
class Proposals:
    """All candidates of one image's N heads: kinds of prompt × three masks, C in all, in that order.

    Args:
        grid: Cells along the side of a tile.
        tiles_xys: (T, 3) int64 left edge, top edge and side of each tile, image pixels.
        tile_of: (N,) int64 tile of each head.
        first_xy: (N, 2) int64 first cell of each head's span.
        sizes_hw: (N, 2) int64 its rows and columns.
        cells: (sum over heads of C · rows · columns,) int8 logits in sixteenths, head by head.
        estimates: (N, C) float32 the network's IoU estimates.
        area_px: (N, C) float32 area of the whole mask, image pixels.
        other_heads: (N, C) float32 other heads under the whole mask.
    """

    grid: int
    tiles_xys: NDArray[np.int64]
    tile_of: NDArray[np.int64]
    first_xy: NDArray[np.int64]
    sizes_hw: NDArray[np.int64]
    cells: NDArray[np.int8]
    estimates: NDArray[np.float32]
    area_px: NDArray[np.float32]
    other_heads: NDArray[np.float32]

    def __len__(self) -> int:
        """Give the number of heads."""
        return len(self.tile_of)

    @classmethod
    def join(
        cls,
        tiles: Sequence[Tile],
        grid: int,
        cells: Sequence[NDArray[np.int8]],
        spans: CellSpans,
        estimates: NDArray[np.float32],
        area_px: NDArray[np.float32],
        other_heads: NDArray[np.float32],
    ) -> Self:
        """Put the heads' parts together; ``cells`` holds one (C, rows, columns) array per head."""
        tile_of = np.zeros(len(cells), np.int64)
        for number, tile in enumerate(tiles):
            tile_of[tile.rows] = number
        return cls(
            grid=grid,
            tiles_xys=np.array([[tile.x0, tile.y0, tile.side_px] for tile in tiles], np.int64).reshape(-1, 3),
            tile_of=tile_of,
            first_xy=spans.first_xy,
            sizes_hw=np.ascontiguousarray(spans.sizes_hw),
            cells=np.concatenate([np.zeros(0, np.int8), *(one.ravel() for one in cells)]),
            estimates=estimates,
            area_px=area_px,
            other_heads=other_heads,
        )

    def cell_px(self) -> NDArray[np.float64]:
        """Give the side of each head's cells: (N,) image pixels."""
        return np.asarray(self.tiles_xys[self.tile_of, 2] / self.grid, np.float64)

    def candidates(self, rows: NDArray[np.int64]) -> Candidates:
        """Give the candidates of some heads, padded to one size.

        Args:
            rows: (P,) int64 which heads.
        """
        n_candidates = self.estimates.shape[1]
        volumes = n_candidates * self.sizes_hw.prod(1)
        starts = np.cumsum(volumes) - volumes
        sizes = self.sizes_hw[rows]
        cells = np.zeros((len(rows), n_candidates, *sizes.max(0, initial=1)), np.float32)
        for k, row in enumerate(rows.tolist()):
            height, width = sizes[k]
            own = self.cells[starts[row] : starts[row] + volumes[row]]
            cells[k, :, :height, :width] = own.reshape(n_candidates, height, width)
        tiles = self.tiles_xys[self.tile_of[rows]]
        cell_px = tiles[:, 2] / self.grid
        first_xy = tiles[:, :2] - 0.5 + (self.first_xy[rows] + 0.5) * cell_px[:, None]
        return Candidates(
            cells=torch.from_numpy(cells).mul_(LOGIT_STEP),
            sizes_hw=torch.from_numpy(sizes),
            first_xy=torch.from_numpy(first_xy),
            cell_px=torch.from_numpy(cell_px),
            estimates=torch.from_numpy(self.estimates[rows]),
            area_px=torch.from_numpy(self.area_px[rows]),
            other_heads=torch.from_numpy(self.other_heads[rows]),
        )

    def to_bytes(self) -> bytes:
        """Write as compressed safetensors."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        plain = save({**arrays, "grid": np.array([self.grid], np.int64)})
        packed: bytes = pa.compress(plain, codec="zstd", asbytes=True)
        return len(plain).to_bytes(8, "little") + packed

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what :meth:`to_bytes` wrote.

        Raises:
            PipelineError: If it is something else.
        """
        try:
            plain = pa.decompress(data[8:], int.from_bytes(data[:8], "little"), codec="zstd", asbytes=True)
            arrays = load(plain)
            grid = int(arrays.pop("grid")[0])
            return cls(grid=grid, **{name: arrays[name] for name in _ARRAYS})
        except Exception as error:
            raise PipelineError(
                f"a cached result of the network cannot be read ({error}); remove it: "
                "python -m stages.cache gc --limit 0"
            ) from error


_ARRAYS = ("tiles_xys", "tile_of", "first_xy", "sizes_hw", "cells", "estimates", "area_px", "other_heads")
