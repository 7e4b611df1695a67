"""Rules of the exclusion circle: score candidate masks, choose one, keep masks of one image apart.

The method is EDP-SAM's (arXiv 2603.16241) as reconstructed in specification EDP-SAM §4. A candidate is a square of
low-resolution logits; it is sampled bilinearly into its circle's window at image resolution and judged there.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from pipeline.geometry.tiles import Tile
from pipeline.masks.rle import Window

HEAD_TOLERANCE_PX = 2.0
FLOOD_FILL, FLOOD_LEAK = 0.98, 0.5


@dataclass(frozen=True)
class ExclusionOptions:
    """How candidates are ranked and rejected.

    Args:
        kappa: How strongly each other head under a mask counts against it: factor exp(-kappa · heads).
        gamma: How strongly leaking counts: factor (1 - leak)^gamma.
        min_area_px: A mask with fewer pixels inside its circle is rejected.
        stability_delta: Offset of the two thresholds, in logits, between which a stable mask hardly changes.
        fallback_radius_frac: Radius of the disc that stands in for a rejected mask, as a share of the circle's.
        fallback_score: Score of such a disc.
    """

    kappa: float = 0.7
    gamma: float = 0.5
    min_area_px: float = 6.0
    stability_delta: float = 1.0
    fallback_radius_frac: float = 0.5
    fallback_score: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("kappa", "gamma", "min_area_px", "stability_delta"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("fallback_radius_frac", "fallback_score"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class CircleWindows:
    """Windows of circles, clipped to the image and padded to one size so that they travel as one tensor.

    Args:
        x0: (P,) int64 left edges, image pixels.
        y0: (P,) int64 top edges, image pixels.
        inside: (P, h, w) bool, pixels of the image inside the circle.
        near_head: (P, h, w) bool, those within two pixels of the head (at least the nearest one).
        widths: (P,) int64 true width of each window.
        heights: (P,) int64 true height of each window.
    """

    x0: Tensor
    y0: Tensor
    inside: Tensor
    near_head: Tensor
    widths: Tensor
    heights: Tensor


@dataclass(frozen=True)
class Judged:
    """The best candidate of each head.

    Args:
        rank: (P,) float32, minus infinity where every candidate was rejected.
        logits: (P, h, w) float32 in the circle's window.
        pred_iou: (P,) float32.
        stability: (P,) float32.
        leak_frac: (P,) float32, before the clip.
        area_px: (P,) float32, area of the whole mask before the clip, image pixels.
    """

    rank: Tensor
    logits: Tensor
    pred_iou: Tensor
    stability: Tensor
    leak_frac: Tensor
    area_px: Tensor


def circle_windows(points_xy: Tensor, radius_px: Tensor, size_hw: tuple[int, int]) -> CircleWindows:
    """Lay a window around each circle.

    Args:
        points_xy: (P, 2) float64, image pixels; a point may lie outside the image.
        radius_px: (P,) float64.
        size_hw: Height and width of the image.
    """
    height, width = size_hw
    x, y = points_xy.unbind(1)
    left, top = (x - radius_px).floor().clamp(0, width - 1), (y - radius_px).floor().clamp(0, height - 1)
    right, bottom = (x + radius_px).ceil().clamp(0, width - 1), (y + radius_px).ceil().clamp(0, height - 1)
    widths, heights = (right - left + 1).long(), (bottom - top + 1).long()
    columns = left[:, None] + torch.arange(int(widths.max()), device=x.device)
    rows = top[:, None] + torch.arange(int(heights.max()), device=x.device)
    squared = (columns[:, None, :] - x[:, None, None]).square() + (rows[:, :, None] - y[:, None, None]).square()
    valid = (columns <= right[:, None])[:, None, :] & (rows <= bottom[:, None])[:, :, None]
    nearest = squared.masked_fill(~valid, torch.inf).amin((1, 2), keepdim=True)
    near_head = valid & ((squared <= HEAD_TOLERANCE_PX**2) | (squared == nearest))
    return CircleWindows(
        left.long(), top.long(), valid & (squared <= radius_px.square()[:, None, None]), near_head, widths, heights
    )


def sample_windows(logits: Tensor, tile: Tile, windows: CircleWindows) -> Tensor:
    """Sample low-resolution logits (P, C, G, G) of a tile bilinearly into windows at image resolution: (P, C, h, w)."""
    h, w = windows.inside.shape[1:]
    # Pixel x of the image lies at this share of the tile's side; grid_sample counts from -1 to 1 between outer edges.
    x = ((windows.x0[:, None] + torch.arange(w, device=logits.device)) - tile.x0 + 0.5) / tile.side_px
    y = ((windows.y0[:, None] + torch.arange(h, device=logits.device)) - tile.y0 + 0.5) / tile.side_px
    grid = torch.stack([(2 * x - 1)[:, None, :].expand(-1, h, -1), (2 * y - 1)[:, :, None].expand(-1, -1, w)], dim=-1)
    return F.grid_sample(logits, grid.to(logits.dtype), mode="bilinear", padding_mode="border", align_corners=False)


def judge(
    logits: Tensor,
    estimates: Tensor,
    windows: CircleWindows,
    tile: Tile,
    own: Tensor,
    heads_xy: Tensor,
    size_hw: tuple[int, int],
    options: ExclusionOptions,
    *,
    exclusive: bool = True,
) -> Judged:
    """Rank the candidates of each head and keep the best (specification EDP-SAM §4).

    Args:
        logits: (P, C, G, G) low-resolution logits.
        estimates: (P, C) the model's IoU estimates.
        windows: Windows of the P circles.
        tile: Where the logits lie in the image.
        own: (P,) int64, row of each head in ``heads_xy``.
        heads_xy: (K, 2) float64, all annotated heads in the tile, image pixels.
        size_hw: Height and width of the image.
        options: Weights and bounds.
        exclusive: False ranks by the model's estimate and stability alone (for ablations).
    """
    sampled = sample_windows(logits, tile, windows)
    inside = windows.inside[:, None]
    in_circle = ((sampled > 0) & inside).sum((2, 3)).float()
    total = torch.maximum(_area(logits, tile, size_hw), in_circle)
    leak = 1 - in_circle / total.clamp(min=1)
    stability = _stability(sampled, inside, options.stability_delta)
    fill = in_circle / windows.inside.sum((1, 2)).clamp(min=1)[:, None]
    holds_head = ((sampled > 0) & windows.near_head[:, None]).any(3).any(2)
    rank = estimates * stability
    rejected = ~holds_head | (in_circle < options.min_area_px)
    if exclusive:
        rank = (
            rank * torch.exp(-options.kappa * _other_heads(logits, tile, own, heads_xy)) * (1 - leak) ** options.gamma
        )
        rejected |= (fill > FLOOD_FILL) & (leak > FLOOD_LEAK)
    rank = rank.masked_fill(rejected, -torch.inf)
    best = rank.argmax(1, keepdim=True)
    pick = best[:, :, None, None].expand(-1, 1, *sampled.shape[2:])
    return Judged(
        rank=rank.gather(1, best)[:, 0],
        logits=sampled.gather(1, pick)[:, 0],
        pred_iou=estimates.gather(1, best)[:, 0],
        stability=stability.gather(1, best)[:, 0],
        leak_frac=leak.gather(1, best)[:, 0],
        area_px=total.gather(1, best)[:, 0],
    )


def _area(logits: Tensor, tile: Tile, size_hw: tuple[int, int]) -> Tensor:
    """Mask area in image pixels from the low-resolution logits, without the tile's padding: (P, C)."""
    cell_px = tile.side_px / logits.shape[-1]
    rows = min(logits.shape[-2], int(np.ceil((size_hw[0] - tile.y0) / cell_px)))
    columns = min(logits.shape[-1], int(np.ceil((size_hw[1] - tile.x0) / cell_px)))
    return (logits[:, :, :rows, :columns] > 0).sum((2, 3)).float() * cell_px**2


def _stability(sampled: Tensor, inside: Tensor, delta: float) -> Tensor:
    """Segment Anything's stability score inside the circle: area at a stricter threshold over that at a laxer one."""
    strict, lax = ((sampled > delta) & inside).sum((2, 3)), ((sampled > -delta) & inside).sum((2, 3))
    return strict / lax.clamp(min=1)


def _other_heads(logits: Tensor, tile: Tile, own: Tensor, heads_xy: Tensor) -> Tensor:
    """Count the other heads under each mask: (P, C) float."""
    grid = ((heads_xy - heads_xy.new_tensor([tile.x0, tile.y0]) + 0.5) / tile.side_px * 2 - 1).to(logits.dtype)
    at_heads = F.grid_sample(
        logits,
        grid[None, None].expand(len(logits), -1, -1, -1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[:, :, 0]
    covered = at_heads > 0
    # A head at the same place is the same head marked twice, not another one.
    same_place = (heads_xy[own][:, None] == heads_xy[None]).all(2)
    return (covered & ~same_place[:, None]).sum(2).float()


def head_component(mask: NDArray[np.bool_], x: float, y: float, *, fill_holes: bool) -> NDArray[np.bool_]:
    """Keep the 4-connected component that is nearest to (x, y) in the window, and fill its holes if asked to."""
    if not mask.any():
        return mask
    labels, count = ndimage.label(mask)
    if count > 1:
        rows, columns = np.nonzero(mask)
        nearest = np.argmin((columns - x) ** 2 + (rows - y) ** 2)
        mask = labels == labels[rows[nearest], columns[nearest]]
    return np.asarray(ndimage.binary_fill_holes(mask), bool) if fill_holes else np.asarray(mask, bool)


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
    best = np.full(size_hw, -np.inf, np.float32)
    best_distance = np.full(size_hw, np.inf, np.float32)
    owner = np.full(size_hw, -1, np.int32)
    for row, (window, value) in enumerate(zip(windows, strength, strict=True)):
        here = _slices(window)
        y, x = np.ogrid[here]
        distance = (np.hypot(x - points_xy[row, 0], y - points_xy[row, 1]) / radius_px[row]).astype(np.float32)
        wins = window.mask & ((value > best[here]) | ((value == best[here]) & (distance < best_distance[here])))
        best[here][wins], best_distance[here][wins], owner[here][wins] = value[wins], distance[wins], row
    apart = []
    for row, window in enumerate(windows):
        mask = owner[_slices(window)] == row
        x, y = points_xy[row] - [window.x0, window.y0]
        apart.append(Window(head_component(mask, x, y, fill_holes=False), window.x0, window.y0))
    return apart


def _slices(window: Window) -> tuple[slice, slice]:
    height, width = window.mask.shape
    return slice(window.y0, window.y0 + height), slice(window.x0, window.x0 + width)


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
