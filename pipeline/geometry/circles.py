"""Every (circle, pixel) pair of an image, enumerated by row spans: work and memory follow the circles' area."""

from typing import NamedTuple

import torch
from torch import Tensor

_SLACK_PX = 1e-6
"""Spans are this much too wide before the exact test, so that rounding of a square root loses no pixel."""


class CirclePixels(NamedTuple):
    """Pairs of a circle and a pixel inside it, sorted by circle, row, column.

    Args:
        circle: (P,) int64, row of the circle.
        y_px: (P,) int64, row of the pixel.
        x_px: (P,) int64, column of the pixel.
        squared_distance: (P,) float64, from the circle's centre to the pixel's, pixels².
    """

    circle: Tensor
    y_px: Tensor
    x_px: Tensor
    squared_distance: Tensor


def circle_pixels(
    points_xy: Tensor, radius_px: Tensor, *, size_hw: tuple[int, int], rows: tuple[int, int] | None = None
) -> CirclePixels:
    """List the pixels whose centres lie in each closed disc, clipped to the image.

    Args:
        points_xy: (N, 2) float64, centres in image pixels; they may lie outside the image.
        radius_px: (N,) float64.
        size_hw: Height and width of the image in pixels.
        rows: First row and row after the last; the whole image when None.
    """
    first_row, end_row = rows or (0, size_hw[0])
    x, y = points_xy.double().unbind(dim=1)
    radius = radius_px.double()
    top = torch.ceil(y - radius - _SLACK_PX).clamp(min=first_row)
    bottom = torch.floor(y + radius + _SLACK_PX).clamp(max=end_row - 1)
    circle, row = _expand(top, bottom)

    rise = row - y[circle]
    half_chord = (radius[circle].square() - rise.square()).clamp(min=0).sqrt() + _SLACK_PX
    left = torch.ceil(x[circle] - half_chord).clamp(min=0)
    right = torch.floor(x[circle] + half_chord).clamp(max=size_hw[1] - 1)
    span, column = _expand(left, right)

    circle, row, rise_squared = circle[span], row[span], rise.square()[span]
    squared_distance = (column - x[circle]).square() + rise_squared
    pairs = CirclePixels(circle, row, column, squared_distance)
    inside = squared_distance <= radius.square()[circle]
    return pairs if bool(inside.all()) else CirclePixels(*(values[inside] for values in pairs))


def _expand(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Count from ``first`` to ``last`` in each range: the range's number and the value, both int64."""
    lengths = (last - first + 1).clamp(min=0).long()
    ranges = torch.repeat_interleave(lengths)
    shift = first.long() - (lengths.cumsum(0) - lengths)
    return ranges, torch.arange(len(ranges), device=ranges.device) + shift[ranges]
