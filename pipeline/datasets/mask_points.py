"""The points of objects whose masks are known: in the middle, or anywhere in the mask, by a seeded rule."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.masks.rle import Window


@dataclass(frozen=True)
class PointRule:
    """Where an annotator would have put the point of an object; readers of masks have these options.

    Args:
        points: ``center``: the mass centre where that lies in the mask, else the pixel that is farthest from the
            mask's edge; ``random``: any pixel of the mask, each as likely.
        points_seed: Seed of ``random``. A point depends on the seed, its image's id and its row there alone.
    """

    points: Literal["center", "random"] = "center"
    points_seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for an option out of range."""
        if self.points not in ("center", "random"):
            raise ValueError(f"points must be one of center, random, got '{self.points}'")
        if self.points_seed < 0:
            raise ValueError(f"points_seed must be at least 0, got {self.points_seed}")

    def points_of(self, windows: Sequence[Window], image_id: str) -> NDArray[np.float64]:
        """Place the points of one image's masks: (N, 2) xy, image pixels, NaN for an empty mask."""
        points_xy = np.full((len(windows), 2), np.nan)
        if self.points == "random":
            digest = hashlib.sha256(image_id.encode()).digest()[:8]
            shares = np.random.default_rng([self.points_seed, int.from_bytes(digest)]).random(len(windows))
        for row, window in enumerate(windows):
            if window.mask.any():
                x, y = central_point(window.mask) if self.points == "center" else _pick(window.mask, shares[row])
                points_xy[row] = x + window.x0, y + window.y0
        return points_xy


def central_point(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Find the middle of a mask that has pixels.

    Args:
        mask: (h, w) bool; what lies around it counts as outside the mask.

    Returns:
        x and y of the mass centre if the pixel under it is in the mask (all of them, where it lies between pixels);
        else of the pixel whose distance to the nearest pixel outside the mask is largest, and of several such pixels
        the one nearest to the mass centre.
    """
    rows, columns = mask.sum(axis=1), mask.sum(axis=0)
    area = int(rows.sum())
    x, y = float(columns @ np.arange(len(columns))) / area, float(rows @ np.arange(len(rows))) / area
    under = mask[math.ceil(y - 0.5) : math.floor(y + 0.5) + 1, math.ceil(x - 0.5) : math.floor(x + 0.5) + 1]
    if under.all():
        return x, y
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    deepest_y, deepest_x = np.nonzero(depth == depth.max())
    nearest = int(np.argmin((deepest_x - x) ** 2 + (deepest_y - y) ** 2))
    return float(deepest_x[nearest]), float(deepest_y[nearest])


def _pick(mask: NDArray[np.bool_], share: float) -> tuple[float, float]:
    """Take the pixel of the mask that a number from 0 to below 1 points at, row by row."""
    pixels = np.flatnonzero(mask)
    y, x = divmod(int(pixels[int(share * len(pixels))]), mask.shape[1])
    return float(x), float(y)
