"""Energy masks of one image against a loop over its points with full frames."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measure import Row
from benchmarks.one_core import core_seconds, on_one_core
from pipeline.geometry.nnec import nnec_radii
from pipeline.pseudo_labels.energy import TRAINING_ENERGY, energy_label_map

SIZE_HW, POINTS, CHANNELS, STRIDE = (768, 1024), 1000, 16, 4
SAMPLE = 8
"""Points of the full-frame loop; it treats them one by one."""
REACH_S = 0.5


def upsample_and_blur(embedding: Tensor, *, blur_sigma: float) -> Tensor:
    """Bring a (C, h, w) embedding to the image: bilinear, then one line of seven taps along each axis."""
    fine = F.interpolate(embedding[None], scale_factor=STRIDE, mode="bilinear", align_corners=False)[0]
    line = torch.exp(-0.5 * (torch.arange(-3.0, 4.0) / blur_sigma) ** 2)
    line = (line / line.sum()).to(fine)
    fine = F.conv2d(fine[:, None], line.view(1, 1, 1, 7), padding=(0, 3))
    return F.conv2d(fine, line.view(1, 1, 7, 1), padding=(3, 0))[:, 0]


def full_frame_label_map(
    field: Tensor, points_xy: NDArray[np.float64], radius_px: NDArray[np.float64], rows: NDArray[np.int64]
) -> Tensor:
    """Draw the masks of some points one by one, each with its energy in the whole frame.

    Args:
        field: (C, H, W), upsampled and blurred.
        points_xy: (N, 2), image pixels, in (y, x) order.
        radius_px: (N,).
        rows: Points to draw, ascending.

    Returns:
        (H, W) int32, k + 1 for point k.
    """
    height, width = field.shape[-2:]
    y, x = torch.arange(height, dtype=torch.float64)[:, None], torch.arange(width, dtype=torch.float64)
    least = torch.full((height, width), torch.inf, dtype=torch.float64)
    label_map = torch.zeros(height, width, dtype=torch.int32)
    for k in rows.tolist():
        px, py = points_xy[k].tolist()
        grid = torch.tensor([[[[2 * px / (width - 1) - 1, 2 * py / (height - 1) - 1]]]]).to(field)
        center = F.grid_sample(field[None], grid, align_corners=True).view(-1, 1, 1)
        squared = (x - px).square() + (y - py).square()
        energy = torch.linalg.vector_norm(field - center, dim=0).double()
        energy += TRAINING_ENERGY.lambda_geo * squared / radius_px[k] ** 2
        wins = (squared <= radius_px[k] ** 2) & (energy < TRAINING_ENERGY.tau) & (energy < least)
        least[wins], label_map[wins] = energy[wins], k + 1
    return label_map


def measure(*, scale: float = 1.0) -> list[Row]:
    """Measure one image; ``scale`` below 1 takes a part of its area with as much of its points."""
    return on_one_core(one_core_rows, scale)


def one_core_rows(scale: float) -> list[Row]:
    """Measure in this process."""
    height, width = (max(2, round(side * scale**0.5 / STRIDE)) * STRIDE for side in SIZE_HW)
    rng = np.random.default_rng(0)
    points_xy = rng.uniform((0, 0), (width - 1, height - 1), (max(2, round(POINTS * scale)), 2))
    points_xy = points_xy[np.lexsort(points_xy.T)]
    cells_hw = (height // STRIDE, width // STRIDE)
    noise = torch.randn(CHANNELS, *cells_hw, generator=torch.Generator().manual_seed(0))
    embedding = F.normalize(noise + 1.0, dim=0)
    radius_px = nnec_radii(points_xy, size_hw=(height, width), max_radius_frac=0.5).radius_px
    sample = np.unique(np.linspace(0, len(points_xy) - 1, SAMPLE).round().astype(np.int64))
    field = upsample_and_blur(embedding, blur_sigma=TRAINING_ENERGY.blur_sigma)
    ours, theirs = core_seconds(
        lambda: energy_label_map(embedding, points_xy),
        lambda: full_frame_label_map(field, points_xy, radius_px, sample),
    )
    work = f"{len(points_xy):,} points, {height} × {width} × {CHANNELS}, one core"
    name = f"full frame per point ({len(sample)} points, extrapolated)"
    total = theirs * len(points_xy) / len(sample)
    return [Row("energy masks", work, ours, name, total, f"≤ {REACH_S} s", met=ours <= REACH_S)]
