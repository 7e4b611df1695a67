"""Exclusivity loss, forward and backward, against full frames: time and memory on one core."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Row
from benchmarks.one_core import added_memory_mib, core_seconds, on_one_core
from pipeline.losses.exclusivity import MAX_RADIUS_FRAC, MIN_RADIUS_PX, exclusivity_loss
from pipeline.models.embedding import gaussian_kernel

SIDE_PX, HEADS, CHANNELS, STRIDE = 256, 150, 16, 4
SAMPLE = 15
"""Heads of the full-frame form; the time and the memory of its N × H × W tensors grow with their number."""
REACH_S, REACH_MIB = 0.25, 300.0
TAU, MARGIN, SIGMA = 0.6, 0.1, 1.5


def full_frame_exclusivity_loss(embedding: Tensor, points_xy: Tensor, labels: Tensor, sample: int) -> Tensor:
    """Compute the loss of one image over the first heads with (N, H, W) tensors, as the formula reads.

    Args:
        embedding: (C, h, w).
        points_xy: (M, 2) heads inside the image; radii are taken among all of them.
        labels: (H, W) integer.
        sample: Number N of heads in the mean.
    """
    height, width = labels.shape
    fine = F.interpolate(embedding[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    kernel = gaussian_kernel(SIGMA).to(fine).expand(len(fine), 1, -1, -1)
    field = F.conv2d(fine[None], kernel, padding=3, groups=len(fine))[0]
    between = torch.cdist(points_xy, points_xy).fill_diagonal_(torch.inf)
    largest = MAX_RADIUS_FRAC * min(height, width)
    radius = between.amin(dim=1).clamp(MIN_RADIUS_PX, largest)[:sample, None, None]
    heads = points_xy[:sample]
    x, y = (heads[:, axis, None, None] for axis in (0, 1))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disc = (columns - x).square() + (rows - y).square() <= radius.square()
    label = labels[torch.floor(heads[:, 1] + 0.5).long(), torch.floor(heads[:, 0] + 0.5).long()]
    on = label > 0
    pos = disc & (labels == label[:, None, None])
    grid = 2 * heads / heads.new_tensor([width - 1, height - 1]) - 1
    center = F.grid_sample(field[None], grid[None, None].to(field), align_corners=True)[0, :, 0].T
    d = torch.linalg.vector_norm(field[None] - center[:, :, None, None], dim=1)
    losses = torch.zeros_like(center[:, 0])
    for chosen, hinge in ((pos, d - (TAU - MARGIN)), (disc & ~pos, (TAU + 4 * MARGIN) - d)):
        pixels = chosen.sum(dim=(1, 2))
        losses = losses + torch.relu(hinge).where(chosen, 0.0).sum(dim=(1, 2)) / pixels.clamp(min=1)
    return losses[on].sum() / on.sum().clamp(min=1)


def random_case(side_px: int, n_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make an embedding that learns, heads on different cells, and instances around half of them."""
    rng = np.random.default_rng(0)
    cells = side_px // STRIDE
    generator = torch.Generator().manual_seed(0)
    embedding = F.normalize(torch.randn(CHANNELS, cells, cells, generator=generator), dim=0).requires_grad_()
    row, column = np.divmod(rng.choice(cells**2, n_heads, replace=False), cells)
    points_xy = torch.from_numpy(STRIDE * np.stack([column, row], axis=1) + (STRIDE - 1) / 2)
    labels = rng.integers(0, n_heads + 1, (cells // 2, cells // 2)).repeat(2 * STRIDE, axis=0)
    return embedding, points_xy, torch.from_numpy(labels.repeat(2 * STRIDE, axis=1))


def measure(*, scale: float = 1.0) -> list[Row]:
    """Measure one crop; ``scale`` below 1 takes a part of its area with as much of its heads."""
    return on_one_core(one_core_rows, scale)


def one_core_rows(scale: float) -> list[Row]:
    """Measure in this process."""
    side = max(2, round(SIDE_PX * scale**0.5 / (2 * STRIDE))) * 2 * STRIDE
    n_heads = max(2, round(HEADS * scale))
    sample = min(SAMPLE, n_heads)
    embedding, points_xy, labels = random_case(side, n_heads)

    def ours() -> None:
        exclusivity_loss(embedding[None], [points_xy], labels[None]).backward()

    def theirs() -> None:
        full_frame_exclusivity_loss(embedding, points_xy, labels, sample).backward()

    our_mib, their_mib = (added_memory_mib(form) for form in (ours, theirs))
    our_s, their_s = core_seconds(ours, theirs)
    work = f"{n_heads} heads, {side} × {side} × {CHANNELS}, forward and backward, one core"
    name = f"N × H × W form ({sample} heads, extrapolated)"
    times = n_heads / sample
    return [
        Row("exclusivity loss", work, our_s, name, times * their_s, f"≤ {REACH_S} s", met=our_s <= REACH_S),
        Row(
            "exclusivity loss, memory", work, our_mib, name, times * their_mib, f"≤ {REACH_MIB:.0f} MiB",
            met=our_mib <= REACH_MIB, unit="MiB",
        ),
    ]  # fmt: skip
