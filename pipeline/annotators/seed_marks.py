"""What points alone say of the classes of pixels: sure object around each point, sure background far from all of them.

The rest is unknown. P2Seg takes such a map as it is, or lets a small network fill it in (specification P2Seg §2, whose
generator nobody has published; this one is ours).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.annotators.base import MarkedImage
from pipeline.annotators.exclusion import disc_window
from pipeline.annotators.superpixel import SuperpixelOptions, grow_regions
from pipeline.geometry.point_owners import UNKNOWN
from pipeline.masks.rle import Window


@dataclass(frozen=True)
class SeedMarkOptions:
    """What is sure.

    Args:
        object: ``disc``: a disc around each point, of one radius for all. ``circle``: a share of the point's exclusion
            circle (NNEC). ``superpixel``: segments of one colour that grow from the point inside its circle.
        disc_px: Radius of ``disc``, image pixels.
        circle_frac: Share of the circle's radius for ``circle``.
        background_radii: A pixel is background only if it is farther than this many of their own circles' radii from
            all points.
        background_frac: And farther than this share of the image's shorter side; for objects larger than circles.
    """

    object: Literal["disc", "circle", "superpixel"] = "disc"
    disc_px: float = 3.0
    circle_frac: float = 0.3
    background_radii: float = 1.0
    background_frac: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("disc_px", "circle_frac"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a number above 0, got {getattr(self, name)}")
        for name in ("background_radii", "background_frac"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")


def seed_marks(marked: MarkedImage, options: SeedMarkOptions) -> NDArray[np.uint8]:
    """Mark what is sure.

    Args:
        marked: Image, points and circles; of points outside the image only what is no background.
        options: What is sure.

    Returns:
        (H, W) class map: 0 background, k + 1 class_id k, 255 unknown. Where marks meet, the nearer point's class.
    """
    height, width = marked.size_hw
    marks = np.full(marked.size_hw, UNKNOWN, np.uint8)
    background = np.ones(marked.size_hw, bool)
    apart = np.full(marked.size_hw, np.inf)
    reach = np.maximum(options.background_radii * marked.radius_px, options.background_frac * min(height, width))
    windows = _windows(marked, options)
    each = zip(marked.points_xy, marked.inside, reach, marked.class_id, windows, strict=True)
    for (x, y), inside, far, class_id, window in each:
        near = disc_window(x, y, far, marked.size_hw)
        background[_part(near)] &= ~near.mask
        if not inside:
            continue
        part = _part(window)
        rows, columns = np.ogrid[part]
        squared = (columns - x) ** 2 + (rows - y) ** 2
        wins = window.mask & (squared < apart[part])
        apart[part][wins] = squared[wins]
        marks[part][wins] = class_id + 1
    marks[background & (marks == UNKNOWN)] = 0
    return marks


def _windows(marked: MarkedImage, options: SeedMarkOptions) -> list[Window]:
    if options.object == "superpixel":
        return grow_regions(marked, SuperpixelOptions()).windows()
    radii = (
        np.full(len(marked.points_xy), options.disc_px)
        if options.object == "disc"
        else options.circle_frac * marked.radius_px
    )
    return [disc_window(x, y, radius, marked.size_hw) for (x, y), radius in zip(marked.points_xy, radii, strict=True)]


def _part(window: Window) -> tuple[slice, slice]:
    height, width = window.mask.shape
    return slice(window.y0, window.y0 + height), slice(window.x0, window.x0 + width)
