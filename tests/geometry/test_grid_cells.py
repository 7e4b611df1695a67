import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geometry.grid_cells import grid_cells


@pytest.mark.parametrize(
    ("point", "cell"),
    [
        ((0.0, 0.0), (0, 0)),
        ((15.0, 0.0), (0, 0)),  # the last pixel centre of the first of four cells in 64 px
        ((15.49, 15.49), (0, 1)),
        ((15.5, 7.5), (1, 1)),  # the edges between cells belong to the next
        ((63.0, 31.0), (3, 3)),
        ((63.5, 31.5), (3, 3)),
        ((500.0, -9.0), (3, 0)),
        ((-0.5, 99.0), (0, 3)),
    ],
)
def test_a_point_and_its_cell(point: tuple[float, float], cell: tuple[int, int]) -> None:
    assert grid_cells(torch.tensor([point]), padded_hw=(32, 64), grids=(4,)).tolist() == [[list(cell)]]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-50, 150), st.floats(-50, 150)), max_size=5),
    st.lists(st.integers(1, 90), min_size=1, max_size=4),
)
def test_every_level_has_its_own_grid(points: list[tuple[float, float]], grids: list[int]) -> None:

    def nearest(value: float, side: int, grid: int) -> int:
        return min(max(math.floor((value + 0.5) / side * grid), 0), grid - 1)

    cells = grid_cells(torch.tensor(points, dtype=torch.float64).reshape(-1, 2), padded_hw=(64, 96), grids=grids)
    assert cells.tolist() == [[[nearest(x, 96, grid), nearest(y, 64, grid)] for grid in grids] for x, y in points]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_points_that_are_nowhere_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="points_xy: expected finite coordinates; mend the annotation"):
        grid_cells(torch.tensor([[1.0, bad]]), padded_hw=(32, 32), grids=(4,))
