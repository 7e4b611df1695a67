"""Shapes laid over one another, placed from front to back so that what shows of each is known before it is painted."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.crowd_scene.camera import photograph
from pipeline.datasets.crowd_scene.noise import Image
from pipeline.datasets.shape_scene.outlines import Outline, draw_outline
from pipeline.datasets.shape_scene.surfaces import Surfaces, farthest_color

TRIES = 12
MIN_VISIBLE_PX = 12
MIN_VISIBLE_FRAC = 0.4
"""An object of which less would show is not put there."""
FINE_SMALL, FINE_LARGE, LARGE_PX = 8, 4, 40
"""Outlines are filled on a grid so many times finer, for the shares of pixels; coarser in windows of more pixels."""
CONTRASTS = (0.3, 0.16)
"""Least distance of an object's mean colour from that behind it, in [0, 1], at roughness 0 and at 1."""
PATTERNS = (0.1, 1.0)
"""How strongly patterns show, at roughness 0 and at 1."""
SCRATCHES = 6
"""Most lines on the ground, at roughness 1."""


@dataclass(frozen=True)
class ShapeScene:
    """A picture of shapes with everything known about it.

    Args:
        image: (H, W, 3) uint8 RGB.
        label_map: (H, W) int32; object k shows in the pixels with value k + 1, 0 is background. A pixel belongs to the
            foremost object that covers at least half of it.
        class_index: (N,) int64, place of each object's class in the list of classes.
        size_px: (N,) float64, √(box area) of each whole object, px.
    """

    image: NDArray[np.uint8]
    label_map: NDArray[np.int32]
    class_index: NDArray[np.int64]
    size_px: NDArray[np.float64]


@dataclass(frozen=True)
class _Placed:
    """One object in a window of the image: (h, w) share of each pixel that it covers, and where the window lies."""

    share: Image
    x0: int
    y0: int
    size_px: float

    @property
    def here(self) -> tuple[slice, slice]:
        height, width = self.share.shape
        return np.s_[self.y0 : self.y0 + height, self.x0 : self.x0 + width]


def render_shapes(
    rng: np.random.Generator,
    *,
    size_hw: tuple[int, int],
    n_objects: int,
    size_px: tuple[float, float],
    classes: Sequence[str],
    weights: Sequence[float] | None = None,
    hues: Sequence[float | None] | None = None,
    hue_spread: float = 0.0,
    roughness: float = 0.3,
) -> ShapeScene:
    """Draw a scene.

    Args:
        rng: Source of randomness; the same state gives the same scene.
        size_hw: Height and width, px.
        n_objects: Wanted number of objects; fewer come out only where more would hide each other.
        size_px: Least and largest √(box area) of an object; log-uniform between them.
        classes: Names of outlines.
        weights: How often each comes, in proportion; equally often by default.
        hues: Hue of each class, in turns, None for any; by default colours tell nothing of the class.
        hue_spread: Standard deviation of an object's hue from that of its class, in turns.
        roughness: How hard it is to see what is there: patterns, contrast, light, lens and sensor; 0 easy, 1 very hard.

    Returns:
        The scene; object k is in front of object k + 1.
    """
    surfaces = Surfaces(rng, _between(PATTERNS, roughness))
    chances = np.full(len(classes), 1.0) if weights is None else np.array(weights, np.float64)
    wanted = rng.choice(len(classes), n_objects, p=chances / chances.sum())
    sizes = np.exp(rng.uniform(np.log(size_px[0]), np.log(size_px[1]), n_objects))
    # Small ones tend to stand in front: behind large ones there would be no room for them.
    order = np.argsort(np.log(sizes) + rng.normal(0, 0.6, n_objects))
    label_map = np.zeros(size_hw, np.int32)
    placed: list[_Placed] = []
    class_index: list[int] = []
    for row in order:
        outline = draw_outline(rng, classes[int(wanted[row])]) * sizes[row]
        found = _find_place(rng, label_map, placed, outline, float(sizes[row]))
        if found is not None:
            placed.append(found)
            class_index.append(int(wanted[row]))
            part = label_map[found.here]
            part[(part == 0) & (found.share >= 0.5)] = len(placed)
    canvas = surfaces.draw(size_hw, 0.5 * min(size_hw))
    _scratch(rng, canvas, round(SCRATCHES * roughness))
    light_xy = np.array([np.cos(angle := rng.uniform(0, 2 * np.pi)), np.sin(angle)])
    depth = float(rng.uniform(0.2, 1.0))
    for one, class_of_it in zip(reversed(placed), reversed(class_index), strict=True):
        hue = None if hues is None else hues[class_of_it]
        hue = None if hue is None else float(rng.normal(hue, hue_spread))
        _paint(rng, canvas, surfaces, one, hue, light_xy, depth, _between(CONTRASTS, roughness))
    return ShapeScene(
        image=photograph(rng, np.clip(canvas, 0, 1), roughness),
        label_map=label_map,
        class_index=np.array(class_index, np.int64),
        size_px=np.array([one.size_px for one in placed], np.float64),
    )


def _find_place(
    rng: np.random.Generator, label_map: NDArray[np.int32], placed: list[_Placed], outline: Outline, size_px: float
) -> _Placed | None:
    """Find a place behind what is there where enough of an object shows; every other try is beside another one."""
    height, width = label_map.shape
    for _ in range(TRIES):
        if placed and rng.random() < 0.5:
            other = placed[int(rng.integers(len(placed)))]
            middle = np.array([other.x0, other.y0]) + np.array(other.share.shape[::-1]) / 2
            angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.6) * (other.size_px + size_px)
            center = middle + reach * np.array([np.cos(angle), np.sin(angle)])
        else:
            center = rng.uniform((0, 0), (width - 1, height - 1))
        found = _cover(outline + center, label_map.shape, size_px)
        if found is None:
            continue
        covered, whole = found
        shows = int(((covered.share >= 0.5) & (label_map[covered.here] == 0)).sum())
        if shows >= max(MIN_VISIBLE_PX, MIN_VISIBLE_FRAC * whole):
            return covered
    return None


def _cover(outline: Outline, size_hw: tuple[int, ...], size_px: float) -> tuple[_Placed, float] | None:
    """Fill an outline: its window inside the image, and its whole area in px; None where it lies outside."""
    low, high = np.floor(outline.min(axis=0)).astype(int) - 1, np.ceil(outline.max(axis=0)).astype(int) + 2
    wide, tall = (high - low).tolist()
    times = FINE_LARGE if max(wide, tall) > LARGE_PX else FINE_SMALL
    fine = np.zeros((tall * times, wide * times), np.uint8)
    # Pixel k reaches from k − ½ to k + ½; cv2 takes corners as fixed-point numbers of 1/16 px.
    corners = ((outline - low + 0.5) * times - 0.5) * 16
    cv2.fillPoly(fine, [np.round(corners).astype(np.int32)], 255, cv2.LINE_8, shift=4)
    share = cv2.resize(fine, (wide, tall), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
    left, top = max(0, -low[0]), max(0, -low[1])
    right, bottom = min(wide, size_hw[1] - low[0]), min(tall, size_hw[0] - low[1])
    if left >= right or top >= bottom:
        return None
    inside = np.ascontiguousarray(share[top:bottom, left:right])
    return _Placed(inside, int(low[0] + left), int(low[1] + top), size_px), float((share >= 0.5).sum())


def _paint(
    rng: np.random.Generator,
    canvas: Image,
    surfaces: Surfaces,
    one: _Placed,
    hue: float | None,
    light_xy: NDArray[np.float64],
    depth: float,
    contrast: float,
) -> None:
    """Paint one object over what is behind it, with a shadow on that, light from one side and a darker rim."""
    height, width = one.share.shape
    reach = max(1, round(0.08 * one.size_px))
    around = np.s_[max(0, one.y0 - reach) : one.y0 + height + reach, max(0, one.x0 - reach) : one.x0 + width + reach]
    shadow = np.zeros(canvas.shape[:2], np.float32)[around]
    y, x = one.y0 - around[0].start, one.x0 - around[1].start
    shadow[y : y + height, x : x + width] = one.share
    move = np.array([[1, 0, -reach * light_xy[0]], [0, 1, -reach * light_xy[1]]], np.float32)
    shadow = np.asarray(
        cv2.warpAffine(cv2.GaussianBlur(shadow, (0, 0), 0.6 * reach), move, shadow.shape[::-1]), np.float32
    )
    canvas[around] *= 1 - np.float32(0.45 * depth) * shadow[..., None]
    behind = canvas[one.here].reshape(-1, 3).mean(axis=0)
    surface = farthest_color(rng, behind, surfaces.draw((height, width), one.size_px, hue=hue), least=contrast)
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    slope = (columns * light_xy[0] + rows * light_xy[1]).astype(np.float32)
    rim = cv2.GaussianBlur(one.share, (0, 0), max(0.5, 0.07 * one.size_px))
    shade = 1 + np.float32(0.22 * depth) * slope - np.float32(0.7 * depth) * np.clip(0.75 - rim, 0, 1)
    share = one.share[..., None]
    canvas[one.here] = canvas[one.here] * (1 - share) + np.clip(surface * shade[..., None], 0, 1) * share


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + share * (ends[1] - ends[0])


def _scratch(rng: np.random.Generator, canvas: Image, most: int) -> None:
    """Draw thin lines on the ground, which are nothing."""
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(0, most + 1))):
        ends = rng.uniform((0, 0), (width, height), (2, 2)).astype(int).tolist()
        cv2.line(canvas, ends[0], ends[1], rng.random(3).tolist(), 1, cv2.LINE_AA)
