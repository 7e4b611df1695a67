"""Contested pixels and components, of :mod:`pipeline.annotators.exclusion`."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotators import exclusion
from pipeline.annotators.exclusion import disc_window, head_component, keep_apart
from pipeline.masks.rle import Window


def random_windows(rng, count, size_hw):
    windows, strength = [], []
    points_xy = rng.uniform(0, 1, (count, 2)) * size_hw[::-1]
    for x, y in points_xy:
        disc = disc_window(x, y, float(rng.uniform(3, 9)), size_hw)
        windows.append(Window(disc.mask & (rng.random(disc.mask.shape) < 0.9), disc.x0, disc.y0))
        strength.append(rng.integers(0, 3, disc.mask.shape).astype(np.float32))
    return windows, strength, points_xy, rng.uniform(3, 9, count)


def paint(windows, size_hw):
    masks = np.zeros((len(windows), *size_hw), bool)
    for row, (mask, x0, y0) in enumerate(windows):
        masks[row, y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]] = mask
    return masks


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_kept_apart_whatever_the_order(seed, count) -> None:
    rng, size_hw = np.random.default_rng(seed), (30, 40)
    windows, strength, points_xy, radius_px = random_windows(rng, count, size_hw)
    apart = paint(keep_apart(windows, strength, points_xy, radius_px, size_hw), size_hw)
    assert apart.sum(0).max(initial=0) <= 1
    assert not (apart & ~paint(windows, size_hw)).any()
    order = rng.permutation(count)
    again = keep_apart(
        [windows[k] for k in order], [strength[k] for k in order], points_xy[order], radius_px[order], size_hw
    )
    np.testing.assert_array_equal(paint(again, size_hw), apart[order])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_contested_pixel_goes_where_the_rule_says(seed) -> None:
    rng, size_hw = np.random.default_rng(seed), (30, 40)
    windows, strength, points_xy, radius_px = random_windows(rng, 5, size_hw)
    apart = paint(keep_apart(windows, strength, points_xy, radius_px, size_hw), size_hw)
    claims = paint(windows, size_hw)
    for y, x in np.argwhere(claims.any(0)):
        claimants = np.flatnonzero(claims[:, y, x])
        key = [
            (
                -float(strength[k][y - windows[k].y0, x - windows[k].x0]),
                np.float32(math.hypot(x - points_xy[k, 0], y - points_xy[k, 1]) / radius_px[k]),
            )
            for k in claimants
        ]
        winner = claimants[min(range(len(key)), key=lambda index: key[index])]
        # A pixel cut off from its head belongs to nobody.
        assert set(np.flatnonzero(apart[:, y, x])) <= {winner}


def test_ties_go_to_the_smaller_relative_distance_then_to_the_earlier_row() -> None:
    whole = [Window(np.ones((1, 11), bool), 0, 0)] * 2
    even = [np.zeros((1, 11), np.float32)] * 2
    points_xy = np.array([[0.0, 0.0], [10.0, 0.0]])
    first, second = keep_apart(whole, even, points_xy, np.array([6.0, 4.0]), (1, 11))
    assert first.mask[0].tolist() == [True] * 7 + [False] * 4  # at x = 6: 6/6 against 4/4
    assert second.mask[0].tolist() == [False] * 7 + [True] * 4
    first, second = keep_apart(whole, even, points_xy[[0, 0]], np.array([6.0, 6.0]), (1, 11))
    assert first.mask.all()
    assert not second.mask.any()


@pytest.mark.parametrize(
    ("picture", "head", "fill_holes", "kept"),
    [
        (["##.#", "##.#"], (0, 0), False, ["##..", "##.."]),
        (["##.#", "##.#"], (3, 1), False, ["...#", "...#"]),
        (["##.#", "##.#"], (2.4, 0), False, ["...#", "...#"]),
        (["#...", ".#.."], (0, 0), False, ["#...", "...."]),  # corners do not connect
        (["###.", "#.#.", "###."], (1, 1), True, ["###.", "###.", "###."]),
        (["###.", "#.#.", "###."], (1, 1), False, ["###.", "#.#.", "###."]),
        (["....", "...."], (1, 1), True, ["....", "...."]),
    ],
)
def test_head_component(picture, head, fill_holes, kept) -> None:
    mask = np.array([[cell == "#" for cell in row] for row in picture])
    expected = np.array([[cell == "#" for cell in row] for row in kept])
    np.testing.assert_array_equal(head_component(mask, *head, fill_holes=fill_holes), expected)


@pytest.mark.parametrize("block_px", [7, 16])
def test_blocks_do_not_show(monkeypatch, block_px) -> None:
    rng, size_hw = np.random.default_rng(1), (30, 40)
    windows, strength, points_xy, radius_px = random_windows(rng, 14, size_hw)
    whole = paint(keep_apart(windows, strength, points_xy, radius_px, size_hw), size_hw)
    monkeypatch.setattr(exclusion, "BLOCK_PX", block_px)
    np.testing.assert_array_equal(paint(keep_apart(windows, strength, points_xy, radius_px, size_hw), size_hw), whole)
