import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.evaluation.given_points import mean_iou_given_points
from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window
from tests.evaluation.shapes import write_stores

NAMES = ("tree", "traffic light", "car")


def rows(point_id, lengths, *, class_id=None, status="ok"):
    """Bars of one row of pixels each, all from the left edge."""
    windows = [Window(np.ones((int(length > 0), length), bool), 0, k) for k, length in enumerate(lengths)]
    n = len(windows)
    return Instances.from_windows(
        (8, 20), windows, point_id=point_id, points_xy=np.zeros((n, 2)), radius_px=np.ones(n), class_id=class_id,
        source="x", status=status,
    )  # fmt: skip


@pytest.fixture
def stores(tmp_path):
    true = rows([0, 1, 2, 3, 4], [10, 10, 10, 8, 0], class_id=[0, 0, 1, 1, 1], status=["ok"] * 3 + ["ambiguous", "ok"])
    found = rows([0, 1, 2], [10, 5, 0], class_id=[0, 0, 1])
    moved = rows([3, 7], [20, 10], class_id=[0, 0])
    return write_stores(tmp_path, {"a": (true, found), "b": (rows([7], [10], class_id=[0]), moved)})


def test_each_point_is_compared_with_its_own_mask(stores):
    result = mean_iou_given_points(*stores, ["a", "b"], class_names=NAMES)
    assert result.n_points == 4  # neither the crowd region nor the one without pixels
    # 1, a half, none, and 0: the bar of point 7 lies a row below the true one
    assert result.mean_iou == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert result.mean_iou_by_class["tree"] == pytest.approx(1.5 / 3)
    assert result.mean_iou_by_class["traffic light"] == 0
    assert math.isnan(result.mean_iou_by_class["car"])


def test_every_name_says_that_points_were_given(stores):
    figures = mean_iou_given_points(*stores, ["a"], class_names=NAMES).metrics()
    assert figures == {
        "mean_iou_given_points": 0.5,
        "mean_iou_class_tree_given_points": 0.75,
        "mean_iou_class_traffic_light_given_points": 0.0,
        "mean_iou_class_car_given_points": None,
        "n_points_given_points": 3,
    }


def test_a_point_without_a_row_counts_as_missed(tmp_path):
    stores = write_stores(tmp_path, {"a": (rows([5, 6], [4, 4]), rows([6], [4]))})
    result = mean_iou_given_points(*stores, ["a"], class_names=NAMES)
    assert (result.mean_iou, result.n_points) == (0.0, 2)  # point 6 has a mask, a row higher than its own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_id": [5]}, "has an instance of class 5, expected 0 to 2"),
        ({"size_hw": (9, 20)}, r"a is \(8, 20\) pixels .* but \(9, 20\) in"),
    ],
)
def test_stores_that_do_not_fit_are_refused(tmp_path, change, message):
    detections, truth = write_stores(tmp_path, {"a": (replace(rows([0], [3]), **change), rows([0], [3]))})
    with pytest.raises(PipelineError, match=message):
        mean_iou_given_points(detections, truth, ["a"], class_names=NAMES)
