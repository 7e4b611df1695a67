"""Density strata: rows of one class, sorted by the distance to the nearest other row of their image.

A crowd has one class, so that its thresholds differ by how dense it is instead: heads that touch are less sure, and
their masks worse, than heads that stand alone. Labelled heads and a teacher's candidates are sorted by one rule.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.geometry.nnec import nnec_radii

_NEAREST_PX, _FAR = 1e-9, 1e9
"""Bounds of the exclusion radius that never bind."""


def density_strata(
    points_xy: npt.NDArray[np.float64], size_hw: tuple[int, int], edges_px: Sequence[float]
) -> npt.NDArray[np.int64]:
    """Sort the points of an image, densest first.

    Args:
        points_xy: (N, 2), image pixels.
        size_hw: Size of the image.
        edges_px: K − 1 ascending distances; a point at one of them belongs to the sparser side.

    Returns:
        (N,) int64, 0 to K − 1; a point alone in its image is in the last.
    """
    nearest = nnec_radii(points_xy, size_hw=size_hw, min_radius_px=_NEAREST_PX, max_radius_frac=_FAR)
    return np.searchsorted(np.asarray(edges_px, dtype=np.float64), nearest.radius_px, side="right").astype(np.int64)


def density_names(edges_px: Sequence[float]) -> tuple[str, ...]:
    """Name the strata: ``dense < 12 px``, ``12 to 24 px``, ``sparse ≥ 24 px``."""
    if not edges_px:
        return ("all",)
    between = [f"{low:g} to {high:g} px" for low, high in itertools.pairwise(edges_px)]
    return (f"dense < {edges_px[0]:g} px", *between, f"sparse ≥ {edges_px[-1]:g} px")
