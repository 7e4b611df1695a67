import math

import pytest
import torch
from torch import Tensor

from pipeline.models.embedding import gaussian_kernel, pixel_rows, sample_bilinear, smooth_embedding


def plain_smooth(embedding: Tensor, stride: int, sigma: float) -> Tensor:
    """Upsample by the definition of pixel centres, then convolve 7×7 with zeros beyond; float64 (C, H, W)."""
    channels, h, w = embedding.shape
    fine = torch.zeros(channels, h * stride, w * stride, dtype=torch.float64)
    for y in range(h * stride):
        for x in range(w * stride):
            v = min(max((y - (stride - 1) / 2) / stride, 0), h - 1)
            u = min(max((x - (stride - 1) / 2) / stride, 0), w - 1)
            i, j = int(v), int(u)
            i1, j1 = min(i + 1, h - 1), min(j + 1, w - 1)
            a, b = v - i, u - j
            top = embedding[:, i, j] * (1 - b) + embedding[:, i, j1] * b
            bottom = embedding[:, i1, j] * (1 - b) + embedding[:, i1, j1] * b
            fine[:, y, x] = top * (1 - a) + bottom * a
    line = [math.exp(-(k * k) / (2 * sigma * sigma)) for k in range(-3, 4)]
    line = [value / sum(line) for value in line]
    out = torch.zeros_like(fine)
    for y in range(h * stride):
        for x in range(w * stride):
            for dy in range(-3, 4):
                for dx in range(-3, 4):
                    if 0 <= y + dy < h * stride and 0 <= x + dx < w * stride:
                        out[:, y, x] += fine[:, y + dy, x + dx] * line[dy + 3] * line[dx + 3]
    return out


def random_embedding(channels: int, h: int, w: int, seed: int = 0) -> Tensor:
    values = torch.randn(channels, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=0)


@pytest.mark.parametrize(("h", "w", "sigma"), [(3, 4, 1.5), (1, 1, 1.5), (1, 3, 3.0)])
def test_equals_the_plain_form(h: int, w: int, sigma: float) -> None:
    embedding = random_embedding(2, h, w)
    smooth = smooth_embedding(embedding[None], size_hw=(4 * h, 4 * w), blur_sigma=sigma)[0]
    torch.testing.assert_close(smooth, plain_smooth(embedding, 4, sigma))


@pytest.mark.parametrize("rows", [(0, 5), (5, 9), (19, 20), (17, 20), (0, 20), (1, 19)])
def test_rows_alone_equal_rows_of_the_whole(rows: tuple[int, int]) -> None:
    embedding = random_embedding(3, 5, 4)[None].float()
    whole = smooth_embedding(embedding, size_hw=(20, 16), blur_sigma=1.5)
    part = smooth_embedding(embedding, size_hw=(20, 16), blur_sigma=1.5, rows=rows)
    torch.testing.assert_close(part, whole[:, :, rows[0] : rows[1]], rtol=0, atol=1e-6)


def test_gradient_of_smoothing() -> None:
    embedding = random_embedding(2, 3, 2)[None].requires_grad_()
    assert torch.autograd.gradcheck(lambda e: smooth_embedding(e, size_hw=(12, 8), blur_sigma=1.5), (embedding,))


def test_half_precision_is_widened() -> None:
    smooth = smooth_embedding(torch.ones(1, 2, 3, 3).bfloat16(), size_hw=(12, 12), blur_sigma=1.5)
    assert smooth.dtype == torch.float32
    torch.testing.assert_close(smooth[0, 0, 6, 6], torch.tensor(1.0))


def test_kernel_is_seven_wide_at_every_sigma() -> None:
    for sigma in (0.5, 1.5, 3.0):
        kernel = gaussian_kernel(sigma)
        assert kernel.shape == (7, 7)
        assert float(kernel.sum()) == pytest.approx(1.0)
        assert float(kernel[3, 4] / kernel[3, 3]) == pytest.approx(math.exp(-0.5 / sigma**2))


def test_sampling_between_pixel_centres() -> None:
    ramp = torch.arange(12, dtype=torch.float64).reshape(1, 1, 3, 4)  # value = 4·y + x
    places = [[0.0, 0.0], [1.5, 0.0], [0.0, 1.5], [2.25, 1.5], [-0.5, -0.5], [3.4, 2.4]]
    points = torch.tensor(places, dtype=torch.float64)
    values = sample_bilinear(pixel_rows(ramp), points, size_hw=(3, 4))
    torch.testing.assert_close(values[:, 0], torch.tensor([0.0, 1.5, 6.0, 8.25, 0.0, 11.0], dtype=torch.float64))
    second = sample_bilinear(pixel_rows(torch.cat([ramp, ramp + 100])), points[:1], size_hw=(3, 4), first_pixel=12)
    assert second.item() == 100.0
