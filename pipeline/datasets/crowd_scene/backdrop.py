"""What stands behind, between and before the people: ground, walls, sky, clutter, and things that hide them."""

import cv2
import numpy as np

from pipeline.datasets.crowd_scene.noise import Image, cloth_color, fractal_noise, hsv_color


def draw_backdrop(rng: np.random.Generator, size_hw: tuple[int, int], horizon_px: float) -> Image:
    """Draw a scene without people.

    Args:
        rng: Source of randomness.
        size_hw: Height and width, px.
        horizon_px: Row of the horizon; above it stand walls, trees or sky, below it lies the ground.

    Returns:
        (H, W, 3) float32 RGB in [0, 1].
    """
    height, width = size_hw
    split = int(np.clip(horizon_px + rng.uniform(-0.02, 0.08) * height, 0, height))
    image = np.empty((height, width, 3), np.float32)
    image[split:] = _ground(rng, (height - split, width))
    image[:split] = _far_side(rng, (split, width))
    _clutter(rng, image, split)
    grain = fractal_noise(rng, size_hw, coarse_cells=6, octaves=6)
    return np.clip(image * (1 + 0.12 * grain[..., None]), 0, 1)


def _ground(rng: np.random.Generator, size_hw: tuple[int, int]) -> Image:
    height, width = size_hw
    if height == 0:
        return np.zeros((0, width, 3), np.float32)
    kind = rng.random()
    if kind < 0.4:
        base = hsv_color(rng.random(), rng.uniform(0, 0.12), rng.uniform(0.2, 0.75))
    elif kind < 0.6:
        base = hsv_color(rng.uniform(0.2, 0.36), rng.uniform(0.3, 0.7), rng.uniform(0.2, 0.55))
    elif kind < 0.85:
        base = hsv_color(rng.uniform(0.05, 0.13), rng.uniform(0.2, 0.5), rng.uniform(0.35, 0.8))
    else:
        base = cloth_color(rng) * 0.8
    noise = fractal_noise(rng, size_hw, coarse_cells=2, octaves=6)
    ground = base * (1 + rng.uniform(0.1, 0.45) * noise)[..., None]
    if rng.random() < 0.45:
        depth = 1.0 / (np.arange(height, dtype=np.float32) / height + 0.12)
        rows = depth[:, None] * rng.uniform(2, 6)
        columns = (np.arange(width, dtype=np.float32)[None] / width - 0.5) * depth[:, None] * rng.uniform(2, 8)
        lines = ((rows % 1.0) < 0.06) | ((columns % 1.0) < 0.05)
        checks = ((np.floor(rows) + np.floor(columns)) % 2) if rng.random() < 0.4 else np.zeros_like(columns)
        ground *= (1 - rng.uniform(0.1, 0.4) * lines - rng.uniform(0.05, 0.3) * checks)[..., None].astype(np.float32)
    return np.asarray(ground, np.float32)


def _far_side(rng: np.random.Generator, size_hw: tuple[int, int]) -> Image:
    height, width = size_hw
    if height == 0:
        return np.zeros((0, width, 3), np.float32)
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    sky = hsv_color(rng.uniform(0.5, 0.65), rng.uniform(0, 0.6), rng.uniform(0.5, 1.0))
    image = np.broadcast_to(sky * (1 - 0.3 * down) + 0.3 * down, (height, width, 3)).copy()
    kind = rng.random()
    if kind < 0.65:
        edge = 0
        while edge < width:
            wide = int(rng.uniform(0.12, 0.6) * width) + 4
            roof = int(rng.uniform(-0.5, 0.6) * height)
            _facade(rng, image[max(0, roof) :, edge : edge + wide])
            edge += wide
    if kind > 0.45:
        noise = fractal_noise(rng, size_hw, coarse_cells=3, octaves=6)
        crowns = cv2.resize(rng.uniform(-1, 1, (1, 9)).astype(np.float32), (width, 1), interpolation=cv2.INTER_CUBIC)
        line = height * rng.uniform(0.1, 0.8) + 0.25 * height * crowns
        leaves = np.arange(height)[:, None] + 0.2 * height * noise > line
        green = hsv_color(rng.uniform(0.18, 0.4), rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.45))
        image[leaves] = (green * (1 + 0.7 * noise[..., None]))[leaves]
    return image


def _facade(rng: np.random.Generator, wall: Image) -> None:
    """Paint a wall with rows of windows, or of bricks, in place."""
    height, width = wall.shape[:2]
    if height < 2 or width < 2:
        return
    wall[:] = hsv_color(rng.uniform(0, 0.15), rng.uniform(0, 0.5), rng.uniform(0.25, 0.9))
    step_x, step_y = rng.uniform(0.06, 0.35) * width + 3, rng.uniform(0.08, 0.35) * height + 3
    if rng.random() < 0.25:
        step_x, step_y = step_x * 0.25 + 3, step_y * 0.2 + 2
    x, y = (np.arange(width) % step_x) / step_x, (np.arange(height) % step_y) / step_y
    low = rng.uniform(0.05, 0.3)
    glass = ((x > low) & (x < rng.uniform(0.6, 0.95)))[None] & ((y > low) & (y < rng.uniform(0.6, 0.95)))[:, None]
    wall[glass] = hsv_color(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.05, 0.8))


def _clutter(rng: np.random.Generator, image: Image, split: int) -> None:
    """Strew boxes, balls, signs and lines that are no people, so that colour alone does not tell a head."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(0, 26))):
        size = float(rng.lognormal(np.log(0.035), 0.9)) * height + 1.5
        x, y = int(rng.uniform(0, width)), int(rng.uniform(0, height))
        color = tuple(float(v) for v in cloth_color(rng))
        kind = rng.random()
        if kind < 0.4:
            half = (int(size * rng.uniform(0.5, 2)), int(size * rng.uniform(0.4, 1.5)))
            cv2.rectangle(image, (x - half[0], y - half[1]), (x + half[0], y + half[1]), color, -1)
        elif kind < 0.75:
            axes = (int(size * rng.uniform(0.5, 1.3)), int(size * rng.uniform(0.5, 1.3)))
            cv2.ellipse(image, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, color, -1, cv2.LINE_AA)
        elif kind < 0.9:
            end = (int(x + rng.normal(0, 0.3) * width), int(y + rng.normal(0, 0.3) * height))
            cv2.line(image, (x, y), end, color, max(1, int(size * 0.2)), cv2.LINE_AA)
        else:
            corners = rng.normal(0, size, (int(rng.integers(3, 7)), 2)) + np.array([x, y])
            cv2.fillPoly(image, [corners.astype(np.int32)], color, cv2.LINE_AA)


def draw_occluder(rng: np.random.Generator, unit_px: float, texture: Image) -> tuple[Image, Image, tuple[float, float]]:
    """Draw a thing that may stand before people: umbrella, pole, sign, bush or barrier.

    Args:
        rng: Source of randomness.
        unit_px: Half a head's height at the thing's distance, px.
        texture: (h, w) float32 noise in [-1, 1].

    Returns:
        (h, w, 3) premultiplied colour, (h, w) coverage, and the anchor xy in the sprite that belongs at a head's
        height above its place.
    """
    side = int(np.clip(unit_px * 12, 12, 600))
    alpha = np.zeros((side, side), np.float32)
    middle, unit = side // 2, side / 12.0
    kind = rng.choice(["umbrella", "pole", "sign", "bush", "barrier"], p=[0.3, 0.25, 0.2, 0.15, 0.1])
    if kind == "umbrella":
        axes = (int(unit * rng.uniform(2.0, 3.4)), int(unit * rng.uniform(1.0, 1.8)))
        cv2.ellipse(alpha, (middle, middle), axes, 0, 180, 360, 1.0, -1, cv2.LINE_AA)
        cv2.line(alpha, (middle, middle), (middle, middle + int(3 * unit)), 1.0, max(1, int(0.15 * unit)), cv2.LINE_AA)
    elif kind == "pole":
        cv2.line(alpha, (middle, 0), (middle, side), 1.0, max(1, int(rng.uniform(0.15, 0.7) * unit)), cv2.LINE_AA)
    elif kind == "sign":
        half = (int(unit * rng.uniform(0.8, 2.0)), int(unit * rng.uniform(0.6, 1.5)))
        cv2.rectangle(alpha, (middle - half[0], middle - half[1]), (middle + half[0], middle + half[1]), 1.0, -1)
        cv2.line(alpha, (middle, middle), (middle, side), 1.0, max(1, int(0.25 * unit)), cv2.LINE_AA)
    elif kind == "bush":
        for _ in range(14):
            x, y = rng.normal(middle, 1.5 * unit), rng.normal(middle + 2 * unit, 1.2 * unit)
            cv2.circle(alpha, (int(x), int(y)), int(unit * rng.uniform(0.5, 1.3)), 1.0, -1, cv2.LINE_AA)
    else:
        for row in np.linspace(middle, side, 4):
            cv2.line(alpha, (0, int(row)), (side, int(row)), 1.0, max(1, int(0.3 * unit)), cv2.LINE_AA)
    noise = cv2.resize(texture, (side, side))
    base = hsv_color(rng.uniform(0.2, 0.4), 0.5, 0.35) if kind == "bush" else cloth_color(rng)
    color = np.clip(base * (1 + (0.6 if kind == "bush" else 0.15) * noise[..., None]), 0, 1) * alpha[..., None]
    return np.asarray(color, np.float32), alpha, (middle, middle)
