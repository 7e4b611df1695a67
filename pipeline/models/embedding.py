"""The embedding at image resolution: upsampled, blurred, and read at points (arXiv 2603.16241, section 3)."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

KERNEL_PX = 7
"""Side of the blur's kernel, at every sigma."""
_REACH = KERNEL_PX // 2


def smooth_embedding(
    embedding: Tensor, *, size_hw: tuple[int, int], blur_sigma: float, rows: tuple[int, int] | None = None
) -> Tensor:
    """Upsample an embedding bilinearly to the image and blur it with a 7×7 Gaussian, zero beyond the image.

    Args:
        embedding: (B, C, h, w).
        size_hw: Size of the image in pixels; a whole multiple of (h, w) when ``rows`` are asked for.
        blur_sigma: Sigma in image pixels.
        rows: First image row and row after the last to compute; all of them when None.

    Returns:
        (B, C, rows, W) of at least float32, in channels-last memory.
    """
    height, width = size_hw
    first, end = rows or (0, height)
    top, bottom = max(first - _REACH, 0), min(end + _REACH, height)
    cells = embedding.float() if embedding.dtype in (torch.float16, torch.bfloat16) else embedding
    cells = _channels_last(cells)
    if (top, bottom) == (0, height):
        fine = F.interpolate(cells, size=(height, width), mode="bilinear", align_corners=False)
    else:
        fine = _upsample_rows(cells, height // cells.shape[-2], width, top, bottom)
    blurred: Tensor = _Blur.apply(fine, gaussian_kernel(blur_sigma).to(fine))
    return blurred[:, :, first - top : end - top]


def _channels_last(cells: Tensor) -> Tensor:
    """Lay (B, C, h, w) out with channels last, strides of axes of length 1 included.

    ``contiguous`` takes one image of a batch as it is, and then its stride along the batch hides the layout from the
    kernels: upsampling and blurring took six times as long.
    """
    batch, channels, height, width = cells.shape
    return cells.permute(0, 2, 3, 1).reshape(-1).view(batch, height, width, channels).permute(0, 3, 1, 2)


class _Blur(torch.autograd.Function):
    """Convolve every channel with one symmetric kernel, zero-padded: self-adjoint, so backward is the same pass."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(kernel)
        weight = kernel.expand(image.shape[1], 1, -1, -1)
        return F.conv2d(image, weight, padding=_REACH, groups=image.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kernel,) = ctx.saved_tensors
        return _Blur.apply(gradient.contiguous(memory_format=torch.channels_last), kernel), None


def _upsample_rows(cells: Tensor, stride: int, width: int, top: int, bottom: int) -> Tensor:
    """Upsample just the image rows [top, bottom), from the cell rows that they touch."""
    first_cell = max(top // stride - 1, 0)
    cells = cells[:, :, first_cell : (bottom - 1) // stride + 2]
    fine = F.interpolate(cells, size=(cells.shape[-2] * stride, width), mode="bilinear", align_corners=False)
    return fine[:, :, top - first_cell * stride : bottom - first_cell * stride]


def gaussian_kernel(sigma: float) -> Tensor:
    """Build the (7, 7) float64 kernel, of sum 1."""
    offsets = torch.arange(KERNEL_PX, dtype=torch.float64) - _REACH
    line = torch.exp(-0.5 * (offsets / sigma).square())
    line /= line.sum()
    return torch.outer(line, line)


def pixel_rows(field: Tensor) -> Tensor:
    """View a (B, C, H, W) field in channels-last memory as (B·H·W, C): one row per pixel."""
    return field.permute(0, 2, 3, 1).reshape(-1, field.shape[1])


def sample_bilinear(
    pixels: Tensor, points_xy: Tensor, *, size_hw: tuple[int, int], first_pixel: Tensor | int = 0
) -> Tensor:
    """Read a field between pixel centres; differentiable in the field.

    Args:
        pixels: (P, C) from :func:`pixel_rows`.
        points_xy: (N, 2) float64, image pixels; points beyond the outer pixel centres read the nearest edge.
        size_hw: Size of each image in pixels.
        first_pixel: Row of ``pixels`` where each point's image begins, (N,) int64 or one for all.

    Returns:
        (N, C).
    """
    corners = bilinear_corners(points_xy, size_hw=size_hw, first_pixel=first_pixel)
    return corners.blend(pixels.index_select(0, corners.row.flatten()))


class BilinearCorners(NamedTuple):
    """The four pixels around each point.

    Args:
        row: (4, N) int64, row of each pixel in the field.
        weight: (4, N) float64, its weight; the four add up to 1.
    """

    row: Tensor
    weight: Tensor

    def blend(self, values: Tensor) -> Tensor:
        """Weigh the (4·N, C) values of the pixels, in the order of ``row``, to (N, C)."""
        weighted = values.view(*self.row.shape, values.shape[1]) * self.weight.to(values.dtype)[:, :, None]
        return weighted.sum(dim=0)


def bilinear_corners(points_xy: Tensor, *, size_hw: tuple[int, int], first_pixel: Tensor | int = 0) -> BilinearCorners:
    """Find the pixels that a field is read from between pixel centres; for the arguments see sample_bilinear."""
    height, width = size_hw
    limit = points_xy.new_tensor([width - 1, height - 1])
    place = points_xy.clamp(min=0).minimum(limit)
    low = place.floor()
    (x0, y0), (x1, y1) = low.long().unbind(dim=1), (low + 1).minimum(limit).long().unbind(dim=1)
    right, below = (place - low).unbind(dim=1)
    row0, row1 = first_pixel + y0 * width, first_pixel + y1 * width
    return BilinearCorners(
        row=torch.stack([row0 + x0, row0 + x1, row1 + x0, row1 + x1]),
        weight=torch.stack([(1 - right) * (1 - below), right * (1 - below), (1 - right) * below, right * below]),
    )
