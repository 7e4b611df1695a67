"""Nearest Neighbor Exclusion Circles (NNEC): how far a head's mask may reach (arXiv 2603.16241)."""

import math
from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree


class NnecFlag(IntFlag):
    """What is odd about a circle."""

    DUPLICATE = 1
    OUTSIDE = 2
    ALONE = 4
    MIN_RADIUS = 8
    MAX_RADIUS = 16


@dataclass(frozen=True, kw_only=True)
class NnecOptions:
    """How circles are bounded.

    Args:
        min_radius_px: No circle is smaller, in image pixels. It wins over ``max_radius_frac`` in tiny images.
        max_radius_frac: No circle is larger than this share of the image's shorter side.
        radius_scale: Factor on the distance to the nearest head, before the bounds; 0.5 makes circles disjoint.
    """

    min_radius_px: float = 3.0
    max_radius_frac: float = 0.25
    radius_scale: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError for a value that is not above 0."""
        for name in ("min_radius_px", "max_radius_frac", "radius_scale"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a finite number above 0, got {value}")


@dataclass(frozen=True)
class NnecResult:
    """The circles of one image, in the order of its points.

    Args:
        radius_px: (N,) float64, image pixels.
        neighbor_id: (N,) int64, row of the nearest head elsewhere than at this point, -1 where there is none.
        flags: (N,) uint8, bits of :class:`NnecFlag`.
    """

    radius_px: NDArray[np.float64]
    neighbor_id: NDArray[np.int64]
    flags: NDArray[np.uint8]

    def __len__(self) -> int:
        """Return the number of circles."""
        return len(self.radius_px)


def nnec_radii(
    points_xy: NDArray[np.float64],
    *,
    size_hw: tuple[int, int],
    min_radius_px: float = NnecOptions.min_radius_px,
    max_radius_frac: float = NnecOptions.max_radius_frac,
    radius_scale: float = NnecOptions.radius_scale,
) -> NnecResult:
    """Radius of each head's exclusion circle: the distance to the nearest other head, bounded.

    A head alone in its image gets the largest radius. Heads at one place (distance 0) take the nearest head elsewhere,
    and are flagged; so are points outside the image and radii that a bound changed. Memory is O(N), time O(N log N).

    Args:
        points_xy: (N, 2) float64, image pixels, finite; pixel centres are whole numbers.
        size_hw: Height and width of the image in pixels.
        min_radius_px: As in :class:`NnecOptions`.
        max_radius_frac: As in :class:`NnecOptions`.
        radius_scale: As in :class:`NnecOptions`.

    Raises:
        ValueError: If an argument is out of range or the points are not finite (N, 2).
    """
    NnecOptions(min_radius_px=min_radius_px, max_radius_frac=max_radius_frac, radius_scale=radius_scale)
    height_px, width_px = size_hw
    if height_px < 1 or width_px < 1:
        raise ValueError(f"size_hw must be positive, got {size_hw}")
    points_xy = np.ascontiguousarray(points_xy, dtype=np.float64)
    if points_xy.ndim != 2 or points_xy.shape[1] != 2:
        raise ValueError(f"points_xy must have shape (N, 2), got {points_xy.shape}")
    if not np.isfinite(points_xy).all():
        raise ValueError("points_xy must be finite; mend the annotation that holds NaN or infinity")

    distance_px, neighbor_id, repeated = _nearest_elsewhere(points_xy)
    alone = neighbor_id < 0
    largest_px = max(max_radius_frac * min(height_px, width_px), min_radius_px)
    wanted_px = np.where(alone, largest_px, distance_px * radius_scale)
    radius_px = np.minimum(np.maximum(wanted_px, min_radius_px), largest_px)
    x_px, y_px = points_xy[:, 0], points_xy[:, 1]
    outside = (x_px < -0.5) | (x_px >= width_px - 0.5) | (y_px < -0.5) | (y_px >= height_px - 0.5)
    flags = np.zeros(len(points_xy), np.uint8)
    for flag, raised in (
        (NnecFlag.DUPLICATE, repeated),
        (NnecFlag.OUTSIDE, outside),
        (NnecFlag.ALONE, alone),
        (NnecFlag.MIN_RADIUS, wanted_px < min_radius_px),
        (NnecFlag.MAX_RADIUS, wanted_px > largest_px),
    ):
        flags |= raised * np.uint8(flag)
    return NnecResult(radius_px, neighbor_id, flags)


def _nearest_elsewhere(
    points_xy: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Distance and row of the nearest head at another place (inf and -1 without), and which heads share theirs."""
    count = len(points_xy)
    if count < 2:
        return np.full(count, np.inf), np.full(count, -1, np.int64), np.zeros(count, bool)
    distance_px, neighbor_id = _query_second(points_xy)
    repeated = distance_px == 0
    if not repeated.any():
        return distance_px, neighbor_id, repeated
    places_xy, first_row, place = np.unique(points_xy + 0.0, axis=0, return_index=True, return_inverse=True)
    place = place.reshape(-1)
    if len(places_xy) == 1:
        return np.full(count, np.inf), np.full(count, -1, np.int64), repeated
    # Only the heads that share a place ask again, in a tree of distinct places.
    asking = np.unique(place[repeated])
    place_distance_px, place_neighbor = _query_second(places_xy, asking)
    slot = np.searchsorted(asking, place[repeated])
    distance_px[repeated] = place_distance_px[slot]
    neighbor_id[repeated] = first_row[place_neighbor[slot]]
    return distance_px, neighbor_id, repeated


def _query_second(
    points_xy: NDArray[np.float64], rows: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distance and row of the nearest other point, for all ``rows``."""
    distances_px, found = KDTree(points_xy).query(points_xy if rows is None else points_xy[rows], k=2)
    # Distinct points come after themselves. Among points at one place any two may come, which their distance 0 tells.
    return distances_px[:, 1].copy(), found[:, 1].astype(np.int64)
