import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment

from pipeline.evaluation.instance_iou import (
    MatchResult,
    Overlaps,
    label_map_overlaps,
    match_overlaps,
    matched_mean_iou,
    pool_matches,
)

SHAPES = st.tuples(st.integers(0, 9), st.integers(1, 9))


def dense_ious(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels_p, labels_t = (np.unique(each[each > 0]) for each in (predicted, true))
    ious = np.zeros((len(labels_p), len(labels_t)))
    for i, p in enumerate(labels_p):
        for j, t in enumerate(labels_t):
            ious[i, j] = ((predicted == p) & (true == t)).sum() / ((predicted == p) | (true == t)).sum()
    return labels_p, labels_t, ious


@st.composite
def map_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(SHAPES)
    labels = st.sampled_from([0, 1, 2, 3, 5, 9])
    return draw(hnp.arrays(np.int32, shape, elements=labels)), draw(hnp.arrays(np.int32, shape, elements=labels))


@settings(deadline=None)
@given(map_pairs())
def test_matching_reaches_the_dense_hungarian_sum(maps: tuple[np.ndarray, np.ndarray]) -> None:
    predicted, true = maps
    result = matched_mean_iou(predicted, true)
    labels_p, labels_t, ious = dense_ious(predicted, true)
    rows, columns = linear_sum_assignment(1 - ious)
    assert (result.n_predicted, result.n_true) == (len(labels_p), len(labels_t))
    assert result.iou.sum() == pytest.approx(ious[rows, columns].sum(), abs=1e-12)
    assert len(set(result.predicted.tolist())) == len(set(result.true.tolist())) == len(result.iou)
    for p, t, iou in zip(result.predicted, result.true, result.iou, strict=True):
        assert iou == pytest.approx(ious[np.searchsorted(labels_p, p), np.searchsorted(labels_t, t)])
        assert iou > 0


@settings(deadline=None)
@given(map_pairs())
def test_overlaps_equal_the_plain_form(maps: tuple[np.ndarray, np.ndarray]) -> None:
    overlaps = label_map_overlaps(*maps)
    labels_p, labels_t, ious = dense_ious(*maps)
    expected = {(labels_p[i], labels_t[j]): ious[i, j] for i, j in zip(*np.nonzero(ious), strict=True)}
    pairs = zip(overlaps.predicted.tolist(), overlaps.true.tolist(), strict=True)
    assert dict(zip(pairs, overlaps.iou, strict=True)) == pytest.approx(expected)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sparse_graphs_match_as_dense_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ious = np.where(rng.random((12, 9)) < 0.3, rng.integers(1, 8, (12, 9)) / 8, 0)
    row, column = np.nonzero(ious)
    result = match_overlaps(Overlaps(row + 1, column + 1, ious[row, column], 12, 9))
    assert result.iou.sum() == pytest.approx(ious[linear_sum_assignment(ious, maximize=True)].sum())


PLACES = {
    "one each": ([[0, 1, 1, 0]], [[0, 0, 5, 5]]),
    "on the border": ([[1, 0, 2], [0, 0, 0], [3, 0, 4]], [[1, 1, 2], [0, 0, 2], [3, 0, 0]]),
    "the same instance twice": ([[1, 1, 2, 2]], [[3, 3, 3, 3]]),
    "all in one": ([[1, 2, 3, 4], [5, 6, 7, 8]], [[9, 9, 9, 9], [9, 9, 9, 0]]),
    "identical": ([[1, 2], [2, 1]], [[1, 2], [2, 1]]),
}


@pytest.mark.parametrize("maps", PLACES.values(), ids=PLACES)
def test_special_places(maps: tuple[list[list[int]], list[list[int]]]) -> None:
    predicted, true = (np.array(each, np.int32) for each in maps)
    _, _, ious = dense_ious(predicted, true)
    expected = ious[linear_sum_assignment(1 - ious)].sum() / ious.shape[1]
    assert matched_mean_iou(predicted, true).mean_matched_iou == pytest.approx(expected, abs=1e-12)


def touching_cells(rng: np.random.Generator, side: int) -> np.ndarray:
    """Cells of 3 × 3 px that tile a map, shifted by a pixel or none, their edges torn."""
    cells = rng.permutation(side * side).reshape(side, side) + 1
    grid = cells.repeat(3, axis=0).repeat(3, axis=1)
    torn = np.where(rng.random(grid.shape) < 0.3, np.roll(grid, rng.integers(-1, 2, 2), (0, 1)), grid)
    return np.roll(torn, rng.integers(0, 2, 2), (0, 1))


def test_three_thousand_instances_equal_dense_hungarian_whatever_their_order() -> None:
    rng = np.random.default_rng(1)
    predicted, true = touching_cells(rng, 55), touching_cells(rng, 55)
    overlaps = label_map_overlaps(predicted, true)
    ious = np.zeros((predicted.max() + 1, true.max() + 1))
    ious[overlaps.predicted, overlaps.true] = overlaps.iou
    result = match_overlaps(overlaps)
    assert result.n_true > 3000
    assert result.iou.sum() == pytest.approx(ious[linear_sum_assignment(ious, maximize=True)].sum(), rel=1e-12)
    renamed = rng.permutation(np.arange(1, predicted.max() + 1))[predicted - 1], true
    assert matched_mean_iou(*renamed).mean_matched_iou == pytest.approx(result.mean_matched_iou, rel=1e-12)


def test_known_figures() -> None:
    true = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 3, 3]])
    predicted = np.array([[7, 7, 7, 0, 0, 0, 4, 4, 0, 0]])
    result = matched_mean_iou(predicted, true)
    assert dict(zip(result.predicted.tolist(), result.true.tolist(), strict=True)) == {4: 2, 7: 1}
    assert result.mean_matched_iou == pytest.approx((3 / 4 + 1 / 3) / 3)
    assert result.f1_at(0.5) == pytest.approx(2 * 1 / (2 + 3))
    assert result.mean_iou_at(0.5) == pytest.approx(3 / 4)
    assert math.isnan(result.mean_iou_at(0.9))


def test_a_perfect_prediction_scores_one_whatever_its_labels() -> None:
    true = np.arange(12).reshape(3, 4)
    result = matched_mean_iou(np.where(true, 40 - true, 0), true)
    assert (result.mean_matched_iou, result.f1_at(), result.mean_iou_at()) == (1, 1, 1)


def test_empty_maps() -> None:
    nothing, something = np.zeros((3, 3), np.int32), np.ones((3, 3), np.int32)
    assert math.isnan(matched_mean_iou(nothing, nothing).mean_matched_iou)
    assert math.isnan(matched_mean_iou(nothing, nothing).f1_at())
    assert math.isnan(matched_mean_iou(something, nothing).mean_matched_iou)
    assert matched_mean_iou(something, nothing).f1_at() == 0
    assert matched_mean_iou(nothing, something).mean_matched_iou == 0


def test_pooling_is_over_instances_not_images() -> None:
    def result(ious: list[float], n_predicted: int, n_true: int) -> MatchResult:
        labels = np.arange(len(ious), dtype=np.int64)
        return MatchResult(labels, labels, np.array(ious), n_predicted, n_true)

    pooled = pool_matches([result([0.9, 0.4], 2, 4), result([0.7], 3, 1)])
    assert pooled.mean_matched_iou == pytest.approx(2.0 / 5)
    assert pooled.f1_at(0.5) == pytest.approx(4 / 10)
    assert pool_matches([]).n_true == 0


def test_maps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one shape, got \(2, 2\) \(predicted\) and \(2, 3\) \(true\)"):
        matched_mean_iou(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="true: expected labels of at least 0, got -1"):
        matched_mean_iou(np.zeros((2, 2), int), np.full((2, 2), -1))
