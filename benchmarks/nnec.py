"""NNEC radii against the bare SciPy KD-tree calls: what the edge cases and bounds cost on top of the query."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from benchmarks.measure import Row, best_seconds
from pipeline.geometry.nnec import nnec_radii

IMAGES = 4372
POINTS = 1_500_000
SIZE_HW = (1080, 1920)
REACH = 1.3


def crowd_counts(rng: np.random.Generator, images: int, points: int) -> NDArray[np.int64]:
    """Draw heads per image with a long tail, as in JHU-CROWD++: most images small, a few with thousands of heads."""
    weights = rng.lognormal(sigma=1.4, size=images)
    return rng.multinomial(points, weights / weights.sum()).astype(np.int64)


def bare_query(points_xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance to the nearest other point, and nothing else."""
    if len(points_xy) < 2:
        return np.zeros(len(points_xy))
    distances_px, _ = KDTree(points_xy, balanced_tree=False, compact_nodes=False).query(points_xy, k=2)
    return np.asarray(distances_px[:, 1])


def measure(*, scale: float = 1.0) -> list[Row]:
    """Measure the whole data set in one go; ``scale`` below 1 takes a part of it."""
    rng = np.random.default_rng(0)
    counts = crowd_counts(rng, max(1, int(IMAGES * scale)), int(POINTS * scale))
    crowds = [rng.uniform((0, 0), SIZE_HW[::-1], size=(count, 2)) for count in counts]
    ours, bare = best_seconds(
        lambda: [nnec_radii(points_xy, size_hw=SIZE_HW) for points_xy in crowds],
        lambda: [bare_query(points_xy) for points_xy in crowds],
    )
    work = f"{counts.sum():,} points in {len(counts):,} images"
    met = ours <= REACH * bare
    return [Row("NNEC radii", work, ours, "bare KD-tree calls", bare, reach=f"≤ {REACH} ×", met=met)]
