import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.geometry.nnec import nnec_radii
from pipeline.geometry.tiles import NEIGHBORS, RADII_PER_SIDE, SCALES_PER_OCTAVE, Tile, plan_tiles


def plan(points_xy, radius_px, size_hw, *, model_px=256, min_radius_model_px=5.0, max_magnification=4.0) -> list[Tile]:
    return plan_tiles(
        np.asarray(points_xy, np.float64).reshape(-1, 2),
        np.asarray(radius_px, np.float64),
        size_hw=size_hw,
        model_px=model_px,
        min_radius_model_px=min_radius_model_px,
        max_magnification=max_magnification,
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


CROWDS = st.tuples(
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.sampled_from([(256, 5.0), (1024, 12.0)]),
    st.sampled_from([1.0, 2.5, 4.0]),
)


@settings(max_examples=120, deadline=None)
@given(CROWDS)
def test_every_rule_of_the_plan(crowd) -> None:
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
    )
    assert sorted(row for tile in tiles for row in tile.rows) == list(range(count))
    longest, finest = max(size_hw), math.ceil(model_px / magnification)
    medians = local_medians(points_xy, radius_px)
    for tile in tiles:
        assert len(tile.rows) > 0
        assert list(tile.rows) == sorted(tile.rows)
        assert model_px / tile.side_px <= magnification
        assert 0 <= tile.x0 <= max(0, size_hw[1] - tile.side_px)
        assert 0 <= tile.y0 <= max(0, size_hw[0] - tile.side_px)
        halved = [math.ceil(longest / 2 ** (k / SCALES_PER_OCTAVE)) for k in range(24)]
        assert tile.side_px == finest or (tile.side_px in halved and tile.side_px > finest)
        largest = max(radius_px[tile.rows])
        for row in tile.rows:
            x, y = np.clip(points_xy[row], 0, [size_hw[1] - 1, size_hw[0] - 1])
            assert -0.5 <= x - tile.x0 <= tile.side_px - 0.5
            assert -0.5 <= y - tile.y0 <= tile.side_px - 0.5
            assert tile.side_px >= min(longest, RADII_PER_SIDE * radius_px[row]) - 1e-6
            seen_px = medians[row] * model_px / tile.side_px
            # As large as wanted (sides are rounded up), unless magnification or the circle's own room forbid it.
            at_bound = (
                tile.side_px == finest
                or tile.side_px < 2 ** (1 / SCALES_PER_OCTAVE) * RADII_PER_SIDE * radius_px[row] + 1
            )
            assert at_bound or seen_px >= min_radius * (1 - 1 / tile.side_px) - 1e-9
            if 2 * largest + 1 <= tile.side_px // 2:
                assert held_share(tile, *points_xy[row], radius_px[row], size_hw) == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(CROWDS)
def test_no_sibling_holds_more_of_a_circle(crowd) -> None:
    seed, count, size_hw, (model_px, min_radius), _ = crowd
    rng = np.random.default_rng(seed)
    points_xy = rng.uniform(0, 1, (count, 2)) * size_hw[::-1]
    radius_px = nnec_radii(points_xy, size_hw=size_hw).radius_px
    tiles = plan(points_xy, radius_px, size_hw, model_px=model_px, min_radius_model_px=min_radius)
    for tile in tiles:
        siblings = [other for other in tiles if other.side_px == tile.side_px]
        for row in tile.rows:
            own = held_share(tile, *points_xy[row], radius_px[row], size_hw)
            most = max(held_share(other, *points_xy[row], radius_px[row], size_hw) for other in siblings)
            assert own >= most - 2 * 1.5 / (2 * radius_px[row])  # pixels are whole: up to one on each axis


def test_uneven_density_gets_several_scales() -> None:
    far = np.stack(np.meshgrid(np.arange(100, 300, 8.0), np.arange(20, 60, 8.0)), -1).reshape(-1, 2)
    near = np.stack(np.meshgrid(np.arange(700, 1900, 150.0), np.arange(500, 1000, 150.0)), -1).reshape(-1, 2)
    points_xy = np.concatenate([far, near])
    radius_px = nnec_radii(points_xy, size_hw=(1080, 1920)).radius_px
    tiles = plan(points_xy, radius_px, (1080, 1920))
    side_of = {int(row): tile.side_px for tile in tiles for row in tile.rows}
    assert {side_of[row] for row in range(len(far))} == {340}  # 1920 / 4√2; 8 px circles: at most 8 · 256 / 5 = 410 px
    assert {side_of[row] for row in range(len(far), len(points_xy))} == {1920}
    assert [tile.side_px for tile in tiles] == sorted((tile.side_px for tile in tiles), reverse=True)


@pytest.mark.parametrize(
    ("size_hw", "radius", "side"),
    [
        ((400, 1000), 20.0, 1000),  # 20 px are 5.12 of the model's
        ((400, 1000), 19.0, 708),  # 1000 / √2
        ((400, 1000), 3.0, 125),
        ((100, 100), 3.0, 100),
        ((127, 90), 3.0, 127),
        ((600, 800), 1.5, 71),  # at most 76.8 px; 800 / 8√2
        ((600, 800), 1.1, 64),  # 50 would be seen more than four times enlarged
        ((1, 1), 3.0, 64),
    ],
)
def test_literal_sides(size_hw, radius, side) -> None:
    (tile,) = plan([[size_hw[1] / 2, size_hw[0] / 2]], [radius], size_hw)
    assert tile.side_px == side
    assert tile.rows.tolist() == [0]


def test_a_circle_keeps_room_in_a_dense_crowd() -> None:
    points_xy = np.array([[200.0 + 3 * k, 200.0] for k in range(12)])
    radius_px = np.array([3.0] * 11 + [90.0])
    tiles = plan(points_xy, radius_px, (512, 512))
    side_of = {int(row): tile.side_px for tile in tiles for row in tile.rows}
    assert side_of == {**dict.fromkeys(range(11), 128), 11: 512}


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
