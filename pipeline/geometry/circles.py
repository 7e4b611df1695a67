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

    # index_select takes a fifth of the time of indexing.
    center_x, rise = x.index_select(0, circle), row - y.index_select(0, circle)
    reach_squared, rise_squared = radius.square().index_select(0, circle), rise.square()
    half_chord = (reach_squared - rise_squared).clamp(min=0).sqrt() + _SLACK_PX
    left = torch.ceil(center_x - half_chord).clamp(min=0)
    right = torch.floor(center_x + half_chord).clamp(max=size_hw[1] - 1)
    span, column = _expand(left, right)

    squared_distance = (column - center_x.index_select(0, span)).square_().add_(rise_squared.index_select(0, span))
    pairs = CirclePixels(circle.index_select(0, span), row.index_select(0, span), column, squared_distance)
    inside = squared_distance <= reach_squared.index_select(0, span)
    if bool(inside.all()):
        return pairs
    kept = torch.nonzero(inside).flatten()
    return CirclePixels(*(values.index_select(0, kept) for values in pairs))


def _expand(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Count from ``first`` to ``last`` in each range: the range's number and the value, both int64."""
    lengths = (last - first + 1).clamp(min=0).long()
    ranges = torch.repeat_interleave(lengths)
    shift = first.long() - (lengths.cumsum(0) - lengths)
    return ranges, shift.index_select(0, ranges).add_(torch.arange(len(ranges), device=ranges.device))
