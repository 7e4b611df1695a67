"""The student's view of an unlabelled crop: other colours, grey, blur, a rectangle cut out (arXiv 2603.16241, §4)."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from pipeline.models.crowd_net import STRIDE
from pipeline.models.network_input import normalize_image
from pipeline.training.view_options import ColorOptions, StrongViewOptions


def change_colors(pixels: npt.NDArray[np.uint8], options: ColorOptions, *, generator: np.random.Generator) -> Tensor:
    """Change colours and sharpness at random, as :func:`jitter_colors`, and give the crowd net's input."""
    return normalize_image(jitter_colors(pixels, options, generator=generator))


def jitter_colors(pixels: npt.NDArray[np.uint8], options: ColorOptions, *, generator: np.random.Generator) -> Tensor:
    """Change colours and sharpness at random; nothing moves, so that heads and masks stay where they are.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        options: Strengths and probabilities.
        generator: Randomness.

    Returns:
        (3, H, W) float32 RGB in [0, 1].
    """
    rgb = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255.0
    if generator.random() < options.jitter_prob:
        low, high = 1 - options.jitter, 1 + options.jitter
        rgb = tv.adjust_brightness(rgb, float(generator.uniform(low, high)))
        rgb = tv.adjust_contrast(rgb, float(generator.uniform(low, high)))
        rgb = tv.adjust_saturation(rgb, float(generator.uniform(low, high)))
        rgb = tv.adjust_hue(rgb, float(generator.uniform(-options.jitter_hue, options.jitter_hue)))
    if generator.random() < options.gray_prob:
        rgb = tv.rgb_to_grayscale(rgb, num_output_channels=3)
    if generator.random() < options.blur_prob:
        sigma = float(generator.uniform(options.blur_sigma_min, options.blur_sigma_max))
        radius = min(max(1, round(3 * sigma)), min(rgb.shape[-2:]) - 1)
        rgb = tv.gaussian_blur(rgb, [2 * radius + 1, 2 * radius + 1], [sigma, sigma])
    if options.noise_max:
        sigma = generator.uniform(0.0, options.noise_max)
        noise = generator.standard_normal(tuple(rgb.shape), dtype=np.float32) * np.float32(sigma)
        rgb = (rgb + torch.from_numpy(noise)).clamp(0.0, 1.0)
    return rgb


def strong_view(
    pixels: npt.NDArray[np.uint8], options: StrongViewOptions, *, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Make the student's view of an unlabelled crop.

    Args:
        pixels: (S, S, 3) uint8 RGB.
        options: Colours and cut-out.
        generator: Randomness.

    Returns:
        The network's (3, S, S) float32 input, and the (S, S) bool cut-out, whose edges lie on cells of stride 4; the
        input is zero there.
    """
    view = change_colors(pixels, options.colors, generator=generator)
    cut_out = random_cut_out(pixels.shape[:2], options, generator=generator)
    return view.masked_fill(cut_out, 0.0), cut_out


def random_cut_out(size_hw: tuple[int, ...], options: StrongViewOptions, *, generator: np.random.Generator) -> Tensor:
    """Draw one rectangle: (H, W) bool, True inside; none where ``cut_out_max_frac`` is 0."""
    cut_out = torch.zeros(*size_hw, dtype=torch.bool)
    spans = []
    for side in size_hw:
        cells = side // STRIDE
        least = min(options.cut_out_min_frac, options.cut_out_max_frac)
        length = round(cells * generator.uniform(least, options.cut_out_max_frac))
        start = int(generator.integers(0, cells - length + 1))
        spans.append(slice(STRIDE * start, STRIDE * (start + length)))
    cut_out[spans[0], spans[1]] = True
    return cut_out
