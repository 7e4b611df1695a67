"""Square tiles that follow a crowd's density: every head in one tile, its circle large enough for the model to see."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

NEIGHBORS = 9
"""Heads over which the local median radius is taken, so that one odd circle does not call for a tile of its own."""

RADII_PER_SIDE = 5.6
"""A tile's side is at least this many radii of each head it owns: the model sees beyond the circle."""

SCALES_PER_OCTAVE = 3
"""So many sides from one to its half; with halves alone a tile would be magnified up to twice as much as wanted."""


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
    coarser_steps: int = 0,
) -> list[Tile]:
    """Cover all heads with few tiles whose scale fits the circles around them (specification EDP-SAM §2).

    Sides are the image's longer side divided by 1, 2^⅓, 2^⅔, 2, …, down to the side at which the greatest magnification
    is reached. A head wants the largest at which the median radius around it measures ``min_radius_model_px`` in the
    model's input; so uneven density gets tiles of several scales. No side is less than 5.6 radii of its heads: where
    circles are too large for the image's own side, one tile larger than the image has them all, and is padded.

    Tiles are laid from coarse to fine and each from the highest, then leftmost head that still waits. Each takes all
    heads that it holds with their circles and that want its side, or up to ``coarser_steps`` less, and is then centred
    on them. At last every head goes to the tile that holds its circle and whose centre is nearest, of its own side if
    there is one.

    Args:
        points_xy: (N, 2) float64, image pixels.
        radius_px: (N,) float64, image pixels.
        size_hw: Height and width of the image.
        model_px: Side of the model's input.
        min_radius_model_px: Wanted median radius in pixels of the model's input.
        max_magnification: A tile is never enlarged more than this; a smaller image is padded.
        coarser_steps: A head may go to a tile so many sides coarser than its own where one lies there anyway.

    Returns:
        The tiles, coarse to fine, then by row and column; each head in exactly one, which holds all of its circle that
        the image has; none without heads.
    """
    if len(points_xy) == 0:
        return []
    steps = _wanted_steps(points_xy, radius_px, max(size_hw), min_radius_model_px / model_px)
    spans = _Spans.of(points_xy, radius_px, size_hw)
    finest = int(np.ceil(model_px / max_magnification))
    sides, coarsest = (
        np.maximum(np.ceil(max(size_hw) / 2 ** (each / SCALES_PER_OCTAVE)), finest).astype(np.int64)
        for each in (steps, steps - coarser_steps)
    )
    places = _lay(spans, sides, coarsest)
    owner = _own(spans, sides, coarsest, places)
    tiles = [Tile(*place, np.flatnonzero(owner == number)) for number, place in enumerate(places)]
    return sorted((tile for tile in tiles if len(tile.rows)), key=lambda tile: (-tile.side_px, tile.y0, tile.x0))


@dataclass(frozen=True)
class _Spans:
    """What the circles cover of the image: (N, 2) xy of the bounding boxes' corners, at most to the image's edges."""

    low_xy: NDArray[np.float64]
    high_xy: NDArray[np.float64]
    size_wh: NDArray[np.int64]

    @classmethod
    def of(cls, points_xy: NDArray[np.float64], radius_px: NDArray[np.float64], size_hw: tuple[int, int]) -> "_Spans":
        size_wh = np.array(size_hw[::-1])
        low, high = points_xy - radius_px[:, None], points_xy + radius_px[:, None]
        return cls(np.clip(low, -0.5, size_wh - 0.5), np.clip(high, -0.5, size_wh - 0.5), size_wh)

    def held(self, x0: int, y0: int, side_px: int) -> NDArray[np.bool_]:
        """Which lie in a tile wholly: (N,)."""
        corner = np.array([x0, y0]) - 0.5
        return np.asarray(((self.low_xy >= corner) & (self.high_xy <= corner + side_px)).all(1))

    def first(self, rows: NDArray[np.bool_], axis: int, side_px: int) -> int:
        """Where a tile begins that holds the first of some circles along an axis at its edge."""
        return int(np.clip(np.floor(self.low_xy[rows, axis].min() + 0.5), 0, max(0, self.size_wh[axis] - side_px)))

    def centered(self, rows: NDArray[np.bool_], axis: int, side_px: int) -> int:
        """Where a tile begins that has some circles in its middle and holds them, as the tile :meth:`first` gives."""
        low, high = self.low_xy[rows, axis].min(), self.high_xy[rows, axis].max()
        wanted = np.clip(np.round((low + high - side_px + 1) / 2), np.ceil(high - side_px + 0.5), np.floor(low + 0.5))
        return int(np.clip(wanted, 0, max(0, self.size_wh[axis] - side_px)))


def _wanted_steps(
    points_xy: NDArray[np.float64], radius_px: NDArray[np.float64], longest: int, min_radius: float
) -> NDArray[np.float64]:
    """How many steps finer than the image each head wants its tile; ``min_radius`` in sides of a tile."""
    neighbors = min(NEIGHBORS, len(points_xy))
    _, nearest = KDTree(points_xy).query(points_xy, k=np.arange(1, neighbors + 1))
    local_radius = np.median(radius_px[nearest], axis=1)
    for_scale = np.ceil(SCALES_PER_OCTAVE * np.log2(longest * min_radius / local_radius) - 1e-9)
    for_circle = np.floor(SCALES_PER_OCTAVE * np.log2(longest / (RADII_PER_SIDE * radius_px)) + 1e-9)
    steps = np.minimum(np.maximum(for_scale, 0), for_circle)
    too_large = steps < 0
    if too_large.any():
        steps[too_large] = SCALES_PER_OCTAVE * np.log2(longest / (RADII_PER_SIDE * radius_px.max()))
    return np.asarray(steps)


def _lay(spans: _Spans, sides: NDArray[np.int64], coarsest: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Lay tiles (x0, y0, side) until each head's circle lies in one between its own side and its coarsest."""
    places = []
    waiting = np.ones(len(sides), bool)
    for side in np.unique(sides)[::-1].tolist():
        welcome = (sides <= side) & (coarsest >= side)
        while (due := waiting & (sides == side)).any():
            y0 = spans.first(due, 1, side)
            strip = due & (spans.high_xy[:, 1] <= y0 + side - 0.5)
            while strip.any():
                taken = waiting & welcome & spans.held(spans.first(strip, 0, side), y0, side)
                places.append((spans.centered(taken, 0, side), spans.centered(taken, 1, side), side))
                waiting &= ~taken
                strip &= ~taken
    return places


def _own(
    spans: _Spans, sides: NDArray[np.int64], coarsest: NDArray[np.int64], places: list[tuple[int, int, int]]
) -> NDArray[np.int64]:
    """Which tile each head goes to: (N,)."""
    owner = np.full(len(sides), -1)
    least = np.full(len(sides), np.inf)
    middle_xy = (spans.low_xy + spans.high_xy) / 2
    for number, (x0, y0, side) in enumerate(places):
        distance = np.hypot(*(middle_xy - [x0, y0] - (side - 1) / 2).T) / side + 2 * (sides != side)
        better = spans.held(x0, y0, side) & (sides <= side) & (coarsest >= side) & (distance < least)
        owner[better], least[better] = number, distance[better]
    return owner
