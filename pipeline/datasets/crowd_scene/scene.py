"""A crowd with perspective, composed from front to back so that every person's visible mask is exact."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.crowd_scene.backdrop import draw_backdrop, draw_occluder
from pipeline.datasets.crowd_scene.camera import photograph
from pipeline.datasets.crowd_scene.noise import Image, fractal_noise, hsv_color
from pipeline.datasets.crowd_scene.person import draw_person

MIN_HEAD_VISIBLE_FRAC = 0.55
TRIES_PER_PERSON = 24
HEAD_WIDTH_UNITS = 0.75


@dataclass(frozen=True)
class Scene:
    """A photograph of a crowd with everything known about it.

    Args:
        image: (H, W, 3) uint8 RGB.
        points_xy: (N, 2) float64 head centres, px; each lies on a visible pixel of its person.
        boxes_wh_px: (N, 2) float64 width and height of the head's box, px.
        label_map: (H, W) int32; person k covers the pixels with value k + 1, 0 is background.
    """

    image: NDArray[np.uint8]
    points_xy: NDArray[np.float64]
    boxes_wh_px: NDArray[np.float64]
    label_map: NDArray[np.int32]


class _Canvas:
    """Colours and coverage so far; whatever comes later lies behind."""

    def __init__(self, size_hw: tuple[int, int]) -> None:
        self.color = np.zeros((*size_hw, 3), np.float32)
        self.free = np.ones(size_hw, np.float32)
        self.best = np.zeros(size_hw, np.float32)
        self.label_map = np.zeros(size_hw, np.int32)

    def put_behind(self, color: Image, alpha: Image, corner_xy: tuple[int, int], label: int) -> None:
        """Lay a premultiplied sprite behind all that is there; a pixel's label is that of its largest share."""
        height, width = self.free.shape
        x, y = corner_xy
        left, top, right, bottom = max(0, x), max(0, y), min(width, x + alpha.shape[1]), min(height, y + alpha.shape[0])
        if left >= right or top >= bottom:
            return
        here = np.s_[top:bottom, left:right]
        part = np.s_[top - y : bottom - y, left - x : right - x]
        free = self.free[here]
        share = free * alpha[part]
        self.color[here] += free[..., None] * color[part]
        wins = share > self.best[here]
        self.label_map[here][wins] = label
        self.best[here][wins] = share[wins]
        self.free[here] = free - share

    def finish(self, backdrop: Image) -> Image:
        """Fill what is free with the backdrop and take labels away where it has the largest share."""
        self.label_map[self.free >= self.best] = 0
        return np.asarray(self.color + self.free[..., None] * backdrop, np.float32)

    def head_is_visible(self, x: float, y: float, unit_px: float) -> bool:
        """Whether a head centred here would show at its centre and over most of its disc."""
        height, width = self.free.shape
        row, column = round(y), round(x)
        if not (0 <= row < height and 0 <= column < width) or self.free[row, column] < 0.95:
            return False
        reach = max(1, round(0.8 * unit_px))
        around = self.free[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
        return float(around.mean()) >= MIN_HEAD_VISIBLE_FRAC


def render_scene(
    rng: np.random.Generator,
    *,
    size_hw: tuple[int, int],
    n_heads: int,
    unit_px_range: tuple[float, float] | None = None,
    roughness: float = 1.0,
) -> Scene:
    """Draw a crowd.

    Args:
        rng: Source of randomness; the same state gives the same scene.
        size_hw: Height and width, px.
        n_heads: Wanted number of heads; fewer come out only where more would hide each other.
        unit_px_range: Half the head's height at the back and at the front, px; by default drawn so that the crowd
            fills between a third and all of the picture.
        roughness: How much light, lens and sensor trouble the picture: 0 not at all, 1 as they do in the streets.

    Returns:
        The scene.
    """
    height, width = size_hw
    horizon = height * rng.uniform(-0.7, 0.32)
    far_y = max(horizon + 0.04 * height, 0.0) + 0.02 * height
    far_unit, near_unit = unit_px_range or _head_sizes(rng, size_hw, n_heads, far_y)
    foreshortening = float(np.clip(1.0 - max(0.0, -horizon / height) * 0.8, 0.42, 1.0))
    texture = fractal_noise(rng, (256, 256), coarse_cells=4, octaves=6)
    canvas = _Canvas(size_hw)
    backdrop = draw_backdrop(rng, size_hw, horizon)
    fog = hsv_color(rng.random(), rng.uniform(0, 0.1), rng.uniform(0.4, 0.9)) if rng.random() < 0.35 else None
    depths = _depths(rng, n_heads, far_y, height, far_unit / near_unit)
    clusters = rng.uniform(0, width, 4) if rng.random() < 0.4 else None
    occluders_after = (
        {int(k) for k in rng.integers(0, max(1, n_heads), int(rng.integers(0, 5)))} if rng.random() < 0.7 else set()
    )
    heads: list[tuple[float, float, float]] = []
    for rank, depth_y in enumerate(depths):
        share = (depth_y - far_y) / max(height - far_y, 1e-6)
        base_unit = far_unit + (near_unit - far_unit) * share
        if rank in occluders_after:
            _place_occluder(rng, canvas, texture, depth_y, base_unit)
        unit = base_unit * float(np.clip(rng.normal(1, 0.09), 0.75, 1.25))
        found = _free_place(rng, canvas, heads, depth_y, unit, clusters)
        if found is None:
            continue
        x, y = found
        haze = (fog, 0.6 * (1 - share)) if fog is not None else None
        x, y = _place_person(rng, canvas, backdrop, texture, (x, y), unit, foreshortening, haze, len(heads) + 1)
        heads.append((x, y, unit))
    image = photograph(rng, canvas.finish(backdrop), roughness)
    return _collect(rng, image, canvas.label_map, heads)


def _head_sizes(rng: np.random.Generator, size_hw: tuple[int, int], n_heads: int, far_y: float) -> tuple[float, float]:
    """Choose head sizes so that the crowd is loose to packed: spacing between 1.7 and 4.5 half heads."""
    height, width = size_hw
    spacing = np.sqrt(width * (height - far_y) / max(n_heads, 1))
    unit = spacing / rng.uniform(1.7, 4.5)
    unit = float(np.clip(unit, 1.4, 0.14 * min(size_hw)))
    ratio = rng.uniform(1.0, 3.2)
    far = max(1.2, unit * 2 / (1 + ratio))
    return far, max(far, min(far * ratio, 0.2 * min(size_hw)))


def _depths(rng: np.random.Generator, n_heads: int, far_y: float, height: int, ratio: float) -> list[float]:
    """Rows of the heads, front first; the far side holds more of them, as the ground recedes."""
    share = rng.random(n_heads)
    if ratio < 0.999:
        inverse = 1 / ratio
        share = (1 / (inverse - share * (inverse - 1)) - ratio) / (1 - ratio)
    rows = far_y + share * (height - 2 - far_y)
    return sorted((float(row) for row in rows), reverse=True)


def _free_place(
    rng: np.random.Generator,
    canvas: _Canvas,
    heads: list[tuple[float, float, float]],
    depth_y: float,
    unit: float,
    clusters: NDArray[np.float64] | None,
) -> tuple[float, float] | None:
    """Find a column (and, in a pinch, a row somewhat higher) where the head shows."""
    height, width = canvas.free.shape
    for attempt in range(TRIES_PER_PERSON):
        if clusters is not None and rng.random() < 0.75:
            x = float(rng.normal(clusters[int(rng.integers(len(clusters)))], 0.09 * width))
        else:
            x = float(rng.uniform(0, width - 1))
        y = depth_y - (0.12 * unit * attempt if attempt > 8 else 0.0)
        if 0 <= x <= width - 1 and 0 <= y <= height - 1 and canvas.head_is_visible(x, y, unit):
            return x, y
    return None


def _place_person(
    rng: np.random.Generator,
    canvas: _Canvas,
    backdrop: Image,
    texture: Image,
    head_xy: tuple[float, float],
    unit: float,
    foreshortening: float,
    haze: tuple[Image, float] | None,
    label: int,
) -> tuple[float, float]:
    """Draw one person behind all others and a shadow at the feet; give the head's exact centre back."""
    height, width = canvas.free.shape
    drawn_unit = float(np.clip(2 * unit, 9, 56))
    limit = (height - head_xy[1]) / unit + 1.0
    sprite = draw_person(
        rng, unit_px=drawn_unit, foreshortening=foreshortening, height_limit_units=limit, texture=texture
    )
    rows, columns = sprite.alpha.shape
    new_w, new_h = max(1, round(columns * unit / drawn_unit)), max(1, round(rows * unit / drawn_unit))
    method = cv2.INTER_AREA if new_w < columns else cv2.INTER_LINEAR
    color, alpha = (
        cv2.resize(sprite.color, (new_w, new_h), interpolation=method),
        cv2.resize(sprite.alpha, (new_w, new_h), interpolation=method),
    )
    if haze is not None:
        color = color * (1 - haze[1]) + haze[0] * haze[1] * alpha[..., None]
    own_x, own_y = (sprite.head_xy[0] + 0.5) * new_w / columns - 0.5, (sprite.head_xy[1] + 0.5) * new_h / rows - 0.5
    corner = (round(head_xy[0] - own_x), round(head_xy[1] - own_y))
    canvas.put_behind(np.asarray(color, np.float32), np.asarray(alpha, np.float32), corner, label)
    foot_y = int(head_xy[1] + 13 * unit * foreshortening)
    if foot_y < height + 2 * unit:
        reach_x, reach_y = int(2.6 * unit) + 1, int(0.8 * unit) + 1
        top, left = max(0, foot_y - reach_y), max(0, round(head_xy[0]) - reach_x)
        backdrop[top : foot_y + reach_y, left : round(head_xy[0]) + reach_x] *= 0.82
    return min(max(corner[0] + own_x, 0.0), width - 1.0), min(max(corner[1] + own_y, 0.0), height - 1.0)


def _place_occluder(rng: np.random.Generator, canvas: _Canvas, texture: Image, depth_y: float, unit: float) -> None:
    color, alpha, anchor = draw_occluder(rng, unit, texture)
    x = int(rng.uniform(0, canvas.free.shape[1]))
    canvas.put_behind(color, alpha, (int(x - anchor[0]), int(depth_y - anchor[1])), 0)


def _collect(
    rng: np.random.Generator,
    image: NDArray[np.uint8],
    label_map: NDArray[np.int32],
    heads: list[tuple[float, float, float]],
) -> Scene:
    """Shift each point a little, as an annotator would, but never off its person's visible pixels."""
    table = np.array(heads, np.float64).reshape(-1, 3)
    height, width = label_map.shape
    labels = np.arange(1, len(table) + 1)
    shown = np.bincount(label_map.ravel(), minlength=len(table) + 1)[1:] > 0
    points = np.clip(table[:, :2] + rng.normal(0, 0.08, (len(table), 2)) * table[:, 2:], 0, [width - 1, height - 1])
    for index in np.flatnonzero(shown):
        for candidate in (points[index], table[index, :2]):
            if label_map[round(candidate[1]), round(candidate[0])] == labels[index]:
                points[index] = candidate
                break
        else:
            rows, columns = np.nonzero(label_map == labels[index])
            nearest = np.argmin((rows - points[index, 1]) ** 2 + (columns - points[index, 0]) ** 2)
            points[index] = columns[nearest], rows[nearest]
    order = np.zeros(len(table) + 1, np.int32)
    order[1:][shown] = np.arange(1, shown.sum() + 1)
    boxes = table[shown, 2:] * np.array([2 * HEAD_WIDTH_UNITS, 2.0])
    return Scene(image, points[shown], boxes, order[label_map])
