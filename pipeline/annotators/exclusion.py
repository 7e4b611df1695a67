"""Rules of the exclusion circle: score candidate masks, choose one, keep masks of one image apart.

The method is EDP-SAM's (arXiv 2603.16241) as reconstructed in specification EDP-SAM §4. A candidate comes as the cells
of low-resolution logits under its circle; it is sampled bilinearly into the circle's window at image resolution and
judged there. No mask of the whole frame is ever made.
"""

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.masks.rle import Window

HEAD_TOLERANCE_PX = 2.0
FLOOD_FILL = 0.98
BLOCK_PX = 2048
"""Side of the blocks in which contested pixels are settled; it bounds the memory, whatever the image's size."""


@dataclass(frozen=True)
class ExclusionOptions:
    """How candidates are ranked and rejected.

    Args:
        kappa: How strongly each other head under a mask counts against it: factor exp(-kappa · heads).
        gamma: How strongly leaking counts: factor (1 - leak)^gamma.
        min_area_px: A mask with fewer pixels inside its circle is rejected.
        flood_leak: A mask that fills its circle is rejected as a flood of background if more than this share of it lies
            outside; a person close to another one's head may well be many times as large as the circle.
        stability_delta: Offset of the two thresholds, in logits, between which a stable mask hardly changes.
        fallback_radius_frac: Radius of the disc that stands in for a rejected mask, as a share of the circle's.
        fallback_score: Score of such a disc.
    """

    kappa: float = 0.7
    gamma: float = 0.5
    min_area_px: float = 6.0
    flood_leak: float = 0.95
    stability_delta: float = 1.0
    fallback_radius_frac: float = 0.5
    fallback_score: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("kappa", "gamma", "min_area_px", "stability_delta"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("fallback_radius_frac", "fallback_score", "flood_leak"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class CircleWindows:
    """Windows of circles, clipped to the image and padded to one size so that they travel as one tensor.

    Args:
        x0: (P,) int64 left edges, image pixels.
        y0: (P,) int64 top edges, image pixels.
        inside: (P, h, w) bool, pixels of the image inside the circle; every ``step``-th each way.
        squared_px: (P, h, w) float64 squared distance to the centre, infinite in the padding.
        widths: (P,) int64 true width of each window, in samples.
        heights: (P,) int64 true height of each window, in samples.
        step: Image pixels between two samples.
    """

    x0: Tensor
    y0: Tensor
    inside: Tensor
    squared_px: Tensor
    widths: Tensor
    heights: Tensor
    step: int


class _PerHead:
    """Tensors whose first axis is the heads."""

    def of(self, rows: NDArray[np.int64]) -> Self:
        """Choose heads."""
        return type(self)(**{name: value[rows] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Candidates(_PerHead):
    """The candidate masks of P heads, C each: cells of low-resolution logits, and what was seen beyond them.

    Args:
        cells: (P, C, h, w) float32 logits, mask where above 0; padded to one size.
        sizes_hw: (P, 2) int64 true size of each head's cells.
        first_xy: (P, 2) float64 place of the first cell's centre, image pixels.
        cell_px: (P,) float64 side of a cell, image pixels.
        estimates: (P, C) float32 the network's own estimates of the IoU.
        area_px: (P, C) float32 area of the whole mask, image pixels.
        other_heads: (P, C) float32 number of other annotated heads that the whole mask covers.
    """

    cells: Tensor
    sizes_hw: Tensor
    first_xy: Tensor
    cell_px: Tensor
    estimates: Tensor
    area_px: Tensor
    other_heads: Tensor


@dataclass(frozen=True)
class Judged(_PerHead):
    """The best candidate of each head.

    Args:
        best: (P,) int64 its number.
        rank: (P,) float32, minus infinity where every candidate was rejected.
        stability: (P,) float32.
        leak_frac: (P,) float32, before the clip.
        area_px: (P,) float32, area of the whole mask before the clip, image pixels.
    """

    best: Tensor
    rank: Tensor
    stability: Tensor
    leak_frac: Tensor
    area_px: Tensor


def circle_windows(points_xy: Tensor, radius_px: Tensor, size_hw: tuple[int, int], *, step: int = 1) -> CircleWindows:
    """Lay a window around each circle.

    Args:
        points_xy: (P, 2) float64, image pixels; a point may lie outside the image.
        radius_px: (P,) float64.
        size_hw: Height and width of the image.
        step: Image pixels between two samples.
    """
    height, width = size_hw
    x, y = points_xy.unbind(1)
    left, top = (x - radius_px).floor().clamp(0, width - 1), (y - radius_px).floor().clamp(0, height - 1)
    right, bottom = (x + radius_px).ceil().clamp(0, width - 1), (y + radius_px).ceil().clamp(0, height - 1)
    widths, heights = ((right - left) // step + 1).long(), ((bottom - top) // step + 1).long()
    columns = left[:, None] + torch.arange(int(widths.max()), device=x.device) * step
    rows = top[:, None] + torch.arange(int(heights.max()), device=x.device) * step
    across = (columns - x[:, None]).square().masked_fill(columns > right[:, None], torch.inf)
    down = (rows - y[:, None]).square().masked_fill(rows > bottom[:, None], torch.inf)
    squared = across[:, None, :] + down[:, :, None]
    inside = squared <= radius_px.square()[:, None, None]
    return CircleWindows(left.long(), top.long(), inside, squared, widths, heights, step)


def sample_windows(candidates: Candidates, windows: CircleWindows, which: Tensor | None = None) -> Tensor:
    """Sample the cells of P heads bilinearly into their windows.

    Args:
        candidates: The cells.
        windows: The windows.
        which: (P,) int64 the one candidate to sample of each head; all by default.

    Returns:
        (P, C, h, w) float32 logits, or (P, 1, h, w).
    """
    cells = candidates.cells
    if which is not None:
        cells = cells[torch.arange(len(cells), device=cells.device), which][:, None]
    h, w = windows.inside.shape[1:]

    def weights(start: Tensor, length: int, axis: int, size: int) -> Tensor:
        """Share of each cell in each sample along an axis, (P, length, size); held within the head's own cells."""
        pixels = start[:, None] + torch.arange(length, device=cells.device) * windows.step
        at = (pixels - candidates.first_xy[:, axis, None]) / candidates.cell_px[:, None]
        at = torch.minimum(at.clamp(min=0), candidates.sizes_hw[:, 1 - axis, None] - 1)
        apart = at[:, :, None] - torch.arange(size, device=cells.device)
        return (1 - apart.abs()).clamp(min=0).to(cells.dtype)

    across, down = weights(windows.x0, w, 0, cells.shape[3]), weights(windows.y0, h, 1, cells.shape[2])
    return down[:, None] @ cells @ across.transpose(1, 2)[:, None]


def judge(
    candidates: Candidates,
    windows: CircleWindows,
    near_head: CircleWindows,
    options: ExclusionOptions,
    *,
    exclusive: bool = True,
) -> Judged:
    """Rank the candidates of each head and keep the best, the first among equals (specification EDP-SAM §4).

    Args:
        candidates: C candidates of each of P heads.
        windows: Windows of the P circles; shares and areas are taken on their samples.
        near_head: Windows of circles of :data:`HEAD_TOLERANCE_PX` around the heads, of step 1.
        options: Weights and bounds.
        exclusive: False ranks by the model's estimate and stability alone (for ablations).
    """
    sampled = sample_windows(candidates, windows)
    inside, sample_px = windows.inside[:, None], windows.step**2
    in_circle = ((sampled > 0) & inside).sum((2, 3)).float() * sample_px
    total = torch.maximum(candidates.area_px, in_circle)
    leak = 1 - in_circle / total.clamp(min=1)
    stability = _stability(sampled, inside, options.stability_delta)
    fill = in_circle / (windows.inside.sum((1, 2)).clamp(min=1)[:, None] * sample_px)
    rank = candidates.estimates * stability
    rejected = ~_holds_head(candidates, near_head) | (in_circle < options.min_area_px)
    if exclusive:
        rank = rank * torch.exp(-options.kappa * candidates.other_heads) * (1 - leak) ** options.gamma
        rejected |= (fill > FLOOD_FILL) & (leak > options.flood_leak)
    rank = rank.masked_fill(rejected, -torch.inf)
    best = rank.argmax(1, keepdim=True)
    return Judged(
        best=best[:, 0],
        rank=rank.gather(1, best)[:, 0],
        stability=stability.gather(1, best)[:, 0],
        leak_frac=leak.gather(1, best)[:, 0],
        area_px=total.gather(1, best)[:, 0],
    )


def _holds_head(candidates: Candidates, near_head: CircleWindows) -> Tensor:
    """Whether a mask covers a pixel within two pixels of its head, or the nearest one: (P, C) bool."""
    squared = near_head.squared_px
    near = near_head.inside | (squared == squared.amin((1, 2), keepdim=True))
    return ((sample_windows(candidates, near_head) > 0) & near[:, None]).any(3).any(2)


def _stability(sampled: Tensor, inside: Tensor, delta: float) -> Tensor:
    """Segment Anything's stability score inside the circle: area at a stricter threshold over that at a laxer one."""
    strict, lax = ((sampled > delta) & inside).sum((2, 3)), ((sampled > -delta) & inside).sum((2, 3))
    return strict / lax.clamp(min=1)


def head_component(mask: NDArray[np.bool_], x: float, y: float, *, fill_holes: bool) -> NDArray[np.bool_]:
    """Keep the 4-connected component that is nearest to (x, y) in the window, and fill its holes if asked to."""
    if not mask.any():
        return mask
    height, width = mask.shape
    column, row = min(max(round(x), 0), width - 1), min(max(round(y), 0), height - 1)
    if not mask[row, column]:
        rows, columns = np.nonzero(mask)
        nearest = int(np.argmin((columns - x) ** 2 + (rows - y) ** 2))
        row, column = int(rows[nearest]), int(columns[nearest])
    filled = mask.astype(np.uint8)
    cv2.floodFill(filled, None, (column, row), 2)
    mask = filled == 2
    if fill_holes:
        around = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        cv2.floodFill(around, None, (0, 0), 2)
        mask = around[1:-1, 1:-1] != 2
    return np.asarray(mask, bool)


def keep_apart(
    windows: list[Window],
    strength: list[NDArray[np.float32]],
    points_xy: NDArray[np.float64],
    radius_px: NDArray[np.float64],
    size_hw: tuple[int, int],
) -> list[Window]:
    """Give every contested pixel to one mask: the stronger there, ties to the smaller ‖x-p‖/r, then to the earlier row.

    Args:
        windows: N masks in windows of the image.
        strength: N float32 maps of the windows' shapes (logits).
        points_xy: (N, 2) float64 heads, image pixels.
        radius_px: (N,) float64.
        size_hw: Height and width of the image.

    Returns:
        Disjoint masks in the same windows, each one component that holds or is nearest to its head.
    """
    apart = [np.zeros(window.mask.shape, bool) for window in windows]
    starts = np.array([[window.x0, window.y0] for window in windows]).reshape(-1, 2)
    ends = starts + np.array([window.mask.shape[::-1] for window in windows]).reshape(-1, 2)
    for top in range(0, size_hw[0], BLOCK_PX):
        for left in range(0, size_hw[1], BLOCK_PX):
            corner = np.array([left, top])
            rows = np.flatnonzero((starts < corner + BLOCK_PX).all(1) & (ends > corner).all(1))
            shape = min(BLOCK_PX, size_hw[0] - top), min(BLOCK_PX, size_hw[1] - left)
            _settle_block(windows, strength, points_xy, radius_px, rows, corner, shape, apart)
    return [
        Window(head_component(mask, float(x - window.x0), float(y - window.y0), fill_holes=False), window.x0, window.y0)
        for mask, window, (x, y) in zip(apart, windows, points_xy, strict=True)
    ]


def _settle_block(
    windows: list[Window],
    strength: list[NDArray[np.float32]],
    points_xy: NDArray[np.float64],
    radius_px: NDArray[np.float64],
    rows: NDArray[np.int64],
    corner_xy: NDArray[np.int64],
    shape: tuple[int, int],
    apart: list[NDArray[np.bool_]],
) -> None:
    """Settle the pixels of one block of the image among the windows ``rows`` that reach into it, into ``apart``."""
    best = np.full(shape, -np.inf, np.float32)
    owner = np.full(shape, -1, np.int32)
    left, top = (int(value) for value in corner_xy)
    parts = {row: _overlap(windows[row], left, top, shape) for row in rows.tolist()}
    for row, (here, part) in parts.items():
        mask, value = windows[row].mask[part], strength[row][part]
        wins = mask & (value > best[here])
        ties = mask & (value == best[here])  # never a free pixel: those hold -inf
        if ties.any():
            y, x = np.nonzero(ties)
            rivals = owner[here][y, x]
            pixels_xy = np.stack([x + (left + here[1].start), y + (top + here[0].start)], 1)
            distance = _in_radii(pixels_xy, points_xy[[row]], radius_px[[row]])
            nearer = distance < _in_radii(pixels_xy, points_xy[rivals], radius_px[rivals])
            wins[y[nearer], x[nearer]] = True
        np.copyto(best[here], value, where=wins)
        np.copyto(owner[here], row, where=wins)
    for row, (here, part) in parts.items():
        apart[row][part] = owner[here] == row


def _in_radii(
    pixels_xy: NDArray[np.int64], points_xy: NDArray[np.float64], radius_px: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Distance of pixels to heads, in the heads' radii."""
    return np.asarray(np.hypot(*(pixels_xy - points_xy).T) / radius_px, np.float32)


Slices = tuple[slice, slice]


def _overlap(window: Window, left: int, top: int, shape: tuple[int, int]) -> tuple[Slices, Slices]:
    """Where a window and a block meet: as slices of the block, and as slices of the window."""
    height, width = window.mask.shape
    y0, y1 = max(window.y0, top), min(window.y0 + height, top + shape[0])
    x0, x1 = max(window.x0, left), min(window.x0 + width, left + shape[1])
    block = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    return block, (slice(y0 - window.y0, y1 - window.y0), slice(x0 - window.x0, x1 - window.x0))


def disc_window(x: float, y: float, radius_px: float, size_hw: tuple[int, int]) -> Window:
    """A disc clipped to the image; at least its centre's own pixel, where the centre lies in the image."""
    height, width = size_hw
    left, right = np.clip([np.floor(x - radius_px), np.ceil(x + radius_px)], 0, width - 1).astype(int)
    top, bottom = np.clip([np.floor(y - radius_px), np.ceil(y + radius_px)], 0, height - 1).astype(int)
    rows, columns = np.ogrid[top : bottom + 1, left : right + 1]
    squared = (columns - x) ** 2 + (rows - y) ** 2
    mask = squared <= radius_px**2
    if -0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5:
        mask |= squared == squared.min()
    return Window(mask, int(left), int(top))
