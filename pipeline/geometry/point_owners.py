"""From a class map to instances: which point a pixel belongs to (P2Seg, arXiv 2401.09709; specification §3, "S2I").

Everything is by pixel and point at once, in chunks of pixels; nothing loops over points.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

UNKNOWN = 255
"""Value of a class map where nothing is known; 0 is background, k + 1 is class_id k."""
MIN_COMPONENT_PX = 50
"""Smaller components of a class say nothing about centres."""
CHUNK = 2**18
"""Pairs of a pixel and a point that are held at a time."""


class OffsetTarget(NamedTuple):
    """Where the centre of a pixel's instance lies, as seen from the pixel.

    Args:
        offsets: (2, H, W) float32 (dy, dx), pixels; 0 where the weight is 0.
        weight: (H, W) bool.
    """

    offsets: npt.NDArray[np.float32]
    weight: npt.NDArray[np.bool_]


def nearest_of_group(places_yx: Tensor, groups: Tensor, points_yx: Tensor, point_groups: Tensor) -> Tensor:
    """Give the nearest point of the same group.

    Args:
        places_yx: (P, 2) float.
        groups: (P,) int64.
        points_yx: (K, 2) float.
        point_groups: (K,) int64.

    Returns:
        (P,) int64, the first of equally near ones; −1 where the group has no point.
    """
    nearest = torch.full_like(groups, -1)
    if not len(points_yx):
        return nearest
    order = torch.argsort(point_groups, stable=True)
    kinds, counts = torch.unique_consecutive(point_groups[order], return_counts=True)
    starts = torch.cumsum(counts, 0) - counts
    for kind, start, count in zip(kinds.tolist(), starts.tolist(), counts.tolist(), strict=True):
        rows = torch.nonzero(groups == kind)[:, 0]
        among = order[start : start + count]
        if count == 1:
            nearest[rows] = among
            continue
        # ‖p − q‖² less ‖p‖², which is the same for all points; double, so that whole numbers tie as they should
        points = points_yx[among].double()
        half_squares = 0.5 * points.square().sum(1)
        for part in torch.split(rows, max(1, CHUNK // count)):
            shares = torch.addmm(half_squares, places_yx[part].double(), points.T, alpha=-1)
            nearest[part] = among[shares.argmin(1)]
    return nearest


def assign_pixels(offsets: Tensor | None, classes: Tensor, points_yx: Tensor, point_class: Tensor) -> Tensor:
    """Give every pixel of a class to the point of that class to which its offset leads nearest.

    Args:
        offsets: (2, H, W) float (dy, dx), pixels; None for none, which divides each class among its nearest points.
        classes: (H, W) int64 class map: 0 background, k + 1 class_id k, :data:`UNKNOWN`.
        points_yx: (K, 2) float; points may lie outside the map.
        point_class: (K,) int64 class_id.

    Returns:
        (H, W) int64, 0 for no instance, k for point k − 1.
    """
    places = torch.nonzero((classes > 0) & (classes != UNKNOWN))
    y, x = places.unbind(1)
    found = places.to(points_yx.dtype)
    if offsets is not None:
        found = found + offsets[:, y, x].T.to(points_yx.dtype)
    owners = torch.zeros_like(classes)
    owners[y, x] = nearest_of_group(found, classes[y, x], points_yx, point_class + 1) + 1
    return owners


def component_offsets(
    classes: npt.NDArray[np.uint8], points_yx: npt.NDArray[np.float64], point_class: npt.NDArray[np.int64]
) -> OffsetTarget:
    """Give the static target: the way to the centre of the pixel's component, or to its nearest point there.

    Of each 8-connected component of a class with at least :data:`MIN_COMPONENT_PX` pixels: with no point of its class
    in it, nothing is said; with one, the centre is the component's centroid; with several, the nearest of them.

    Args:
        classes: (H, W) class map.
        points_yx: (K, 2); points outside the map lie in no component.
        point_class: (K,) class_id.
    """
    height, width = classes.shape
    components = np.zeros(classes.shape, np.int64)
    n_components = 0
    for value in np.unique(classes):
        if value in (0, UNKNOWN):
            continue
        labels, count = ndimage.label(classes == value, structure=np.ones((3, 3)))
        components += np.where(labels > 0, labels + n_components, 0)
        n_components += count
    rows, columns = np.rint(points_yx).astype(np.int64).reshape(-1, 2).T
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    own = np.zeros(len(rows), np.int64)
    own[inside] = components[rows[inside], columns[inside]]
    own[inside] *= classes[rows[inside], columns[inside]] == point_class[inside] + 1
    area = np.bincount(components.ravel(), minlength=n_components + 1)
    n_points = np.bincount(own, minlength=n_components + 1)
    told = (n_points > 0) & (area >= MIN_COMPONENT_PX)
    told[0] = False
    weight = told[components]
    y, x = np.nonzero(weight)
    at = components[y, x]
    centroids = np.stack([np.bincount(at, one, n_components + 1) / np.maximum(area, 1) for one in (y, x)], axis=1)
    centers = centroids[at]
    crowded = n_points[at] > 1
    nearest = nearest_of_group(
        torch.from_numpy(np.stack([y, x], 1)[crowded]),
        torch.from_numpy(at[crowded]),
        torch.from_numpy(points_yx[own > 0]),
        torch.from_numpy(own[own > 0]),
    ).numpy()
    centers[crowded] = points_yx[own > 0][nearest]
    offsets = np.zeros((2, height, width), np.float32)
    offsets[:, y, x] = (centers - np.stack([y, x], 1)).T
    return OffsetTarget(offsets, weight)
