"""One person as a sprite: premultiplied colour and coverage, drawn from head to feet in random dress and pose.

Lengths are in *units* of half the head's height; the head's centre is the origin and y points down. A grown-up
measures about 14 units from crown to sole, shoulders lie about 1.9 units to either side (anthropometric means).
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.crowd_scene.noise import Image, cloth_color, hair_color, hsv_color, skin_color

LEFT, TOP, RIGHT = 3.6, 2.2, 3.6
SUBPIXEL_BITS = 4
_TURN = np.linspace(0.0, 1.0, 28)


class Part(enum.IntEnum):
    """What a sprite's pixel shows; an index into the palette of the person."""

    NONE = 0
    SKIN = 1
    HAIR = 2
    TOP = 3
    BOTTOM = 4
    SHOE = 5
    HEADWEAR = 6
    DARK = 7
    BAG = 8
    LIP = 9
    WHITE = 10
    SKIN_SHADE = 11


@dataclass(frozen=True)
class Sprite:
    """A drawn person.

    Args:
        color: (h, w, 3) float32, premultiplied by coverage, [0, 1].
        alpha: (h, w) float32 coverage, [0, 1].
        head_xy: Head's centre in the sprite's pixels (pixel centres are whole numbers).
    """

    color: Image
    alpha: Image
    head_xy: tuple[float, float]


class _Pen:
    """Draws shapes given in units onto a map of parts."""

    def __init__(self, unit_px: float, height_units: float) -> None:
        self.unit_px = unit_px
        self.parts: NDArray[np.uint8] = np.zeros(
            (int(np.ceil((TOP + height_units) * unit_px)), int(np.ceil((LEFT + RIGHT) * unit_px))), np.uint8
        )

    def _fixed(self, points: NDArray[np.float64]) -> NDArray[np.int32]:
        pixels = (points + np.array([LEFT, TOP])) * self.unit_px - 0.5
        fixed: NDArray[np.int32] = np.round(pixels * 2**SUBPIXEL_BITS).astype(np.int32)
        return fixed

    def polygon(self, corners: Sequence[tuple[float, float]], part: Part, *, rounds: int = 2) -> None:
        """Fill a polygon whose corners are cut ``rounds`` times (Chaikin), which rounds them."""
        points = np.asarray(corners, np.float64)
        for _ in range(rounds):
            following = np.roll(points, -1, axis=0)
            points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(-1, 2)
        cv2.fillPoly(self.parts, [self._fixed(points)], int(part), cv2.LINE_8, SUBPIXEL_BITS)

    def ellipse(
        self,
        center: tuple[float, float],
        axes: tuple[float, float],
        part: Part,
        *,
        tilt_deg: float = 0.0,
        arc_deg: tuple[float, float] = (0.0, 360.0),
    ) -> None:
        """Fill an ellipse, or the part of it between two angles (0 is right, 90 is down)."""
        angle = np.deg2rad(arc_deg[0]) + _TURN * np.deg2rad(arc_deg[1] - arc_deg[0])
        circle = np.stack([np.cos(angle), np.sin(angle)], 1) * axes
        cos, sin = np.cos(np.deg2rad(tilt_deg)), np.sin(np.deg2rad(tilt_deg))
        points = circle @ np.array([[cos, sin], [-sin, cos]]) + center
        cv2.fillPoly(self.parts, [self._fixed(points)], int(part), cv2.LINE_8, SUBPIXEL_BITS)

    def limb(self, joints: Sequence[tuple[float, float]], widths: Sequence[float], part: Part) -> None:
        """Draw a chain of tapered strokes with round joints; ``widths`` are half widths at the joints."""
        for start, end, wide_start, wide_end in zip(joints[:-1], joints[1:], widths[:-1], widths[1:], strict=True):
            along = np.subtract(end, start)
            across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-6)
            corners = [
                start + across * wide_start,
                end + across * wide_end,
                end - across * wide_end,
                start - across * wide_start,
            ]
            cv2.fillPoly(self.parts, [self._fixed(np.array(corners))], int(part), cv2.LINE_8, SUBPIXEL_BITS)
            self.ellipse(end, (wide_end, wide_end), part)
        self.ellipse(joints[0], (widths[0], widths[0]), part)


def draw_person(
    rng: np.random.Generator, *, unit_px: float, foreshortening: float, height_limit_units: float, texture: Image
) -> Sprite:
    """Draw one person in random dress, pose and view.

    Args:
        rng: Source of randomness.
        unit_px: Half the head's height in the sprite's pixels.
        foreshortening: Length of the body as seen, relative to upright at eye level; near 0.4 from above.
        height_limit_units: The sprite ends this far below the head's centre.
        texture: (h, w) float32 noise in [-1, 1] from which folds and prints are cut.

    Returns:
        The sprite.
    """
    length = foreshortening * rng.uniform(0.92, 1.06)
    pen = _Pen(unit_px, min(13.4 * length + 0.6, height_limit_units))
    view = rng.choice(["front", "back", "left", "right"], p=[0.55, 0.2, 0.125, 0.125])
    sway = float(rng.normal(0, 0.25))
    build = rng.uniform(0.82, 1.18) * (0.72 if view in ("left", "right") else 1.0)
    _legs(pen, rng, length, build, sway)
    shoulder_y = _torso(pen, rng, length, build, sway)
    _arms(pen, rng, length, build, sway, shoulder_y)
    _head(pen, rng, view)
    return _paint(pen.parts, rng, unit_px, texture)


def _legs(pen: _Pen, rng: np.random.Generator, length: float, build: float, sway: float) -> None:
    hip_y, knee_y, foot_y = 6.2 * length, 9.6 * length, 13.0 * length
    stance = rng.uniform(0.3, 0.9)
    if rng.random() < 0.3:
        hem = rng.uniform(1.2, 2.2)
        pen.polygon(
            [
                (sway - 1.2 * build, hip_y - 1),
                (sway + 1.2 * build, hip_y - 1),
                (sway + hem, foot_y),
                (sway - hem, foot_y),
            ],
            Part.BOTTOM,
        )
        return
    bare = rng.random() < 0.25
    for side in (-1, 1):
        stride = rng.normal(0, 0.35)
        hip, knee = (sway + side * 0.6 * build, hip_y - 0.4), (sway + side * (0.55 + stance * 0.3) + stride, knee_y)
        foot = (sway + side * stance + stride * rng.uniform(-1, 1.5), foot_y)
        pen.limb([knee, foot], [0.55, 0.42], Part.SKIN if bare else Part.BOTTOM)
        pen.limb([hip, knee], [0.8 * build, 0.62], Part.BOTTOM)
        pen.ellipse((foot[0] + side * 0.2, foot_y), (0.65, 0.35), Part.SHOE)


def _torso(pen: _Pen, rng: np.random.Generator, length: float, build: float, sway: float) -> float:
    shoulder_y = 1.05 + 0.75 * max(length, 0.45)
    half = 1.85 * build
    hip_y = 6.4 * length
    waist = rng.uniform(0.66, 0.95) * half
    hem = hip_y * rng.uniform(0.92, 1.12) if rng.random() < 0.8 else 10.5 * length
    pen.limb([(0.0, 0.4), (0.3 * sway, shoulder_y + 0.2)], [0.52, 0.6], Part.SKIN_SHADE)
    slope = rng.uniform(0.25, 0.6)
    pen.polygon(
        [
            (-0.55, shoulder_y - slope),
            (0.55, shoulder_y - slope),
            (half * 0.92, shoulder_y + 0.1),
            (half, shoulder_y + 0.8),
            (sway * 0.6 + waist, 0.55 * (shoulder_y + hip_y)),
            (sway + half * 0.82, hem),
            (sway - half * 0.82, hem),
            (sway * 0.6 - waist, 0.55 * (shoulder_y + hip_y)),
            (-half, shoulder_y + 0.8),
            (-half * 0.92, shoulder_y + 0.1),
        ],
        Part.TOP,
    )
    collar = rng.random()
    if collar < 0.35:
        pen.ellipse((0, shoulder_y - slope + 0.1), (0.55, rng.uniform(0.25, 0.7)), Part.SKIN_SHADE, arc_deg=(0, 180))
    elif collar < 0.55:
        pen.polygon(
            [(-0.5, shoulder_y - slope), (0.5, shoulder_y - slope), (0, shoulder_y + 0.9)], Part.WHITE, rounds=0
        )
    if rng.random() < 0.15:
        pen.limb([(-half * 0.7, shoulder_y), (half * 0.8, hip_y * 0.95)], [0.14, 0.14], Part.BAG)
    if rng.random() < 0.14:
        side = rng.choice([-1, 1])
        pen.polygon(
            [(side * half + dx, hip_y * 0.8 + dy) for dx, dy in ((-0.8, -0.8), (0.8, -0.8), (0.9, 1.2), (-0.9, 1.2))],
            Part.BAG,
            rounds=1,
        )
    return float(shoulder_y)


def _arms(pen: _Pen, rng: np.random.Generator, length: float, build: float, sway: float, shoulder_y: float) -> None:
    half = 1.85 * build
    sleeve_long = rng.random() < 0.55
    pose = rng.choice(["down", "folded", "raised", "hip", "mixed"], p=[0.58, 0.18, 0.03, 0.1, 0.11])
    for side in (-1, 1):
        own = (
            str(rng.choice(["down", "folded", "raised", "hip"], p=[0.6, 0.2, 0.06, 0.14])) if pose == "mixed" else pose
        )
        shoulder = (side * half * 0.86, shoulder_y + 0.35)
        elbow = (side * (half + 0.25 + rng.uniform(0, 0.3)) + 0.3 * sway, shoulder_y + 2.4 * length)
        if own == "down":
            hand = (elbow[0] + side * rng.normal(-0.1, 0.3), shoulder_y + 4.9 * length)
        elif own == "folded":
            hand = (-side * rng.uniform(-0.2, 0.7), shoulder_y + rng.uniform(1.4, 2.6) * length)
        elif own == "hip":
            elbow = (side * (half + 1.1), shoulder_y + 2.3 * length)
            hand = (side * half * 0.75, shoulder_y + 3.9 * length)
        else:
            elbow = (side * (half + 0.8), shoulder_y - rng.uniform(0.0, 1.2))
            hand = (side * (half + rng.uniform(-0.3, 0.9)), shoulder_y - rng.uniform(2.0, 3.2))
        pen.limb([elbow, hand], [0.42, 0.33], Part.TOP if sleeve_long else Part.SKIN)
        pen.ellipse(hand, (0.4, 0.42), Part.SKIN)
        pen.limb([shoulder, elbow], [0.58, 0.46], Part.TOP)


def _head(pen: _Pen, rng: np.random.Generator, view: str) -> None:
    wide = rng.uniform(0.68, 0.8) * (1.08 if view in ("left", "right") else 1.0)
    tilt = float(rng.normal(0, 7))
    style = rng.choice(
        ["short", "long", "bald", "bun", "cap", "scarf", "hat", "helmet", "curly"],
        p=[0.34, 0.18, 0.06, 0.07, 0.1, 0.1, 0.06, 0.03, 0.06],
    )
    turn = {"front": rng.normal(0, 0.12), "back": 0.0, "left": -0.42, "right": 0.42}[view]
    if style == "long":
        pen.ellipse((0, 0.45), (wide * 1.28, rng.uniform(1.3, 2.1)), Part.HAIR, tilt_deg=tilt)
    if style == "bun":
        pen.ellipse((-turn * 1.4, -1.05), (0.42, 0.4), Part.HAIR)
    if style == "curly":
        pen.ellipse((0, -0.15), (wide * 1.4, 1.2), Part.HAIR, tilt_deg=tilt)
    if style == "scarf":
        pen.ellipse((0, 0.15), (wide * 1.38, 1.32), Part.HEADWEAR, tilt_deg=tilt)
        pen.polygon([(-wide * 1.3, 0.4), (wide * 1.3, 0.4), (1.5, 2.3), (-1.5, 2.3)], Part.HEADWEAR)
    pen.ellipse((0, 0), (wide, 1.0), Part.SKIN, tilt_deg=tilt)
    if view == "back":
        cover = (
            Part.HEADWEAR if style in ("scarf", "cap", "hat", "helmet") else Part.SKIN if style == "bald" else Part.HAIR
        )
        pen.ellipse((0, -0.08), (wide * 1.03, 0.95), cover, tilt_deg=tilt)
    else:
        _face(pen, rng, view, wide, float(turn))
        line = rng.uniform(-0.55, -0.3)
        if style not in ("bald", "scarf"):
            pen.ellipse(
                (-turn * 0.5, line - 0.05), (wide * 1.08, 0.98 + line), Part.HAIR, tilt_deg=tilt, arc_deg=(180, 360)
            )
            pen.ellipse((-turn * 1.5, line * 0.7), (wide * 0.82, 0.45), Part.HAIR, arc_deg=(175, 365))
            if view in ("left", "right"):
                pen.ellipse((-turn * 1.25, -0.15), (wide * 0.6, 0.85), Part.HAIR)
    if style in ("cap", "helmet"):
        pen.ellipse(
            (0, -0.3), (wide * (1.1 if style == "cap" else 1.3), 0.82), Part.HEADWEAR, tilt_deg=tilt, arc_deg=(180, 360)
        )
        pen.ellipse((turn * 1.6, -0.34), (wide * 1.1, 0.16), Part.HEADWEAR, tilt_deg=tilt)
    elif style == "hat":
        pen.ellipse((0, -0.55), (wide * 1.05, 0.75), Part.HEADWEAR, tilt_deg=tilt, arc_deg=(180, 360))
        pen.ellipse((0, -0.5), (wide * rng.uniform(1.5, 1.9), 0.24), Part.HEADWEAR, tilt_deg=tilt)
    elif style == "scarf" and view != "back":
        pen.ellipse((0, -0.62), (wide * 1.05, 0.52), Part.HEADWEAR, arc_deg=(180, 360))


def _face(pen: _Pen, rng: np.random.Generator, view: str, wide: float, turn: float) -> None:
    eyes = (-1, 1) if view == "front" else (1 if view == "right" else -1,)
    for side in eyes:
        x = side * 0.3 + turn * (1.0 if view == "front" else 0.6)
        pen.ellipse((x, -0.08), (0.15, 0.08), Part.WHITE)
        pen.ellipse((x, -0.08), (0.09, 0.09), Part.DARK)
        pen.ellipse((x, -0.27), (0.2, 0.06), Part.HAIR)
    if view == "front":
        for side in (-1, 1):
            pen.ellipse((side * wide, 0.0), (0.12, 0.24), Part.SKIN_SHADE)
    pen.ellipse((turn * 1.3, 0.22), (0.13, 0.14), Part.SKIN_SHADE)
    pen.ellipse((turn * 1.1, 0.55), (rng.uniform(0.18, 0.32), rng.uniform(0.05, 0.12)), Part.LIP)
    if rng.random() < 0.16:
        pen.ellipse((turn * 0.8, 0.66), (wide * 0.75, 0.38), Part.HAIR, arc_deg=(0, 180))
    if rng.random() < 0.12:
        for side in eyes:
            pen.ellipse((side * 0.3 + turn, -0.08), (0.25, 0.18), Part.DARK)
    if rng.random() < 0.06:
        pen.ellipse((turn, 0.5), (wide * 0.8, 0.42), Part.WHITE)


def _paint(parts: NDArray[np.uint8], rng: np.random.Generator, unit_px: float, texture: Image) -> Sprite:
    """Colour the parts, add prints, folds and a soft light that follows the silhouette."""
    skin, hair = skin_color(rng), hair_color(rng)
    palette = np.zeros((len(Part), 3), np.float32)
    palette[Part.SKIN], palette[Part.SKIN_SHADE], palette[Part.LIP] = (
        skin,
        skin * 0.8,
        skin * np.array([0.85, 0.6, 0.6], np.float32),
    )
    palette[Part.HAIR], palette[Part.TOP], palette[Part.BOTTOM] = hair, cloth_color(rng), cloth_color(rng)
    palette[Part.HEADWEAR], palette[Part.BAG] = cloth_color(rng), cloth_color(rng) * 0.8
    palette[Part.SHOE], palette[Part.DARK] = hsv_color(rng.random(), 0.2, rng.uniform(0.05, 0.6)), 0.06
    palette[Part.WHITE] = rng.uniform(0.8, 0.97)
    if rng.random() < 0.25:
        palette[Part.BOTTOM] = palette[Part.TOP]
    color = palette[parts]
    height, width = parts.shape
    top, left = (
        int(rng.integers(max(1, texture.shape[0] - height))),
        int(rng.integers(max(1, texture.shape[1] - width))),
    )
    cut = texture[top : top + height, left : left + width]
    if cut.shape != parts.shape:
        cut = np.asarray(cv2.resize(texture, (width, height)), np.float32)
    for part in (Part.TOP, Part.BOTTOM, Part.HEADWEAR):
        if rng.random() < 0.45:
            where = parts == part
            second = cloth_color(rng)
            color[where] = np.where(_print(rng, unit_px, cut)[where][:, None], second, color[where])
    alpha = (parts > 0).astype(np.float32)
    blurred = cv2.blur(alpha * (1 + np.float32(0.25) * (parts == Part.SKIN)), (int(unit_px) | 1, int(unit_px) | 1))
    light_x, light_y = rng.normal(0, 0.5), rng.uniform(0.1, 0.8)
    slope_x, slope_y = cv2.Sobel(blurred, cv2.CV_32F, 1, 0, ksize=3), cv2.Sobel(blurred, cv2.CV_32F, 0, 1, ksize=3)
    light = 1.0 + unit_px * 0.16 * (light_x * slope_x + light_y * slope_y) + 0.14 * cut
    rows = np.arange(height, dtype=np.float32)[:, None] / unit_px - TOP
    light *= (
        1.0
        - 0.22 * np.clip((rows - 1.0) / 9.0, 0, 1)
        - 0.28 * np.exp(-((rows - 1.25) ** 2) / 0.12) * (parts == Part.TOP)
    )
    color *= np.clip(light, 0.25, 1.7)[..., None] * alpha[..., None]
    return Sprite(np.clip(color, 0, 1), alpha, (LEFT * unit_px - 0.5, TOP * unit_px - 0.5))


def _print(rng: np.random.Generator, unit_px: float, cut: Image) -> NDArray[np.bool_]:
    """Where the second colour of a cloth goes: stripes, checks, blots or a colour block."""
    height, width = cut.shape
    period = unit_px * rng.uniform(0.25, 1.1)
    x, y = np.arange(width)[None, :] / period, np.arange(height)[:, None] / period
    warp = cut * 0.5
    kind = rng.random()
    if kind < 0.3:
        return (y + warp) % 1.0 < rng.uniform(0.2, 0.6)
    if kind < 0.45:
        return (x + warp) % 1.0 < rng.uniform(0.2, 0.5)
    if kind < 0.6:
        return ((x + warp) % 1.0 < 0.35) ^ ((y + warp) % 1.0 < 0.35)
    if kind < 0.85:
        return cut > rng.uniform(-0.1, 0.35)
    return np.broadcast_to(y * period / unit_px > rng.uniform(3.0, 6.0), cut.shape)
