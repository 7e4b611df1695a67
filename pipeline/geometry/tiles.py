"""Square tiles that follow a crowd's density: every head in one tile, its circle large enough for the model to see."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

NEIGHBORS = 9
"""Heads over which the local median radius is taken, so that one odd circle does not call for a tile of its own."""

RADII_PER_SIDE = 6.0
"""A tile's side is at least this many radii of each head it owns: the model sees beyond the circle, and neighbouring
tiles, which overlap by two radii, do not cover the image many times over."""

SCALES_PER_OCTAVE = 2
"""So many sides from one to its half: with halves alone a tile would be magnified twice as much as wanted at worst."""


@dataclass(frozen=True)
class Tile:
    """A square of the image with the heads that it owns.

    Args:
        x0: Column of its left edge, image pixels.
        y0: Row of its top edge, image pixels.
        side_px: Its side, image pixels; where the image is smaller, the rest is padding.
        rows: (K,) int64, the heads it owns, ascending.
    """

    x0: int
    y0: int
    side_px: int
    rows: NDArray[np.int64]


def plan_tiles(
    points_xy: NDArray[np.float64],
    radius_px: NDArray[np.float64],
    *,
    size_hw: tuple[int, int],
    model_px: int,
    min_radius_model_px: float,
    max_magnification: float = 4.0,
) -> list[Tile]:
    """Cover all heads with tiles whose scale fits the circles around them (specification EDP-SAM §2).

    Sides are the image's longer side divided by 1, √2, 2, 2√2, …, down to the side at which the greatest magnification
    is reached. A head goes to the largest at which the median radius around it measures ``min_radius_model_px`` in the
    model's input; so uneven density gets tiles of several scales. Neighbouring tiles of one side overlap by twice the
    largest radius there (at most half a tile), and a head belongs to the tile that holds its circle, or most of it,
    and whose centre is nearest.

    Args:
        points_xy: (N, 2) float64, image pixels.
        radius_px: (N,) float64, image pixels.
        size_hw: Height and width of the image.
        model_px: Side of the model's input.
        min_radius_model_px: Wanted median radius in pixels of the model's input.
        max_magnification: A tile is never enlarged more than this; a smaller image is padded.

    Returns:
        The tiles, coarse to fine, then by row and column; each head in exactly one, none without heads.
    """
    if len(points_xy) == 0:
        return []
    height, width = size_hw
    longest = max(height, width)
    neighbors = min(NEIGHBORS, len(points_xy))
    _, nearest = KDTree(points_xy).query(points_xy, k=np.arange(1, neighbors + 1))
    local_radius = np.median(radius_px[nearest], axis=1)
    finest = int(np.ceil(model_px / max_magnification))
    for_scale = np.ceil(SCALES_PER_OCTAVE * np.log2(longest * min_radius_model_px / (model_px * local_radius)) - 1e-9)
    for_circle = np.floor(SCALES_PER_OCTAVE * np.log2(longest / (RADII_PER_SIDE * radius_px)) + 1e-9)
    halvings = np.maximum(np.minimum(for_scale, for_circle), 0) / SCALES_PER_OCTAVE
    sides = np.maximum(np.ceil(longest / 2**halvings), finest).astype(np.int64)
    tiles: list[Tile] = []
    for side in np.unique(sides)[::-1]:
        rows = np.flatnonzero(sides == side)
        tiles += _tiles_of_side(points_xy[rows], radius_px[rows], rows, int(side), size_hw)
    return tiles


def _tiles_of_side(
    points_xy: NDArray[np.float64],
    radius_px: NDArray[np.float64],
    rows: NDArray[np.int64],
    side: int,
    size_hw: tuple[int, int],
) -> list[Tile]:
    overlap = int(min(np.ceil(2 * radius_px.max()) + 1, side // 2))  # one more, since starts are rounded
    height, width = size_hw
    starts_y, starts_x = _starts(height, side, overlap), _starts(width, side, overlap)
    choice_y = _choose(points_xy[:, 1], radius_px, starts_y, side, height)
    choice_x = _choose(points_xy[:, 0], radius_px, starts_x, side, width)
    tile_number = choice_y * len(starts_x) + choice_x
    return [
        Tile(
            int(starts_x[number % len(starts_x)]),
            int(starts_y[number // len(starts_x)]),
            side,
            rows[tile_number == number],
        )
        for number in np.unique(tile_number)
    ]


def _starts(length: int, side: int, overlap: int) -> NDArray[np.int64]:
    """First pixels of evenly spread tiles that cover a length and overlap by at least ``overlap``."""
    if side >= length:
        return np.zeros(1, np.int64)
    count = int(np.ceil((length - side) / max(1, side - overlap))) + 1
    return np.round(np.linspace(0, length - side, count)).astype(np.int64)


def _choose(
    center: NDArray[np.float64], radius: NDArray[np.float64], starts: NDArray[np.int64], side: int, length: int
) -> NDArray[np.int64]:
    """Along one axis: the tile with most of each circle's span inside the image, nearest centre among equals."""
    low, high = np.clip(center - radius, -0.5, length - 0.5), np.clip(center + radius, -0.5, length - 0.5)
    left, right = starts - 0.5, starts + side - 0.5
    held = np.minimum(high[:, None], right) - np.maximum(low[:, None], left)
    whole = (low[:, None] >= left - 1e-9) & (high[:, None] <= right + 1e-9)
    distance = np.abs(center[:, None] - (starts + (side - 1) / 2))
    # Whole circles first; then the most of the span, in whole pixels so that rounding does not decide; then distance.
    missing = np.where(whole, 0.0, 1.0 + np.floor(side - held))
    return np.asarray(np.argmin(missing * (length + side + 1.0) * 4 + distance, axis=1), np.int64)
