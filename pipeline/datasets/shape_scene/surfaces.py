"""Patterns and colours, of things and of the ground alike, so that neither tells what a thing is, unless hues do."""

import cv2
import numpy as np

from pipeline.datasets.crowd_scene.noise import Image, fractal_noise, hsv_color

NOISE_PX = 192


class Surfaces:
    """Draws patterns for one scene from one field of noise.

    Args:
        rng: Source of randomness.
        strength: How strongly patterns show, from 0 (one colour each) to 1.
    """

    def __init__(self, rng: np.random.Generator, strength: float = 1.0) -> None:
        self._rng = rng
        self._strength = np.float32(strength)
        self._noise = fractal_noise(rng, (NOISE_PX, NOISE_PX), coarse_cells=4, octaves=5)

    def draw(self, size_hw: tuple[int, int], scale_px: float, *, hue: float | None = None) -> Image:
        """Draw a surface.

        Args:
            size_hw: Height and width, px.
            scale_px: Size of the thing that it covers, px; patterns are in proportion to it.
            hue: Of both its colours, in turns; any when None.

        Returns:
            (h, w, 3) float32 RGB, mostly in [0, 1].
        """
        rng = self._rng
        first = any_color(rng, hue)
        grain = self._grain(size_hw)
        kind = rng.random()
        if kind < 0.3:
            share = np.zeros(size_hw, np.float32)
        elif kind < 0.45:
            share = np.clip(0.5 + 1.5 * self._grain(size_hw), 0, 1)
        else:
            share = self._repeats(size_hw, scale_px, kind)
        second = any_color(rng, hue) * np.float32(0.6) + first * np.float32(0.4)
        color = first + share[..., None] * (second - first)
        color = color * (1 + np.float32(rng.uniform(0.05, 0.35)) * grain[..., None])
        mean = color.mean(axis=(0, 1))
        return np.asarray(mean + self._strength * (color - mean), np.float32)

    def _repeats(self, size_hw: tuple[int, int], scale_px: float, kind: float) -> Image:
        """Stripes, checks, dots or a slope: (h, w) share of the second colour."""
        rng = self._rng
        angle = rng.uniform(0, 2 * np.pi)
        period = max(2.5, scale_px * float(rng.uniform(0.15, 0.5)))
        y, x = np.ogrid[: size_hw[0], : size_hw[1]]
        phase = rng.uniform(0, 2 * np.pi, 2)
        u = (np.cos(angle) * x + np.sin(angle) * y).astype(np.float32) * np.float32(2 * np.pi / period) + phase[0]
        if kind < 0.6:
            return np.asarray(np.clip(0.5 + 1.5 * np.sin(u), 0, 1), np.float32)
        if kind < 0.7:
            slope = (u - phase[0]) * np.float32(period / (2 * np.pi) / max(size_hw))
            return np.asarray(np.clip(0.5 + slope, 0, 1), np.float32)
        v = (np.cos(angle) * y - np.sin(angle) * x).astype(np.float32) * np.float32(2 * np.pi / period) + phase[1]
        if kind < 0.85:
            return np.asarray(np.clip(0.5 + 3 * np.sin(u) * np.sin(v), 0, 1), np.float32)
        return np.asarray(np.clip(2 * (np.sin(u) + np.sin(v)) - 1.2, 0, 1), np.float32)

    def _grain(self, size_hw: tuple[int, int]) -> Image:
        """A part of the noise, enlarged by chance: (h, w) in about [-1, 1]."""
        rng = self._rng
        zoom = float(np.exp(rng.uniform(np.log(0.7), np.log(3.0))))
        height, width = (int(np.clip(round(side / zoom), 2, NOISE_PX)) for side in size_hw)
        top, left = int(rng.integers(0, NOISE_PX - height + 1)), int(rng.integers(0, NOISE_PX - width + 1))
        part = self._noise[top : top + height, left : left + width]
        return np.asarray(cv2.resize(part, size_hw[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def any_color(rng: np.random.Generator, hue: float | None = None) -> Image:
    """Draw a colour, from grey to vivid and from dark to light, neither grey nor dark if its hue is given, in turns.

    Returns:
        RGB float32 (3,) in [0, 1].
    """
    if hue is not None:
        return hsv_color(hue, rng.uniform(0.4, 0.9), rng.uniform(0.35, 0.95))
    return hsv_color(rng.random(), rng.uniform(0, 0.9) ** 1.3, rng.uniform(0.12, 0.95))


def farthest_color(rng: np.random.Generator, from_rgb: Image, surface: Image, *, least: float) -> Image:
    """Shift a surface's lightness until its mean differs enough from a colour, or as far as it goes.

    Args:
        rng: Source of randomness.
        from_rgb: (3,) colour to differ from.
        surface: (h, w, 3) RGB.
        least: Wanted distance of the mean colours, in [0, 1].
    """
    mean = surface.mean(axis=(0, 1))
    distance = float(np.abs(mean - from_rgb).max())
    if distance >= least:
        return surface
    up = from_rgb.mean() < rng.uniform(0.35, 0.65)
    shift = least - distance if up else distance - least
    return np.asarray(surface + np.float32(shift * 1.5), np.float32)
