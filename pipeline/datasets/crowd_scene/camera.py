"""What light, lens and sensor do to a drawn scene."""

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.crowd_scene.noise import Image, fractal_noise


def photograph(rng: np.random.Generator, scene: Image, roughness: float = 1.0) -> NDArray[np.uint8]:
    """Turn ideal colours into a photograph: patchy light, cast, contrast, blur, noise, JPEG blocks.

    Args:
        rng: Source of randomness.
        scene: (H, W, 3) float32 RGB in [0, 1].
        roughness: How much of all this shows: 0 nothing, 1 everything.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = scene.shape[:2]
    image = scene
    if rng.random() < 0.6:
        patches = fractal_noise(rng, (height, width), coarse_cells=2, octaves=3)
        image = image * (1 + rng.uniform(0.1, 0.55) * np.tanh(patches * rng.uniform(1, 6)))[..., None]
    if rng.random() < 0.4:
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        image = image * (1 - rng.uniform(0.1, 0.5) * (x * x + y * y) / 2)[..., None]
    cast = 1 + rng.normal(0, 0.08, 3).astype(np.float32)
    image = np.clip(image * cast * np.float32(rng.uniform(0.6, 1.3)), 0, 1)
    image = image ** np.float32(np.exp(rng.normal(0, 0.28)))
    mean = image.mean()
    image = mean + (image - mean) * np.float32(rng.uniform(0.6, 1.15))
    if rng.random() < 0.06:
        image = np.repeat((image @ np.array([0.3, 0.59, 0.11], np.float32))[..., None], 3, 2)
    image = _blur(rng, np.asarray(image, np.float32))
    if rng.random() < 0.75:
        strength = abs(rng.normal(0, 0.03))
        noise = rng.standard_normal((height, width, 3), np.float32)
        if rng.random() < 0.4:
            noise = np.asarray(cv2.GaussianBlur(noise, (3, 3), 0.8) * 2, np.float32)
        image = image + np.float32(strength) * noise
    pixels: NDArray[np.uint8] = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.integers(30, 96))
        _, packed = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        assert decoded is not None
        pixels = np.ascontiguousarray(decoded[..., ::-1]).astype(np.uint8)
    if roughness < 1:
        mixed = pixels * roughness + np.clip(scene, 0, 1) * (255 * (1 - roughness))
        pixels = np.round(mixed).astype(np.uint8)
    return pixels


def _blur(rng: np.random.Generator, image: Image) -> Image:
    kind = rng.random()
    if kind < 0.35:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.1)), np.float32)
    if kind < 0.42:
        length = int(rng.integers(2, 5))
        kernel = np.zeros((5, 5), np.float32)
        angle = rng.uniform(0, np.pi)
        for step in np.linspace(-length / 2, length / 2, 9):
            kernel[round(2 + step * np.sin(angle) * 0.9), round(2 + step * np.cos(angle) * 0.9)] = 1
        return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), np.float32)
    if kind < 0.5:
        sharp = image + rng.uniform(0.3, 1.0) * (image - cv2.GaussianBlur(image, (0, 0), 1.2))
        return np.asarray(np.clip(sharp, 0, 1), np.float32)
    return image
