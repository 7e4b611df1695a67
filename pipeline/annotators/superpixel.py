"""Person regions grown from superpixels inside the exclusion circle: a prompt for EDP-SAM, and an annotator of its own.

SLIC at the scale where the median circle measures about 12 px; a region starts at the segment under the head and takes
in adjacent segments that lie mostly inside the circle and look alike (specification EDP-SAM §3).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2lab
from skimage.segmentation import slic

from pipeline.annotators.base import MarkedImage, Marks
from pipeline.annotators.exclusion import disc_window, head_component, keep_apart
from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window

SLIC_ROUNDS = 3
"""Rounds of SLIC's clustering; ten gave no better regions."""


@dataclass(frozen=True)
class SuperpixelOptions:
    """How superpixels are made and grown into a person's region.

    Args:
        radius_px: The image is scaled so that the median circle has this radius, never enlarged more than twice.
        segments_per_circle: Segments that fill a median circle.
        compactness: SLIC's weight of nearness in space against likeness in colour.
        inside_frac: A segment is taken in only if at least this share of it lies inside the circle.
        step_delta_e: Largest CIE76 difference between adjacent segments of a region.
        seed_delta_e: Largest CIE76 difference of any of its segments from the one under the head.
    """

    radius_px: float = 12.0
    segments_per_circle: float = 12.0
    compactness: float = 8.0
    inside_frac: float = 0.5
    step_delta_e: float = 18.0
    seed_delta_e: float = 45.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("radius_px", "segments_per_circle", "compactness", "step_delta_e", "seed_delta_e"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.inside_frac <= 1:
            raise ValueError(f"inside_frac must be from 0 to 1, got {self.inside_frac}")


@dataclass(frozen=True)
class Region:
    """One head's grown region, in pixels of the scaled image.

    Args:
        mask: The head's component, within a circle a pixel wider than its own.
        inside_frac: Share of the grown segments' area inside the circle.
    """

    mask: Window
    inside_frac: float


@dataclass(frozen=True)
class Regions:
    """Grown regions of one image's heads.

    Args:
        each: N regions of the scaled image.
        small_hw: Height and width of the scaled image.
        marks: The heads and their circles.
    """

    each: list[Region]
    small_hw: tuple[int, int]
    marks: Marks

    @property
    def inside_frac(self) -> NDArray[np.float32]:
        """Share of each one's grown segments inside its circle: (N,)."""
        return np.array([region.inside_frac for region in self.each], np.float32)

    def boxes_xyxy(self) -> NDArray[np.float64]:
        """Bounding boxes within the circles' own: (N, 4) image pixels; a region of no pixel has its head's place."""
        (height, width), (small_height, small_width) = self.marks.size_hw, self.small_hw
        per_small = np.array([width / small_width, height / small_height])
        points_xy, reach = self.marks.points_xy, self.marks.radius_px[:, None]
        low_xy, high_xy = points_xy.copy(), points_xy.copy()
        for row, region in enumerate(self.each):
            columns, rows = np.flatnonzero(region.mask.mask.any(0)), np.flatnonzero(region.mask.mask.any(1))
            if len(rows):
                x0, y0 = region.mask.x0, region.mask.y0
                low_xy[row] = np.array([x0 + columns[0], y0 + rows[0]]) * per_small
                high_xy[row] = np.array([x0 + columns[-1] + 1, y0 + rows[-1] + 1]) * per_small - 1
        return np.concatenate([np.maximum(low_xy, points_xy - reach), np.minimum(high_xy, points_xy + reach)], axis=1)

    def windows(self) -> list[Window]:
        """Masks in windows of the image, clipped to their circles."""
        (height, width), (small_height, small_width) = self.marks.size_hw, self.small_hw
        small_rows = ((np.arange(height) + 0.5) * (small_height / height)).astype(int)
        small_columns = ((np.arange(width) + 0.5) * (small_width / width)).astype(int)
        windows = []
        for (x, y), radius, region in zip(self.marks.points_xy, self.marks.radius_px, self.each, strict=True):
            disc = disc_window(x, y, radius, self.marks.size_hw)
            small = region.mask
            rows = small_rows[disc.y0 : disc.y0 + disc.mask.shape[0]] - small.y0
            columns = small_columns[disc.x0 : disc.x0 + disc.mask.shape[1]] - small.x0
            shown = np.pad(small.mask, 1)  # what lies outside is not the region's
            rows, columns = np.clip(rows, -1, small.mask.shape[0]) + 1, np.clip(columns, -1, small.mask.shape[1]) + 1
            windows.append(Window(shown[np.ix_(rows, columns)] & disc.mask, disc.x0, disc.y0))
        return windows


class _Segments:
    """A superpixel image with the colour, area and neighbours of each segment."""

    def __init__(self, image: NDArray[np.uint8], n_segments: int, compactness: float) -> None:
        # Without blur: thin segments of blended colours along edges would all be merged towards the top left.
        self.labels: NDArray[np.int64] = slic(
            image, n_segments=n_segments, compactness=compactness, max_num_iter=SLIC_ROUNDS, sigma=0, start_label=0,
            channel_axis=-1,
        ).astype(np.int64)  # fmt: skip
        count = int(self.labels.max()) + 1
        flat = self.labels.ravel()
        lab = rgb2lab(image).reshape(-1, 3)
        self.area = np.bincount(flat, minlength=count)
        self.color = (
            np.stack([np.bincount(flat, lab[:, c], count) for c in range(3)], 1) / np.maximum(self.area, 1)[:, None]
        )
        beside = _touching(self.labels[:, :-1], self.labels[:, 1:]), _touching(self.labels[:-1], self.labels[1:])
        first, second = np.concatenate(beside, axis=1)
        pairs = np.unique(np.concatenate([first * count + second, second * count + first]))
        self._adjacent = pairs % count
        self._start = np.searchsorted(pairs // count, np.arange(count + 1))

    def adjacent(self, segment: int) -> NDArray[np.int64]:
        """Segments that touch one."""
        return np.asarray(self._adjacent[self._start[segment] : self._start[segment + 1]])


def _touching(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Segments on both sides of each border between neighbouring pixels: (2, B)."""
    differ = first != second
    return np.stack([first[differ], second[differ]])


def grow_regions(marked: MarkedImage, options: SuperpixelOptions) -> Regions:
    """Grow every head's region, at the scale of the superpixels.

    Args:
        marked: Image, heads and circles.
        options: Scale and limits.

    Returns:
        One region per head; the segment under a head always belongs to its region.
    """
    if len(marked.points_xy) == 0:
        return Regions([], marked.size_hw, marked)
    height, width = marked.size_hw
    median = float(np.median(marked.radius_px))
    scale = min(2.0, options.radius_px / median)
    small_hw = max(1, round(height * scale)), max(1, round(width * scale))
    small = cv2.resize(marked.image, small_hw[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    n_segments = max(
        2, round(small_hw[0] * small_hw[1] / (np.pi * (median * scale) ** 2) * options.segments_per_circle)
    )
    segments = _Segments(np.asarray(small, np.uint8), n_segments, options.compactness)
    points_xy = (marked.points_xy + 0.5) * [small_hw[1] / width, small_hw[0] / height] - 0.5
    each = []
    for (x, y), radius in zip(points_xy, marked.radius_px * scale, strict=True):
        disc = disc_window(x, y, radius + 1, small_hw)
        patch = segments.labels[disc.y0 : disc.y0 + disc.mask.shape[0], disc.x0 : disc.x0 + disc.mask.shape[1]]
        rows, columns = np.ogrid[: patch.shape[0], : patch.shape[1]]
        inside = np.hypot(columns - (x - disc.x0), rows - (y - disc.y0)) <= radius
        head = np.clip(np.round([y - disc.y0, x - disc.x0]).astype(int), 0, np.array(patch.shape) - 1)
        grown, share = _grow(segments, patch[inside], int(patch[tuple(head)]), options)
        mask = head_component(np.isin(patch, grown) & disc.mask, x - disc.x0, y - disc.y0, fill_holes=True) & disc.mask
        each.append(Region(Window(mask, disc.x0, disc.y0), share))
    return Regions(each, small_hw, marked)


def _grow(
    segments: _Segments, inside: NDArray[np.int64], seed: int, options: SuperpixelOptions
) -> tuple[list[int], float]:
    """Take in adjacent, alike segments until none is left; give them and their share ``inside`` the circle."""
    found, counts = np.unique(inside, return_counts=True)
    share = dict(zip(found.tolist(), (counts / segments.area[found]).tolist(), strict=True))
    grown, frontier = {seed}, [seed]
    while frontier:
        current = frontier.pop()
        for other in segments.adjacent(current).tolist():
            if other in grown or share.get(other, 0.0) < options.inside_frac:
                continue
            step = np.linalg.norm(segments.color[other] - segments.color[current])
            if (
                step <= options.step_delta_e
                and np.linalg.norm(segments.color[other] - segments.color[seed]) <= options.seed_delta_e
            ):
                grown.add(other)
                frontier.append(other)
    area = segments.area[list(grown)]
    return sorted(grown), float((area * [share.get(one, 0.0) for one in grown]).sum() / area.sum())


class SuperpixelAnnotator:
    """Masks from colour alone: grown regions, contested pixels to the nearer head. Needs no weights."""

    name = "superpixel"
    algorithm_version = 2
    weights_sha256: str | None = None

    def __init__(self, options: SuperpixelOptions) -> None:
        self.options = options

    def annotate(self, marked: MarkedImage) -> Instances:
        """Give one row per point; the score is the share of the grown segments inside the circle."""
        regions = grow_regions(marked, self.options)
        grown = regions.windows()
        even = [np.zeros(window.mask.shape, np.float32) for window in grown]
        windows = keep_apart(grown, even, marked.points_xy, marked.radius_px, marked.size_hw)
        filled = np.array([bool(window.mask.any()) for window in windows], bool)
        return Instances.from_windows(
            marked.size_hw,
            windows,
            point_id=marked.point_id,
            class_id=marked.class_id,
            points_xy=marked.points_xy,
            radius_px=marked.radius_px,
            score=np.where(filled, regions.inside_frac, 0.0),
            leak_frac=1 - regions.inside_frac,
            source="superpixel",
            status=list(np.where(filled, "ok", "empty")),
        )
