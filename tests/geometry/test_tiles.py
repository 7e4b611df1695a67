import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.geometry.nnec import nnec_radii
from pipeline.geometry.tiles import NEIGHBORS, RADII_PER_SIDE, SCALES_PER_OCTAVE, Tile, plan_tiles


def plan(
    points_xy, radius_px, size_hw, *, model_px=256, min_radius_model_px=5.0, max_magnification=4.0, coarser=0
) -> list[Tile]:
    return plan_tiles(
        np.asarray(points_xy, np.float64).reshape(-1, 2),
        np.asarray(radius_px, np.float64),
        size_hw=size_hw,
        model_px=model_px,
        min_radius_model_px=min_radius_model_px,
        max_magnification=max_magnification,
        coarser_steps=coarser,
    )


def held_share(tile: Tile, x: float, y: float, radius: float, size_hw: tuple[int, int]) -> float:
    """Share of a circle's bounding square, clipped to the image, that lies in a tile."""
    share = 1.0
    for center, start, length in ((x, tile.x0, size_hw[1]), (y, tile.y0, size_hw[0])):
        low, high = max(center - radius, -0.5), min(center + radius, length - 0.5)
        held = min(high, start + tile.side_px - 0.5) - max(low, start - 0.5)
        share *= max(0.0, held) / (high - low) if high > low else 1.0
    return share


def local_medians(points_xy: NDArray[np.float64], radius_px: NDArray[np.float64]) -> list[float]:
    """Median radius of each head and those nearest to it, nine in all."""
    medians = []
    for point in points_xy:
        order = np.argsort(((points_xy - point) ** 2).sum(1), kind="stable")
        medians.append(float(np.median(radius_px[order[:NEIGHBORS]])))
    return medians


STEP = 2 ** (1 / SCALES_PER_OCTAVE)
CROWDS = st.tuples(
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.sampled_from([(256, 5.0), (1024, 12.0)]),
    st.sampled_from([1.0, 2.5, 4.0]),
)


@settings(max_examples=120, deadline=None)
@given(CROWDS, st.integers(0, 2))
def test_every_rule_of_the_plan(crowd, coarser) -> None:
    seed, count, size_hw, (model_px, min_radius), magnification = crowd
    rng = np.random.default_rng(seed)
    points_xy = rng.normal(0.5, rng.choice([0.05, 0.2, 0.4]), (count, 2)) * size_hw[::-1]
    radius_px = nnec_radii(points_xy, size_hw=size_hw, max_radius_frac=0.25).radius_px
    tiles = plan(
        points_xy,
        radius_px,
        size_hw,
        model_px=model_px,
        min_radius_model_px=min_radius,
        max_magnification=magnification,
        coarser=coarser,
    )
    assert sorted(row for tile in tiles for row in tile.rows) == list(range(count))
    longest, finest = max(size_hw), math.ceil(model_px / magnification)
    medians = local_medians(points_xy, radius_px)
    slack = STEP**coarser
    for tile in tiles:
        assert len(tile.rows) > 0
        assert list(tile.rows) == sorted(tile.rows)
        assert model_px / tile.side_px <= magnification
        assert 0 <= tile.x0 <= max(0, size_hw[1] - tile.side_px)
        assert 0 <= tile.y0 <= max(0, size_hw[0] - tile.side_px)
        halved = [math.ceil(longest / 2 ** (k / SCALES_PER_OCTAVE)) for k in range(24)]
        assert tile.side_px == finest or tile.side_px > longest or (tile.side_px in halved and tile.side_px > finest)
        if tile.side_px > longest:
            assert tile.side_px <= max(finest, slack * RADII_PER_SIDE * max(radius_px) + 1)
        for row in tile.rows:
            x, y = np.clip(points_xy[row], 0, [size_hw[1] - 1, size_hw[0] - 1])
            assert -0.5 <= x - tile.x0 <= tile.side_px - 0.5
            assert -0.5 <= y - tile.y0 <= tile.side_px - 0.5
            assert tile.side_px >= RADII_PER_SIDE * radius_px[row] - 1e-6
            # As large as wanted (sides are rounded up), unless magnification or the circle's own room forbid it.
            seen_px = medians[row] * model_px / tile.side_px
            at_bound = tile.side_px == finest or tile.side_px > longest
            at_bound |= tile.side_px < slack * STEP * RADII_PER_SIDE * radius_px[row] + 2
            assert at_bound or seen_px >= min_radius / slack * (1 - 2 / tile.side_px) - 1e-9
            assert held_share(tile, *points_xy[row], radius_px[row], size_hw) == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(CROWDS)
def test_the_nearest_tile_of_a_heads_own_side_has_it(crowd) -> None:
    seed, count, size_hw, (model_px, min_radius), _ = crowd
    rng = np.random.default_rng(seed)
    points_xy = rng.uniform(0, 1, (count, 2)) * size_hw[::-1]
    radius_px = nnec_radii(points_xy, size_hw=size_hw).radius_px
    tiles = plan(points_xy, radius_px, size_hw, model_px=model_px, min_radius_model_px=min_radius)
    low_xy, high_xy = (
        np.clip(points_xy + sign * radius_px[:, None], -0.5, np.array(size_hw[::-1]) - 0.5) for sign in (-1, 1)
    )
    for tile in tiles:
        for other in tiles:
            if other.side_px == tile.side_px:
                for row in tile.rows:
                    middle = (low_xy[row] + high_xy[row]) / 2 - (tile.side_px - 1) / 2
                    held = held_share(other, *points_xy[row], radius_px[row], size_hw) > 1 - 1e-9
                    nearer = (
                        np.hypot(*(middle - [other.x0, other.y0])) < np.hypot(*(middle - [tile.x0, tile.y0])) - 1e-6
                    )
                    assert not (held and nearer)


def test_a_head_alone_lies_in_the_middle_of_its_tile() -> None:
    points_xy = np.array([[300.0, 400.0], [950.0, 410.0], [5.0, 990.0]])
    tiles = plan(points_xy, [20.0, 20.0, 20.0], (1000, 1000), min_radius_model_px=20.0)
    assert [(tile.x0, tile.y0, tile.side_px, tile.rows.tolist()) for tile in tiles] == [
        (176, 276, 250, [0]),  # 300 - 249 / 2, to the even one
        (750, 286, 250, [1]),
        (0, 750, 250, [2]),
    ]


def test_a_dense_grid_is_covered_by_few_tiles() -> None:
    points_xy = np.stack(np.meshgrid(np.arange(20, 2000, 20.0), np.arange(20, 2000, 20.0)), -1).reshape(-1, 2)
    tiles = plan(points_xy, np.full(len(points_xy), 20.0), (2000, 2000), min_radius_model_px=10.0)
    (side,) = {tile.side_px for tile in tiles}
    assert side == 500
    assert len(tiles) == 25  # each begins 40 px, a circle's width, before the other ends; 16 would leave no overlap


def test_uneven_density_gets_several_scales() -> None:
    far = np.stack(np.meshgrid(np.arange(100, 300, 8.0), np.arange(20, 60, 8.0)), -1).reshape(-1, 2)
    near = np.stack(np.meshgrid(np.arange(700, 1900, 150.0), np.arange(500, 1000, 150.0)), -1).reshape(-1, 2)
    points_xy = np.concatenate([far, near])
    radius_px = nnec_radii(points_xy, size_hw=(1080, 1920)).radius_px
    tiles = plan(points_xy, radius_px, (1080, 1920))
    side_of = {int(row): tile.side_px for tile in tiles for row in tile.rows}
    assert {side_of[row] for row in range(len(far))} == {
        381
    }  # 1920 / 2^(7/3); 8 px circles: at most 8 · 256 / 5 = 410 px
    assert {side_of[row] for row in range(len(far), len(points_xy))} == {1920}
    assert [tile.side_px for tile in tiles] == sorted((tile.side_px for tile in tiles), reverse=True)


@pytest.mark.parametrize(
    ("size_hw", "radius", "side"),
    [
        ((400, 1000), 20.0, 1000),  # 20 px are 5.12 of the model's
        ((400, 1000), 19.0, 794),  # 1000 / 2^(1/3)
        ((400, 1000), 3.0, 125),
        ((100, 100), 3.0, 100),
        ((127, 90), 3.0, 127),
        ((600, 800), 1.5, 64),  # at most 76.8 px; 800 / 2^(11/3) is 63
        ((600, 800), 1.1, 64),  # 50 would be seen more than four times enlarged
        ((1, 1), 3.0, 64),
        ((300, 400), 75.0, 420),  # 5.6 radii
        ((300, 400), 68.0, 400),
    ],
)
def test_literal_sides(size_hw, radius, side) -> None:
    (tile,) = plan([[size_hw[1] / 2, size_hw[0] / 2]], [radius], size_hw)
    assert tile.side_px == side
    assert tile.rows.tolist() == [0]


def test_circles_too_large_for_the_image_share_a_tile() -> None:
    tiles = plan(
        [[50.0, 60.0], [250.0, 60.0], [160.0, 200.0]], [60.0, 75.0, 20.0], (240, 320), min_radius_model_px=20.0
    )
    assert [(tile.x0, tile.y0, tile.side_px, tile.rows.tolist()) for tile in tiles] == [
        (0, 0, 420, [0, 1]),
        (0, 0, 320, [2]),
    ]


def test_coarser_tiles_are_shared() -> None:
    rng = np.random.default_rng(0)
    points_xy = rng.uniform(0, 2000, (400, 2))
    radius_px = nnec_radii(points_xy, size_hw=(2000, 2000)).radius_px
    plans = [plan(points_xy, radius_px, (2000, 2000), min_radius_model_px=16.0, coarser=steps) for steps in range(3)]
    side_of = [{int(row): tile.side_px for tile in tiles for row in tile.rows} for tiles in plans]
    assert len(plans[0]) > 1.3 * len(plans[1]) > 1.3 * len(plans[2])
    for steps in (1, 2):
        ratios = [side_of[steps][row] / side_of[0][row] for row in range(400)]
        assert 1 <= min(ratios) < max(ratios) <= STEP**steps * 1.01


def test_a_circle_keeps_room_in_a_dense_crowd() -> None:
    points_xy = np.array([[200.0 + 3 * k, 200.0] for k in range(12)])
    radius_px = np.array([3.0] * 11 + [90.0])
    tiles = plan(points_xy, radius_px, (512, 512))
    side_of = {int(row): tile.side_px for tile in tiles for row in tile.rows}
    assert side_of == {**dict.fromkeys(range(11), 128), 11: 512}  # 5.6 radii


def test_no_heads_no_tiles() -> None:
    assert plan(np.zeros((0, 2)), [], (480, 640)) == []


@pytest.mark.parametrize("point", [(-500.0, -3.0), (1e5, 1e5), (320.0, -40.0)])
def test_a_point_outside_goes_to_the_nearest_tile(point) -> None:
    inside = np.stack(np.meshgrid(np.arange(4, 640, 8.0), np.arange(4, 480, 8.0)), -1).reshape(-1, 2)
    points_xy = np.concatenate([inside, [point]])
    radius_px = np.full(len(points_xy), 8.0)
    tiles = plan(points_xy, radius_px, (480, 640))
    owner = next(tile for tile in tiles if len(inside) in tile.rows)
    x, y = np.clip(point, 0, [639, 479])
    assert owner.x0 <= x < owner.x0 + owner.side_px
    assert owner.y0 <= y < owner.y0 + owner.side_px
