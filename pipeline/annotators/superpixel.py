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

from pipeline.annotators.base import MarkedImage
from pipeline.annotators.exclusion import disc_window, head_component, keep_apart
from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window


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
class Regions:
    """Grown regions of one image.

    Args:
        windows: N masks in windows of the image, clipped to their circles, each with its head's component.
        inside_frac: (N,) float32, share of the grown segments' area inside the circle.
        boxes_xyxy: (N, 4) float64 bounding boxes of the masks, image pixels.
    """

    windows: list[Window]
    inside_frac: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float64]


class _Segments:
    """A superpixel image with the colour, area and neighbours of each segment."""

    def __init__(self, image: NDArray[np.uint8], n_segments: int, compactness: float) -> None:
        # Without blur: thin segments of blended colours along edges would all be merged towards the top left.
        self.labels: NDArray[np.int64] = slic(
            image, n_segments=n_segments, compactness=compactness, sigma=0, start_label=0, channel_axis=-1
        ).astype(np.int64)
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
    """Grow every head's region.

    Args:
        marked: Image, heads and circles.
        options: Scale and limits.

    Returns:
        One region per head; the segment under a head always belongs to its region.
    """
    if len(marked.points_xy) == 0:
        return Regions([], np.zeros(0, np.float32), np.zeros((0, 4)))
    height, width = marked.size_hw
    scale = min(2.0, options.radius_px / float(np.median(marked.radius_px)))
    small_hw = max(1, round(height * scale)), max(1, round(width * scale))
    small = cv2.resize(marked.image, small_hw[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    circle_area = np.pi * (float(np.median(marked.radius_px)) * scale) ** 2
    n_segments = max(2, round(small_hw[0] * small_hw[1] / circle_area * options.segments_per_circle))
    segments = _Segments(np.asarray(small, np.uint8), n_segments, options.compactness)
    ratio = np.array([small_hw[1] / width, small_hw[0] / height])
    windows, inside, boxes = [], [], []
    for (x, y), radius in zip(marked.points_xy, marked.radius_px, strict=True):
        disc = disc_window(x, y, radius, marked.size_hw)
        rows = np.arange(disc.y0, disc.y0 + disc.mask.shape[0])
        columns = np.arange(disc.x0, disc.x0 + disc.mask.shape[1])
        small_rows = np.clip(((rows + 0.5) * ratio[1]).astype(int), 0, small_hw[0] - 1)
        small_columns = np.clip(((columns + 0.5) * ratio[0]).astype(int), 0, small_hw[1] - 1)
        patch = segments.labels[np.ix_(small_rows, small_columns)]
        head = int(np.clip(round(y) - disc.y0, 0, len(rows) - 1)), int(np.clip(round(x) - disc.x0, 0, len(columns) - 1))
        grown, share = _grow(segments, patch, disc.mask, int(patch[head]), float(ratio.prod()), options)
        chosen = np.zeros(len(segments.area), bool)
        chosen[grown] = True
        mask = head_component(chosen[patch] & disc.mask, x - disc.x0, y - disc.y0, fill_holes=True) & disc.mask
        windows.append(Window(mask, disc.x0, disc.y0))
        inside.append(share)
        boxes.append(_box(windows[-1], x, y))
    return Regions(windows, np.array(inside, np.float32), np.array(boxes))


def _grow(
    segments: _Segments,
    patch: NDArray[np.int64],
    disc: NDArray[np.bool_],
    seed: int,
    small_per_px: float,
    options: SuperpixelOptions,
) -> tuple[list[int], float]:
    """Take in adjacent, alike segments until none is left; give them and their share inside the circle."""
    per_segment = np.bincount(patch[disc])
    found = np.flatnonzero(per_segment)
    counts = per_segment[found]
    share = dict(
        zip(found.tolist(), np.minimum(1.0, counts * small_per_px / segments.area[found]).tolist(), strict=True)
    )
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
    inside = float((area * [share.get(one, 0.0) for one in grown]).sum() / area.sum())
    return sorted(grown), inside


def _box(window: Window, x: float, y: float) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(window.mask)
    if len(rows) == 0:
        return x, y, x, y
    return (
        float(window.x0 + columns.min()),
        float(window.y0 + rows.min()),
        float(window.x0 + columns.max()),
        float(window.y0 + rows.max()),
    )


class SuperpixelAnnotator:
    """Masks from colour alone: grown regions, contested pixels to the nearer head. Needs no weights."""

    name = "superpixel"
    algorithm_version = 1
    weights_sha256: str | None = None

    def __init__(self, options: SuperpixelOptions) -> None:
        self.options = options

    def annotate(self, marked: MarkedImage) -> Instances:
        """Give one row per point; the score is the share of the grown segments inside the circle."""
        regions = grow_regions(marked, self.options)
        even = [np.zeros(window.mask.shape, np.float32) for window in regions.windows]
        windows = keep_apart(regions.windows, even, marked.points_xy, marked.radius_px, marked.size_hw)
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
