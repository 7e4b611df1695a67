"""The outlines of the classes, each drawn anew: turned, a little sheared, dented and out of proportion."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]
CORNERS = 48
"""Corners of a round outline."""
STRETCH = 0.05
SHEAR = 0.05
DENTS = 0.02
"""Standard deviations of what spoils an outline: proportions, slant, and waves in share of the radius."""


def draw_outline(rng: np.random.Generator, kind: str) -> Outline:
    """Draw one outline of a class.

    Args:
        rng: Source of randomness.
        kind: One of :data:`KINDS`.

    Returns:
        (M, 2) corners xy; the box around them is centred at 0, and its area is 1.
    """
    outline = _dented(rng, KINDS[kind](rng))
    angle = rng.uniform(0, 2 * np.pi)
    stretch, shear = np.exp(rng.normal(0, STRETCH)), rng.normal(0, SHEAR)
    bent = outline @ np.array([[stretch, shear], [0.0, 1 / stretch]])
    turned = bent @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    low, high = turned.min(axis=0), turned.max(axis=0)
    centred: Outline = (turned - (low + high) / 2) / np.sqrt(np.prod(high - low))
    return centred


def _round(radius: float | Outline = 1.0) -> Outline:
    """Corners at even angles, at one distance from 0 or at one for each."""
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    corners: Outline = np.stack([np.cos(angle), np.sin(angle)], axis=1) * np.reshape(radius, (-1, 1))
    return corners


def _regular(corners: int) -> Outline:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _disc(rng: np.random.Generator) -> Outline:
    return _round()


def _ellipse(rng: np.random.Generator) -> Outline:
    return _round() * [1.0, rng.uniform(0.5, 0.68)]


def _square(rng: np.random.Generator) -> Outline:
    return _regular(4)


def _rounded_square(rng: np.random.Generator) -> Outline:
    unit = _round()
    power = rng.uniform(3.2, 4.2)  # 2 is a disc, infinity a square
    corners: Outline = unit / ((np.abs(unit) ** power).sum(axis=1, keepdims=True) ** (1 / power))
    return corners


def _triangle(rng: np.random.Generator) -> Outline:
    return _regular(3) + rng.normal(0, 0.07, (3, 2))


def _hexagon(rng: np.random.Generator) -> Outline:
    return _regular(6)


def _star(rng: np.random.Generator) -> Outline:
    points = int(rng.integers(5, 7))
    reach = np.tile(np.array([1.0, rng.uniform(0.4, 0.52)]), points)
    corners: Outline = _regular(2 * points) * reach[:, None]
    return corners


def _cross(rng: np.random.Generator) -> Outline:
    arm = rng.uniform(0.3, 0.4)
    quarter = np.array([[1.0, -arm], [1.0, arm], [arm, arm]])
    turns = [np.array([[c, s], [-s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return np.concatenate([quarter @ turn for turn in turns])


def _crescent(rng: np.random.Generator) -> Outline:
    shift, inner = rng.uniform(0.45, 0.6), rng.uniform(0.78, 0.9)
    # The circles meet where both are at one place; the outline runs around the outer one and back on the inner one.
    meet_x = (1 - inner**2 + shift**2) / (2 * shift)
    meet_y = np.sqrt(1 - meet_x**2)
    start, back = np.arctan2(meet_y, meet_x), np.arctan2(meet_y, meet_x - shift)
    out, home = np.linspace(start, 2 * np.pi - start, CORNERS), np.linspace(2 * np.pi - back, back, CORNERS // 2)[1:-1]
    outer = np.stack([np.cos(out), np.sin(out)], axis=1)
    return np.concatenate([outer, inner * np.stack([np.cos(home), np.sin(home)], axis=1) + [shift, 0]])


def _blob(rng: np.random.Generator) -> Outline:
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    waves = sum(rng.uniform(0.1, 0.22) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
    return _round(1 + waves)


def _dented(rng: np.random.Generator, outline: Outline) -> Outline:
    """Let the distance from 0 wave a little along the outline."""
    angle = np.arctan2(outline[:, 1], outline[:, 0])
    phase, strength = rng.uniform(0, 2 * np.pi, 3), rng.normal(0, DENTS, 3)
    waves = (strength * np.cos(np.outer(angle, [2, 3, 5]) + phase)).sum(axis=1)
    dented: Outline = outline * (1 + waves[:, None])
    return dented


KINDS: dict[str, Callable[[np.random.Generator], Outline]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "ellipse": _ellipse,
    "rounded_square": _rounded_square,
    "hexagon": _hexagon,
    "blob": _blob,
}
"""Name of a class → what draws it. The first six look alike least; the others each look like one before them."""
