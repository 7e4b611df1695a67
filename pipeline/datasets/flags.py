"""What is odd about a point: bit masks in memory, names joined by ``|`` in Parquet."""

from enum import IntFlag

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class PointFlag(IntFlag):
    """What ``prepare`` and the readers note about a point; the row itself always stays.

    ``OUTSIDE`` and ``DUPLICATE`` are set by ``prepare``; the others come from readers whose source says so. ``REGION``
    is a crowd or group that was outlined as one: no object, no point to train on, and neither right nor wrong to
    detect. ``NO_MASK`` is an object whose source has masks, but none, or an empty one, for it.
    """

    OUTSIDE = 1
    DUPLICATE = 2
    PARTLY_OCCLUDED = 4
    FULLY_OCCLUDED = 8
    BLURRED = 16
    BAD_BOX = 32
    REGION = 64
    NO_MASK = 128


def flag_names(value: int, kind: type[IntFlag]) -> str:
    """Names of the bits set in ``value``, lower case, joined by ``|``, in the order of their bits; ``""`` for none."""
    return "|".join(flag.name.lower() for flag in sorted(kind) if flag.name is not None and value & flag)


def flags_to_column(values: NDArray[np.uint8], kind: type[IntFlag]) -> pa.DictionaryArray:
    """Turn an (N,) bit mask into a dictionary column of names; equal masks give equal bytes."""
    present, codes = np.unique(values, return_inverse=True)
    names = pa.array([flag_names(int(value), kind) for value in present], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes.reshape(-1), pa.int32()), names)


def inside_image(points_xy: NDArray[np.float64], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Tell which (N, 2) xy points lie on a pixel of an image of ``size_hw``; pixel centres are whole numbers."""
    height_px, width_px = size_hw
    x_px, y_px = points_xy[:, 0], points_xy[:, 1]
    inside: NDArray[np.bool_] = (x_px >= -0.5) & (x_px < width_px - 0.5) & (y_px >= -0.5) & (y_px < height_px - 0.5)
    return inside


def repeated_points(points_xy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which (N, 2) points have the very coordinates of another one; all copies are marked."""
    if len(points_xy) == 0:
        return np.zeros(0, bool)
    _, inverse, counts = np.unique(points_xy + 0.0, axis=0, return_inverse=True, return_counts=True)
    repeated: NDArray[np.bool_] = counts[inverse.reshape(-1)] > 1
    return repeated
