"""Which pixel of one grid lies under which of another: nearest neighbours by centres, with no shift at any factor."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T", bound=np.generic)


def nearest_index(length: int, out_length: int) -> npt.NDArray[np.int64]:
    """Give for each pixel of the scaled span the one of the span that its centre falls on."""
    return ((np.arange(out_length) + 0.5) * (length / out_length)).astype(np.int64)


def scale_nearest(values: npt.NDArray[T], size_hw: tuple[int, int]) -> npt.NDArray[T]:
    """Bring (H, W) to another size; every pixel takes the value under its centre."""
    return values[np.ix_(nearest_index(values.shape[0], size_hw[0]), nearest_index(values.shape[1], size_hw[1]))]
