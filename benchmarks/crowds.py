"""Large pictures of crowds, cheap to make: one drawn scene, mirrored side by side, with exact points and circles."""

import numpy as np
from numpy.typing import NDArray

from pipeline.annotators.base import MarkedImage
from pipeline.datasets.crowd_scene.scene import render_scene
from pipeline.geometry.nnec import nnec_radii

REPEATS = 4
"""The scene stands so many times along each side; drawing 12 megapixels at once would take half a minute."""


def mirrored_crowd(n_heads: int, *, size_hw: tuple[int, int], seed: int = 0) -> MarkedImage:
    """Make an image with exactly ``n_heads`` points, and their circles with the default bounds.

    Every second copy of the scene is mirrored, so that no seam shows. Heads beyond those wanted lose their points, and
    where the scene had no room for enough of them, points without a head make up the number.

    Args:
        n_heads: Number of points.
        size_hw: Height and width, px.
        seed: Seed of the scene.
    """
    rng = np.random.default_rng(seed)
    part_hw = -(-size_hw[0] // REPEATS), -(-size_hw[1] // REPEATS)
    scene = render_scene(rng, size_hw=part_hw, n_heads=round(1.15 * n_heads / REPEATS**2) + 1)
    height, width = size_hw
    pad = [(0, REPEATS * part_hw[0] - part_hw[0]), (0, REPEATS * part_hw[1] - part_hw[1])]
    image = np.ascontiguousarray(np.pad(scene.image, [*pad, (0, 0)], mode="symmetric")[:height, :width])
    points_xy = _mirrored_points(scene.points_xy, part_hw)
    points_xy = points_xy[(points_xy[:, 0] <= width - 1) & (points_xy[:, 1] <= height - 1)]
    missing = max(0, n_heads - len(points_xy))
    points_xy = np.concatenate([points_xy, rng.uniform((0, 0), (width - 1, height - 1), (missing, 2))])
    points_xy = points_xy[np.sort(rng.permutation(len(points_xy))[:n_heads])]
    radius_px = nnec_radii(points_xy, size_hw=size_hw).radius_px
    return MarkedImage("crowd", image, points_xy, radius_px, np.arange(n_heads), np.zeros(n_heads, np.int64))


def _mirrored_points(points_xy: NDArray[np.float64], part_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Where the points of a scene come to lie in its mirrored copies, row by row of copies."""
    copies = []
    for row in range(REPEATS):
        for column in range(REPEATS):
            x, y = points_xy.T
            x = part_hw[1] - 1 - x if column % 2 else x
            y = part_hw[0] - 1 - y if row % 2 else y
            copies.append(np.stack([x + column * part_hw[1], y + row * part_hw[0]], axis=1))
    return np.concatenate(copies)
