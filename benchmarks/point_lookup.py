"""Point-guided lookup of one image against a loop over its points and levels."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measure import Row
from benchmarks.one_core import added_memory_mib, core_seconds, on_one_core
from pipeline.models.solov2 import TEACHER_GRIDS, SoloOutput
from pipeline.pseudo_labels.point_guided import point_guided

POINTS, SIDE, CHANNELS, CLASSES = 5000, 640, 64, 3
SAMPLE = 50
"""Points of the loop; it treats them one by one."""
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
) -> list[tuple[int, Tensor]]:
    """Give the best level and its mask for each point, one point and one level at a time; no statuses."""
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
        found.append((level, mask))
    return found


def measure(*, scale: float = 1.0) -> list[Row]:
    """Measure one image; ``scale`` below 1 takes a part of its points."""
    return on_one_core(one_core_rows, scale)


def one_core_rows(scale: float) -> list[Row]:
    """Measure in this process."""
    rng = np.random.default_rng(0)
    n = max(SAMPLE, round(POINTS * scale))
    points_xy, class_id = rng.uniform(0, SIDE - 1, (n, 2)), rng.integers(0, CLASSES, n)
    output, size_hw = output_of_discs(SIDE, CHANNELS), (SIDE, SIDE)
    added_mib = added_memory_mib(lambda: point_guided(output, points_xy, class_id, size_hw=size_hw, padded_hw=size_hw))
    with torch.no_grad():
        ours, theirs = core_seconds(
            lambda: point_guided(output, points_xy, class_id, size_hw=size_hw, padded_hw=size_hw),
            lambda: loop_lookup(output, points_xy[:SAMPLE], class_id[:SAMPLE], SIDE),
            rounds=2,
        )
    total = theirs * n / SAMPLE
    work = f"{n:,} points, {SIDE} × {SIDE} px, {CHANNELS}-d kernels, grids {TEACHER_GRIDS[0]} to {TEACHER_GRIDS[-1]}"
    name = f"loop over points and levels ({SAMPLE} points, extrapolated)"
    met = ours <= REACH * total
    return [Row("point lookup", work, ours, name, total, f"≤ {REACH} ×", met, notes={"added_memory_mib": added_mib})]
