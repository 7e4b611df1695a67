"""Point-guided lookup of one image against a loop over its points and levels, and over the pairs of its masks."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measure import Row
from benchmarks.one_core import added_memory_mib, core_seconds, on_one_core
from pipeline.models.solov2 import TEACHER_GRIDS, SoloOutput
from pipeline.pseudo_labels.point_guided import DUPLICATE_IOU, PointGuided, point_guided

POINTS, SIDE, CHANNELS, CLASSES = 5000, 640, 64, 3
SAMPLE = 50
"""Points of the loop; it treats them one by one, and the pairs of their masks."""
REACH = 0.5


def output_of_discs(side: int, channels: int) -> SoloOutput:
    """Make an output whose kernels draw a disc around each cell: four channels are the circle's equation."""
    generator = torch.Generator().manual_seed(0)
    place = (torch.arange(side // 4) + 0.5) / (side // 4)
    x, y = place[None, :].expand(side // 4, -1), place[:, None].expand(-1, side // 4)
    features = torch.zeros(1, channels, side // 4, side // 4)
    features[0, :4] = torch.stack([x, y, x * x + y * y, torch.ones_like(x)])
    kernels, logits = [], []
    for level, grid in enumerate(TEACHER_GRIDS):
        middle = (torch.arange(grid) + 0.5) / grid
        cx, cy = middle[None, :].expand(grid, -1), middle[:, None].expand(-1, grid)
        radius = (0.01 + 0.02 * torch.rand(grid, grid, generator=generator)) * (1 + level)
        kernel = torch.zeros(1, channels, grid, grid)
        kernel[0, :4] = torch.stack([2 * cx, 2 * cy, -torch.ones_like(cx), radius**2 - cx**2 - cy**2])
        kernels.append(4e4 * kernel / (1 + level))
        logits.append(torch.randn(1, CLASSES, grid, grid, generator=generator) - level)
    return SoloOutput(logits, kernels, features)


def loop_lookup(
    output: SoloOutput, points_xy: NDArray[np.float64], class_id: NDArray[np.int64], side: int
) -> list[tuple[int, Tensor, float]]:
    """Give the best level, its mask and its s for each point, one point and one level at a time."""
    found = []
    for (x, y), one_class in zip(points_xy.tolist(), class_id.tolist(), strict=True):
        best, level, mask = -1.0, 0, output.mask_features[0, 0] > 2.0
        for k, (logits, kernels) in enumerate(zip(output.class_logits, output.kernels, strict=True)):
            grid = logits.shape[-1]
            i, j = int((y + 0.5) / side * grid), int((x + 0.5) / side * grid)
            prob = torch.sigmoid(torch.einsum("e,ehw->hw", kernels[0, :, i, j], output.mask_features[0]))
            inside = prob > 0.5
            maskness = float(prob[inside].mean()) if inside.any() else 0.0
            score = float(torch.sigmoid(logits[0, one_class, i, j])) * maskness
            if score > best:
                best, level, mask = score, k, inside
        found.append((level, mask, best))
    return found


def loop_duplicates(masks: list[Tensor], scores: list[float]) -> list[bool]:
    """Say of each mask whether one of a higher score (of equal ones an earlier) is nearly the same, pair by pair."""
    areas = [int(mask.sum()) for mask in masks]
    duplicate = [False] * len(masks)
    for one in range(len(masks)):
        for other in range(one):
            both = int((masks[one] & masks[other]).sum())
            if both > DUPLICATE_IOU * (areas[one] + areas[other] - both):
                duplicate[one if scores[one] <= scores[other] else other] = True
    return duplicate


def measure(*, scale: float = 1.0) -> list[Row]:
    """Measure one image; ``scale`` below 1 takes a part of its points."""
    return on_one_core(one_core_rows, scale)


def one_core_rows(scale: float) -> list[Row]:
    """Measure in this process."""
    rng = np.random.default_rng(0)
    n = max(SAMPLE, round(POINTS * scale))
    points_xy, class_id = rng.uniform(0, SIDE - 1, (n, 2)), rng.integers(0, CLASSES, n)
    output, size_hw = output_of_discs(SIDE, CHANNELS), (SIDE, SIDE)

    def lookup() -> PointGuided:
        return point_guided(output, points_xy, class_id, size_hw=size_hw, padded_hw=size_hw)

    added_mib = added_memory_mib(lookup)
    compared = int(np.isin(lookup().status, ("ok", "duplicate")).sum())
    with torch.no_grad():
        _, masks, scores = map(
            list, zip(*loop_lookup(output, points_xy[:SAMPLE], class_id[:SAMPLE], SIDE), strict=True)
        )
        ours, per_points, per_pairs = core_seconds(
            lookup,
            lambda: loop_lookup(output, points_xy[:SAMPLE], class_id[:SAMPLE], SIDE),
            lambda: loop_duplicates(masks, scores),
            rounds=2,
        )
    of_points = per_points * n / SAMPLE
    of_pairs = per_pairs * compared * (compared - 1) / (SAMPLE * (SAMPLE - 1))
    total = of_points + of_pairs
    work = f"{n:,} points, {SIDE} × {SIDE} px, {CHANNELS}-d kernels, grids {TEACHER_GRIDS[0]} to {TEACHER_GRIDS[-1]}"
    name = f"loop over points, levels and pairs of masks ({SAMPLE} points and their pairs, extrapolated)"
    notes = {
        "added_memory_mib": added_mib, "masks_compared": compared,
        "reference_points_s": of_points, "reference_pairs_s": of_pairs,
    }  # fmt: skip
    return [Row("point lookup", work, ours, name, total, f"≤ {REACH} ×", ours <= REACH * total, notes=notes)]
