import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from pipeline.evaluation.localization import LocalizationCounts, match_points


def plain_matches(predicted_xy: np.ndarray, true_xy: np.ndarray, reach_px: np.ndarray) -> int:
    near = np.linalg.norm(true_xy[:, None] - predicted_xy[None], axis=2) <= reach_px[:, None]
    return int(near[linear_sum_assignment(near, maximize=True)].sum())


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(0, 12))
def test_matching_is_the_largest_there_is(seed: int, n_predicted: int, n_true: int) -> None:
    rng = np.random.default_rng(seed)
    predicted_xy, true_xy = rng.random((n_predicted, 2)) * 20, rng.random((n_true, 2)) * 20
    reach_px = rng.random(n_true) * 8
    found = match_points(predicted_xy, true_xy, reach_px=reach_px)
    assert found == LocalizationCounts(plain_matches(predicted_xy, true_xy, reach_px), n_predicted, n_true)
    same = match_points(predicted_xy, true_xy, reach_px=4.0)
    assert same.n_matched == plain_matches(predicted_xy, true_xy, np.full(n_true, 4.0))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_a_box_takes_the_place_of_the_reach(seed: int, n_predicted: int, n_true: int) -> None:
    rng = np.random.default_rng(seed)
    predicted_xy, true_xy = rng.integers(0, 12, (n_predicted, 2)) * 1.0, rng.integers(0, 12, (n_true, 2)) * 1.0
    reach_px, box_wh_px = rng.random(n_true) * 6, rng.choice([np.nan, 0, 1, 2, 6, 9], (n_true, 2))
    near = np.zeros((n_true, n_predicted), dtype=bool)
    for t, ((x, y), (width, height)) in enumerate(zip(true_xy, box_wh_px, strict=True)):
        for p, (px, py) in enumerate(predicted_xy):
            if width > 0 and height > 0:
                near[t, p] = x - width / 2 <= px <= x + width / 2 and y - height / 2 <= py <= y + height / 2
            else:
                near[t, p] = math.hypot(px - x, py - y) <= reach_px[t]
    found = match_points(predicted_xy, true_xy, reach_px=reach_px, box_wh_px=box_wh_px)
    assert found.n_matched == near[linear_sum_assignment(near, maximize=True)].sum()


def test_a_long_box_reaches_along_itself_only() -> None:
    true_xy, box = np.array([[10.0, 10.0]]), np.array([[8.0, 2.0]])
    for predicted, n_matched in (((14.0, 11.0), 1), ((14.1, 10.0), 0), ((10.0, 11.5), 0)):
        assert match_points(np.array([predicted]), true_xy, reach_px=50, box_wh_px=box).n_matched == n_matched


def test_each_point_is_used_once() -> None:
    found = match_points(np.array([[0.0, 0], [0, 1]]), np.array([[0.0, 0.5]]), reach_px=4)
    assert (found.precision, found.recall, found.f1) == (0.5, 1.0, pytest.approx(2 / 3))


def test_the_reach_belongs_to_the_match() -> None:
    points = np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]])
    assert match_points(*points, reach_px=5.0).n_matched == 1
    assert match_points(*points, reach_px=4.999).n_matched == 0


def test_nothing_to_match() -> None:
    none = np.zeros((0, 2))
    found = match_points(none, none, reach_px=4)
    assert np.isnan([found.precision, found.recall, found.f1]).all()
    assert match_points(none, np.zeros((2, 2)), reach_px=4).f1 == 0
    assert math.isnan(match_points(none, np.zeros((2, 2)), reach_px=4).precision)


def test_counts_add_up() -> None:
    assert LocalizationCounts(1, 2, 3) + LocalizationCounts(4, 5, 6) == LocalizationCounts(5, 7, 9)


def test_a_reach_for_each_true_point_or_one_for_all() -> None:
    with pytest.raises(ValueError, match=r"one for each of 2 true points, got shape \(3,\)"):
        match_points(np.zeros((1, 2)), np.zeros((2, 2)), reach_px=np.ones(3))


def test_a_box_for_each_true_point() -> None:
    with pytest.raises(ValueError, match=r"box_wh_px: expected shape \(2, 2\), got \(1, 2\)"):
        match_points(np.zeros((1, 2)), np.zeros((2, 2)), reach_px=4, box_wh_px=np.ones((1, 2)))
