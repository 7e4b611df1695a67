"""What an annotator is: points and circles of one image in, one mask per point out."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.masks.instances import Instances


@dataclass(frozen=True)
class MarkedImage:
    """One image with everything an annotator may use.

    Args:
        image_id: Its id.
        image: (H, W, 3) uint8 RGB.
        points_xy: (N, 2) float64, image pixels.
        radius_px: (N,) float64, radii of the exclusion circles, image pixels.
        point_id: (N,) int64.
        class_id: (N,) int64.
    """

    image_id: str
    image: NDArray[np.uint8]
    points_xy: NDArray[np.float64]
    radius_px: NDArray[np.float64]
    point_id: NDArray[np.int64]
    class_id: NDArray[np.int64]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, px."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def inside(self) -> NDArray[np.bool_]:
        """(N,) which points lie in a pixel of the image."""
        height, width = self.size_hw
        within = (self.points_xy >= -0.5) & (self.points_xy < np.array([width, height]) - 0.5)
        return np.asarray(within.all(axis=1))


class Marks(Protocol):
    """What is known of an image without its pixels: its size, heads and circles, as in :class:`MarkedImage`."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, px."""

    @property
    def points_xy(self) -> NDArray[np.float64]:
        """(N, 2) image pixels."""

    @property
    def radius_px(self) -> NDArray[np.float64]:
        """(N,) image pixels."""

    @property
    def point_id(self) -> NDArray[np.int64]:
        """(N,) ids."""

    @property
    def class_id(self) -> NDArray[np.int64]:
        """(N,) classes."""


class Annotator(Protocol):
    """Makes masks; the same input gives the same bytes."""

    @property
    def name(self) -> str:
        """Name of the method."""

    @property
    def algorithm_version(self) -> int:
        """Raised by hand whenever the same input would give another result."""

    @property
    def weights_sha256(self) -> str | None:
        """Digest of the weights; None for a method without."""

    def annotate(self, marked: MarkedImage) -> Instances:
        """Give one row per point, in the points' order, masks disjoint and inside their circles."""
