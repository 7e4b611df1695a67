import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.geometry.nnec import NnecFlag, NnecOptions, nnec_radii


def oracle(
    points_xy: NDArray[np.float64],
    size_hw: tuple[int, int],
    min_radius_px: float,
    max_radius_frac: float,
    radius_scale: float,
) -> tuple[list[float], list[float], list[set[str]]]:
    """Radii, distances to the nearest head elsewhere (inf without) and flags, straight from the definition."""
    height_px, width_px = size_hw
    largest_px = max(min_radius_px, max_radius_frac * min(height_px, width_px))
    radii, nearest, flags = [], [], []
    for i, (x, y) in enumerate(points_xy.tolist()):
        names = set()
        best = math.inf
        for j, (other_x, other_y) in enumerate(points_xy.tolist()):
            distance = math.sqrt((x - other_x) ** 2 + (y - other_y) ** 2)
            if distance > 0:
                best = min(best, distance)
            elif i != j:
                names.add("DUPLICATE")
        if not (0 <= x + 0.5 < width_px and 0 <= y + 0.5 < height_px):
            names.add("OUTSIDE")
        radius = largest_px
        if best == math.inf:
            names.add("ALONE")
        elif best * radius_scale < min_radius_px:
            radius = min_radius_px
            names.add("MIN_RADIUS")
        elif best * radius_scale > largest_px:
            names.add("MAX_RADIUS")
        else:
            radius = best * radius_scale
        radii.append(radius)
        nearest.append(best)
        flags.append(names)
    return radii, nearest, flags


def names(value: int) -> set[str]:
    return {str(flag.name) for flag in NnecFlag if value & flag}


DEFAULTS = NnecOptions()


def check_against_oracle(
    points_xy: NDArray[np.float64], size_hw: tuple[int, int], options: NnecOptions = DEFAULTS
) -> None:
    bounds = (options.min_radius_px, options.max_radius_frac, options.radius_scale)
    result = nnec_radii(
        points_xy, size_hw=size_hw, min_radius_px=bounds[0], max_radius_frac=bounds[1], radius_scale=bounds[2]
    )
    radii, nearest, flags = oracle(points_xy, size_hw, *bounds)
    np.testing.assert_allclose(result.radius_px, radii, rtol=1e-12)
    for i, (neighbor, distance) in enumerate(zip(result.neighbor_id.tolist(), nearest, strict=True)):
        if distance == math.inf:
            assert neighbor == -1
        else:
            assert math.dist(points_xy[i], points_xy[neighbor]) == pytest.approx(distance, rel=1e-12)
    assert [names(int(value)) for value in result.flags] == flags


WHOLE = st.integers(-20, 120).map(float)
FINE = st.floats(-50, 250, width=32)
"""Single precision: squares of such numbers do not underflow."""


@settings(max_examples=150, deadline=None)
@given(
    points=st.lists(st.tuples(WHOLE, WHOLE) | st.tuples(FINE, FINE), max_size=40),
    size_hw=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    options=st.builds(
        NnecOptions,
        min_radius_px=st.floats(0.5, 8),
        max_radius_frac=st.floats(0.05, 1),
        radius_scale=st.sampled_from([0.5, 1.0, 1.7]),
    ),
)
def test_equals_the_oracle(points: list[tuple[float, float]], size_hw: tuple[int, int], options: NnecOptions) -> None:
    check_against_oracle(np.array(points, np.float64).reshape(-1, 2), size_hw, options)


@settings(max_examples=60, deadline=None)
@given(points=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30), seed=st.integers(0, 99))
def test_many_duplicates_equal_the_oracle(points: list[tuple[int, int]], seed: int) -> None:
    points_xy = np.array(points, np.float64).reshape(-1, 2) * 9.7
    check_against_oracle(points_xy, (40, 40))
    order = np.random.default_rng(seed).permutation(len(points_xy))
    straight, shuffled = nnec_radii(points_xy, size_hw=(40, 40)), nnec_radii(points_xy[order], size_hw=(40, 40))
    assert np.array_equal(straight.radius_px[order], shuffled.radius_px)
    assert np.array_equal(straight.flags[order], shuffled.flags)


@pytest.mark.parametrize(
    ("points", "radii", "neighbors", "flags"),
    [
        ([], [], [], []),
        ([(50, 50)], [25.0], [-1], [{"ALONE"}]),
        ([(10, 10), (13, 14)], [5.0, 5.0], [1, 0], [set(), set()]),
        ([(10, 10), (11, 10)], [3.0, 3.0], [1, 0], [{"MIN_RADIUS"}, {"MIN_RADIUS"}]),
        ([(0, 0), (99, 99)], [25.0, 25.0], [1, 0], [{"MAX_RADIUS"}, {"MAX_RADIUS"}]),
        ([(7, 7), (7, 7)], [25.0, 25.0], [-1, -1], [{"ALONE", "DUPLICATE"}, {"ALONE", "DUPLICATE"}]),
        ([(7, 7), (7, 17), (7, 7)], [10.0, 10.0, 10.0], [1, None, 1], [{"DUPLICATE"}, set(), {"DUPLICATE"}]),
        ([(-1, 50), (9, 50)], [10.0, 10.0], [1, 0], [{"OUTSIDE"}, set()]),
        ([(140, 50), (130, 50)], [10.0, 10.0], [1, 0], [{"OUTSIDE"}, set()]),
    ],
)
def test_literal_values(
    points: list[tuple[float, float]], radii: list[float], neighbors: list[int | None], flags: list[set[str]]
) -> None:
    result = nnec_radii(np.array(points, np.float64).reshape(-1, 2), size_hw=(100, 140))
    assert result.radius_px.tolist() == radii
    assert [n for n, e in zip(result.neighbor_id.tolist(), neighbors, strict=True) if e is not None] == [
        e for e in neighbors if e is not None
    ]
    assert [names(int(value)) for value in result.flags] == flags
    assert len(result) == len(points)


def test_the_least_radius_wins_in_a_tiny_image() -> None:
    result = nnec_radii(np.array([[0.0, 0.0], [0.2, 0.0]]), size_hw=(1, 1))
    assert result.radius_px.tolist() == [3.0, 3.0]
    assert nnec_radii(np.zeros((1, 2)), size_hw=(1, 1)).radius_px.tolist() == [3.0]


def test_half_scale_makes_circles_disjoint() -> None:
    points_xy = np.random.default_rng(3).uniform(0, 1000, (400, 2))
    radius_px = nnec_radii(points_xy, size_hw=(1000, 1000), radius_scale=0.5, min_radius_px=1e-6).radius_px
    distances_px = np.linalg.norm(points_xy[:, None] - points_xy[None], axis=2)
    np.fill_diagonal(distances_px, np.inf)
    assert (distances_px >= (radius_px[:, None] + radius_px[None]) * (1 - 1e-12)).all()


def test_no_circle_holds_another_head_in_its_interior() -> None:
    points_xy = np.random.default_rng(4).uniform(0, 300, (300, 2))
    radius_px = nnec_radii(points_xy, size_hw=(300, 300), min_radius_px=1e-6, max_radius_frac=1).radius_px
    distances_px = np.linalg.norm(points_xy[:, None] - points_xy[None], axis=2)
    np.fill_diagonal(distances_px, np.inf)
    assert (distances_px.min(axis=1) >= radius_px * (1 - 1e-12)).all()


def test_points_are_not_changed() -> None:
    points_xy = np.array([[1.0, 2.0], [1.0, 2.0], [-0.0, 3.0]])
    before = points_xy.copy()
    nnec_radii(points_xy, size_hw=(10, 10))
    assert np.array_equal(points_xy, before)


@pytest.mark.parametrize(
    ("points_xy", "change", "match"),
    [
        (np.zeros((2, 3)), {}, r"points_xy must have shape \(N, 2\), got \(2, 3\)"),
        (np.zeros(4), {}, r"points_xy must have shape"),
        (np.array([[np.nan, 0.0]]), {}, "points_xy must be finite"),
        (np.array([[np.inf, 0.0]]), {}, "points_xy must be finite"),
        (np.zeros((1, 2)), {"size_hw": (0, 5)}, r"size_hw must be positive, got \(0, 5\)"),
        (np.zeros((1, 2)), {"min_radius_px": 0}, "min_radius_px must be a finite number above 0, got 0"),
        (np.zeros((1, 2)), {"max_radius_frac": -1}, "max_radius_frac must be a finite number above 0, got -1"),
        (np.zeros((1, 2)), {"radius_scale": math.nan}, "radius_scale must be a finite number above 0, got nan"),
    ],
)
def test_mistakes_are_refused(points_xy: NDArray[np.float64], change: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        nnec_radii(points_xy, **{"size_hw": (10, 10), **change})  # type: ignore[arg-type]
