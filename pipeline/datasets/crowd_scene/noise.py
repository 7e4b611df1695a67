"""Seeded fractal noise and colours that persons and backdrops share."""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def fractal_noise(
    rng: np.random.Generator, size_hw: tuple[int, int], *, coarse_cells: int = 3, octaves: int = 5
) -> Image:
    """Sum octaves of smooth random fields, each twice as fine and about half as strong.

    Args:
        rng: Source of randomness.
        size_hw: Height and width of the result, px.
        coarse_cells: Cells along the shorter side in the coarsest octave.
        octaves: Number of octaves; stops early when a cell would be smaller than a pixel.

    Returns:
        (H, W) float32 in about [-1, 1].
    """
    height, width = size_hw
    total = np.zeros(size_hw, np.float32)
    strength, norm = 1.0, 0.0
    for octave in range(octaves):
        cells = coarse_cells * 2**octave
        if cells > min(size_hw):
            break
        rows, cols = max(2, cells * height // min(size_hw)), max(2, cells * width // min(size_hw))
        field = rng.uniform(-1, 1, (rows, cols)).astype(np.float32)
        total += strength * cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
        norm += strength
        strength *= 0.55
    return total / max(norm, 1e-6) * 1.6


def hsv_color(hue: float, saturation: float, value: float) -> Image:
    """Convert one colour, all parts in [0, 1], to RGB float32 (3,) in [0, 1]."""
    sector = (hue % 1.0) * 6.0
    chroma = value * saturation
    second = chroma * (1 - abs(sector % 2 - 1))
    red, green, blue = [
        (chroma, second, 0.0),
        (second, chroma, 0.0),
        (0.0, chroma, second),
        (0.0, second, chroma),
        (second, 0.0, chroma),
        (chroma, 0.0, second),
    ][int(sector) % 6]
    return np.array([red, green, blue], np.float32) + np.float32(value - chroma)


def cloth_color(rng: np.random.Generator) -> Image:
    """Draw a clothing colour: neutrals, muted and vivid ones in proportions seen on streets; RGB in [0, 1]."""
    kind = rng.random()
    hue = rng.choice([rng.normal(0.62, 0.06), rng.normal(0.03, 0.05), rng.random()])
    if kind < 0.4:
        return hsv_color(hue, rng.uniform(0, 0.15), rng.choice([rng.uniform(0.04, 0.35), rng.uniform(0.6, 0.98)]))
    if kind < 0.8:
        return hsv_color(hue, rng.uniform(0.15, 0.6), rng.uniform(0.15, 0.85))
    return hsv_color(hue, rng.uniform(0.6, 0.95), rng.uniform(0.4, 0.95))


_SKIN = np.array(
    [[0.98, 0.86, 0.77], [0.90, 0.70, 0.57], [0.72, 0.50, 0.37], [0.50, 0.32, 0.22], [0.28, 0.17, 0.12]], np.float32
)


def skin_color(rng: np.random.Generator) -> Image:
    """Draw a skin tone between five anchors from light to dark; RGB in [0, 1]."""
    position = rng.uniform(0, len(_SKIN) - 1)
    low = min(int(position), len(_SKIN) - 2)
    tone = _SKIN[low] + (position - low) * (_SKIN[low + 1] - _SKIN[low])
    return np.asarray(np.clip(tone * rng.uniform(0.93, 1.06, 3), 0, 1), np.float32)


def hair_color(rng: np.random.Generator) -> Image:
    """Draw a hair colour: mostly black and brown, some blond, grey and dyed; RGB in [0, 1]."""
    kind = rng.random()
    if kind < 0.55:
        return hsv_color(rng.uniform(0.02, 0.1), rng.uniform(0.1, 0.5), rng.uniform(0.04, 0.16))
    if kind < 0.78:
        return hsv_color(rng.uniform(0.04, 0.09), rng.uniform(0.4, 0.7), rng.uniform(0.18, 0.42))
    if kind < 0.88:
        return hsv_color(rng.uniform(0.09, 0.13), rng.uniform(0.35, 0.6), rng.uniform(0.6, 0.88))
    if kind < 0.96:
        return hsv_color(rng.random(), rng.uniform(0, 0.06), rng.uniform(0.45, 0.9))
    return hsv_color(rng.random(), rng.uniform(0.5, 0.9), rng.uniform(0.4, 0.8))
