"""Stand-ins for a promptable model: they paint known logits around each prompt, so that every rule can be seen."""

from types import SimpleNamespace

import numpy as np
import torch

from pipeline.annotators.base import MarkedImage
from pipeline.geometry.nnec import nnec_radii

SIDE_PX = 64
GRID = 16


class DiscModel:
    """Paints three discs around each positive point, of 4, 2 and 12 model pixels' radius, with estimates to match.

    The model's image embedding is the tile itself; ``calls`` keeps what was asked.
    """

    name = "fake"
    input_px = SIDE_PX
    logit_px = GRID
    weights_sha256 = "f" * 64
    device = torch.device("cpu")
    sam = SimpleNamespace(pixel_mean=torch.tensor([100.0, 110.0, 120.0]).view(3, 1, 1))

    def __init__(self, radii=(8.0, 4.0, 24.0), estimates=(0.9, 0.6, 0.8), sign=1.0) -> None:
        self.radii, self.estimates, self.sign = radii, estimates, sign
        self.calls = []
        self.tiles = []

    def encode(self, tiles):
        assert tiles.shape[1:] == (3, SIDE_PX, SIDE_PX)
        assert tiles.dtype == torch.float32
        self.tiles.append(tiles)
        return tiles

    def decode(self, embedding, points_xy, boxes_xyxy=None, negatives_xy=None):
        self.calls.append((points_xy, boxes_xyxy, negatives_xy))
        cell = SIDE_PX / GRID
        center = (torch.arange(GRID) + 0.5) * cell - 0.5
        x, y = points_xy[:, 0, None, None], points_xy[:, 1, None, None]
        distance = ((center[None, None, :] - x) ** 2 + (center[None, :, None] - y) ** 2).sqrt()
        logits = torch.stack([self.sign * (radius - distance) for radius in self.radii], dim=1)
        return logits, torch.tensor(self.estimates).expand(len(points_xy), len(self.radii))


def mark(points_xy, size_hw=(64, 64), *, radius_px=None, image=None, seed=0) -> MarkedImage:
    """Points on an image, noise by default, with their exclusion circles."""
    points_xy = np.asarray(points_xy, np.float64).reshape(-1, 2)
    if image is None:
        image = np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    if radius_px is None:
        radius_px = nnec_radii(points_xy, size_hw=size_hw).radius_px
    count = len(points_xy)
    return MarkedImage(
        "one", image, points_xy, np.asarray(radius_px, np.float64), np.arange(count) + 10, np.arange(count) % 3
    )


def full_masks(instances) -> np.ndarray:
    """All masks in full frames: (N, H, W) bool."""
    masks = np.zeros((len(instances), *instances.size_hw), bool)
    for row in range(len(instances)):
        window = instances.window(row)
        height, width = window.mask.shape
        masks[row, window.y0 : window.y0 + height, window.x0 : window.x0 + width] = window.mask
    return masks


def circle_masks(marked: MarkedImage) -> np.ndarray:
    """All exclusion circles in full frames: (N, H, W) bool."""
    y, x = np.mgrid[: marked.size_hw[0], : marked.size_hw[1]]
    return np.array(
        [(x - px) ** 2 + (y - py) ** 2 <= r**2 for (px, py), r in zip(marked.points_xy, marked.radius_px, strict=True)],
        bool,
    ).reshape(-1, *marked.size_hw)
