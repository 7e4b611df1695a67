"""Point-to-region loss, forward and backward, against the dense form with one distance for every cell and head."""

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Row
from benchmarks.one_core import core_seconds, on_one_core
from pipeline.losses.point_to_region import (
    DISTANCE_WEIGHT,
    EMPTY_WEIGHT,
    MAX_DISTANCE_PX,
    MIN_SCALE_PX,
    point_to_region_loss,
)

CELLS, HEADS, STRIDE = 64, 2000, 4
REACH = 0.2
ROUNDS = 5


def dense_point_to_region_loss(logits: Tensor, points_xy: Tensor) -> Tensor:
    """Compute the loss of one (h, w) map with (h·w, N) tensors, as the formula reads."""
    height, width = logits.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells_xy = STRIDE * torch.stack([x, y], dim=2).reshape(-1, 2).to(points_xy) + (STRIDE - 1) / 2
    z = logits.flatten()
    if not len(points_xy):
        return EMPTY_WEIGHT * torch.nn.functional.binary_cross_entropy_with_logits(z, torch.zeros_like(z))
    distance = torch.linalg.vector_norm(cells_xy[:, None] - points_xy[None], dim=2)
    nearest = distance.argmin(dim=1, keepdim=True)
    member = torch.zeros_like(distance, dtype=torch.bool).scatter_(1, nearest, True) & (distance < MAX_DISTANCE_PX)
    scale = distance.where(member, 0.0).amax(dim=0).clamp(MIN_SCALE_PX, MAX_DISTANCE_PX)
    cost = (DISTANCE_WEIGHT * distance / scale - z.detach()[:, None]).where(member, torch.inf)
    target = torch.zeros_like(z)
    target[cost.argmin(dim=0)[member.any(dim=0)]] = 1.0
    return torch.nn.functional.binary_cross_entropy_with_logits(z, target, 1.0 + target)


def measure(*, scale: float = 1.0) -> list[Row]:
    """Measure one map; ``scale`` below 1 takes a part of its cells with as much of its heads."""
    return on_one_core(one_core_rows, scale)


def one_core_rows(scale: float) -> list[Row]:
    """Measure in this process."""
    side, n_heads = max(2, round(CELLS * scale**0.5)), max(1, round(HEADS * scale))
    points_xy = torch.from_numpy(np.random.default_rng(0).uniform(0, STRIDE * side - 1, (n_heads, 2)))
    logits = torch.randn(side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ours, dense = core_seconds(
        lambda: point_to_region_loss(logits[None], [points_xy], stride=STRIDE).backward(),
        lambda: dense_point_to_region_loss(logits, points_xy.float()).backward(),
        rounds=ROUNDS,
    )
    work = f"{side} × {side} cells, {n_heads:,} heads, forward and backward, one core"
    reach = f"≤ {REACH} × (5 × faster)"
    return [Row("point-to-region loss", work, ours, "dense form", dense, reach, met=ours <= REACH * dense)]
