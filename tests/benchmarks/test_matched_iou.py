import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from benchmarks.matched_iou import dense_matched_iou, one_core_rows, touching_crowds
from pipeline.evaluation.instance_iou import label_map_overlaps, matched_mean_iou


def test_the_dense_form_has_the_same_sum() -> None:
    crowds = touching_crowds(60)
    assert matched_mean_iou(*crowds).mean_matched_iou == pytest.approx(dense_matched_iou(*crowds), rel=1e-12)


def test_crowds_touch_so_that_all_are_one_component() -> None:
    predicted, true = touching_crowds(300)
    for labels in (predicted, true):
        assert np.unique(labels).tolist() == list(range(1, 301))
    overlaps = label_map_overlaps(predicted, true)
    assert 3 < len(overlaps.iou) / 300 < 6
    graph = sparse.coo_array((overlaps.iou, (overlaps.predicted - 1, overlaps.true + 299)), shape=(600, 600))
    assert connected_components(graph)[0] == 1


def test_a_small_run_gives_its_rows() -> None:
    seconds, memory = one_core_rows(0.004)
    assert seconds.work == "100 × 100 instances, one core"
    assert seconds.met == (seconds.ours <= 15)
    assert 0.2 < seconds.notes["mean_matched_iou"] < 0.7
    assert memory.unit == "MiB"
