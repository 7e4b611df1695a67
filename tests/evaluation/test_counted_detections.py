"""Counted detections against a plain computation on whole masks, over all one-to-one matchings."""

import itertools

import numpy as np
import pytest

from pipeline.evaluation.counted_detections import choose_score_threshold, counted_figures, match_instances
from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window
from tests.evaluation.shapes import write_stores

SIZE_HW = (12, 16)


def instances(masks, *, score=None, status="ok"):
    """Rows of whole masks, which may overlap each other."""
    n = len(masks)
    return Instances.from_windows(
        SIZE_HW, [Window(mask, 0, 0) for mask in masks], point_id=np.arange(n), points_xy=np.zeros((n, 2)),
        radius_px=np.ones(n), class_id=np.arange(n) % 3, score=np.ones(n) if score is None else score, source="x",
        status=status,
    )  # fmt: skip


def boxes(rng, n):
    masks = np.zeros((n, *SIZE_HW), bool)
    for mask in masks:
        y, x = rng.integers(0, 8), rng.integers(0, 10)
        mask[y : y + rng.integers(0, 6), x : x + rng.integers(1, 8)] = True
    return masks


def best_sum(found, true):
    """Greatest sum of IoUs over every way to give each true mask a different found one, or none."""
    iou = [[(p & t).sum() / max((p | t).sum(), 1) for t in true] for p in found]
    padded = [*range(len(found)), *[None] * len(true)]
    ways = set(itertools.permutations(padded, len(true)))
    return max(sum(iou[p][t] for t, p in enumerate(way) if p is not None) for way in ways)


@pytest.mark.parametrize("seed", range(12))
def test_the_matching_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    found, true = boxes(rng, int(rng.integers(0, 4))), boxes(rng, int(rng.integers(0, 4)))
    result = match_instances(instances(found), instances(true))
    assert result.iou.sum() == pytest.approx(best_sum(found, true))
    assert (result.n_predicted, result.n_true) == (sum(m.any() for m in found), sum(m.any() for m in true))
    assert len(set(result.predicted)) == len(set(result.true)) == len(result.iou)


def test_figures_of_kept_detections(tmp_path):
    rng = np.random.default_rng(3)
    (true_a, found_a), (true_b, found_b) = ((boxes(rng, 3), boxes(rng, 3)) for _ in range(2))
    true_a[2] = False
    true_a[2, 0, :4] = True
    found_b[1], true_b[2] = False, False
    found_b[1, 2:6, 2:6] = true_b[2, 2:6, 2:6] = True  # a detection in the region, which nothing else meets as well
    scores_a, scores_b = np.array([0.9, 0.4, 0.7]), np.array([0.2, 0.6, 0.5])
    region = ["ok", "ok", "ambiguous"]
    found, truth = write_stores(
        tmp_path,
        {
            "a": (instances(true_a), instances(found_a, score=scores_a)),
            "b": (instances(true_b, status=region), instances(found_b, score=scores_b)),
        },
    )
    figures = counted_figures(found, truth, {"a": 4, "b": None}, threshold=0.5)
    wanted = best_sum(found_a[scores_a > 0.5], true_a) + best_sum(found_b[scores_b > 0.5], true_b[:2])
    n_true = sum(m.any() for m in (*true_a, *true_b[:2]))
    assert figures["matched_iou_truth"] == pytest.approx(wanted / n_true, abs=1e-6)
    assert figures["mae"] == 2  # two of 4; the image with a region is not counted
    assert counted_figures(found, truth, {"b": None}, threshold=0.5)["mae"] is None


@pytest.mark.parametrize("seed", range(8))
def test_no_other_threshold_counts_better(seed):
    rng = np.random.default_rng(seed)
    scores = [rng.random(int(rng.integers(0, 9))).round(2) for _ in range(4)]
    counts = rng.integers(0, 7, 4).tolist()

    def mae(threshold):
        return np.mean([abs((one > threshold).sum() - count) for one, count in zip(scores, counts, strict=True)])

    tried = np.linspace(0.01, 0.99, 981)
    assert mae(choose_score_threshold(scores, counts)) == min(mae(one) for one in tried)


def test_certain_and_impossible_scores_are_taken():
    assert 0 < choose_score_threshold([np.array([0.0, 1.0])], [1]) < 1
    with pytest.raises(ValueError, match="calibration: expected images"):
        choose_score_threshold([], [])
