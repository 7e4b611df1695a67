import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline.datasets.mask_points import PointRule, central_point
from pipeline.masks.rle import Window

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9)).filter(lambda mask: bool(mask.any()))


def plain_depths(mask: np.ndarray) -> dict[tuple[int, int], float]:
    """Distance of every pixel of the mask to the nearest pixel outside, one pair at a time."""
    padded = np.pad(mask, 1)
    outside = np.argwhere(~padded) - 1
    return {(x, y): min(np.hypot(x - column, y - row) for row, column in outside) for y, x in np.argwhere(mask)}


@given(MASKS)
def test_the_point_is_the_mass_centre_or_the_innermost_pixel(mask: np.ndarray) -> None:
    pixels = np.argwhere(mask).astype(float)
    mean_y, mean_x = pixels.mean(axis=0)
    x, y = central_point(mask)
    # a centre between two pixels lies on both
    near_x = {int(np.floor(mean_x + 0.5)), int(np.ceil(mean_x - 0.5))}
    near_y = {int(np.floor(mean_y + 0.5)), int(np.ceil(mean_y - 0.5))}
    if all(mask[row, column] for row in near_y for column in near_x):
        assert (x, y) == (pytest.approx(mean_x), pytest.approx(mean_y))
        return
    depths = plain_depths(mask)
    deepest = [one for one, depth in depths.items() if depth > max(depths.values()) - 1e-4]
    assert (x, y) in deepest
    away = {one: np.hypot(one[0] - mean_x, one[1] - mean_y) for one in deepest}
    assert away[(int(x), int(y))] == pytest.approx(min(away.values()))


def test_a_ring_has_its_point_on_itself() -> None:
    rows, columns = np.ogrid[:21, :21]
    away = np.hypot(columns - 10, rows - 10)
    ring = (away <= 9) & (away > 4)
    x, y = central_point(ring)
    assert ring[int(y), int(x)]
    assert 5.5 <= np.hypot(x - 10, y - 10) <= 8
    disc = away <= 9
    assert central_point(disc) == (10, 10)


WINDOWS = [
    Window(np.array([[0, 1], [1, 1]], np.bool_), 30, 40),
    Window(np.zeros((0, 0), np.bool_), 0, 0),
    Window(np.ones((4, 2), np.bool_), 3, 0),
]


def test_points_are_in_the_pixels_of_the_image() -> None:
    points_xy = PointRule().points_of(WINDOWS, "a")
    np.testing.assert_allclose(points_xy[0], [30 + 2 / 3, 40 + 2 / 3])
    assert np.isnan(points_xy[1]).all()
    np.testing.assert_array_equal(points_xy[2], [3.5, 1.5])


@given(MASKS, st.integers(0, 2**40))
def test_random_points_lie_in_their_mask(mask: np.ndarray, seed: int) -> None:
    ((x, y),) = PointRule("random", seed).points_of([Window(mask, 7, 5)], "a")
    assert mask[int(y) - 5, int(x) - 7]


def test_every_pixel_is_as_likely() -> None:
    window = WINDOWS[0]
    drawn = [tuple(PointRule("random", seed).points_of([window], "a")[0]) for seed in range(600)]
    counts = [drawn.count(pixel) for pixel in ((31, 40), (30, 41), (31, 41))]
    assert sum(counts) == 600
    assert min(counts) > 150


def test_a_random_point_depends_on_its_seed_image_and_row_alone() -> None:
    rule, large = PointRule("random", 3), Window(np.ones((50, 50), np.bool_), 0, 0)
    first = rule.points_of([large, large], "a")
    assert np.array_equal(rule.points_of([large, large, large], "a")[:2], first)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(rule.points_of([large], "b"), first[:1])
    assert not np.array_equal(PointRule("random", 4).points_of([large], "a"), first[:1])


@pytest.mark.parametrize(("options", "match"), [(("middle",), "one of center, random"), (("random", -1), "at least 0")])
def test_options_out_of_range_are_refused(options: tuple[object, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        PointRule(*options)  # type: ignore[arg-type]
