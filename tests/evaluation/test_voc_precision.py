"""VOC's AP against its rule written plainly: detections one by one, then the area under the curve."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.voc_precision import VOC_IOUS, VocPrecision

NO_REGION = np.zeros(1, bool)


def plain_ap(images, iou: float) -> float:
    """Images are (scores, ious) of one class."""
    rows, n_true = [], 0
    for scores, ious in images:
        n_true += ious.shape[1]
        taken: set[int] = set()
        for score, overlaps in zip(scores, ious, strict=True):
            best = int(np.argmax(overlaps)) if len(overlaps) else -1
            right = best >= 0 and overlaps[best] >= iou and best not in taken
            taken |= {best} if right else set()
            rows.append((score, right))
    if not n_true:
        return math.nan
    rows.sort(key=lambda row: -row[0])
    hits, points = 0, [(0.0, 0.0)]
    for place, (_, right) in enumerate(rows, start=1):
        hits += right
        points.append((hits / n_true, hits / place))
    area = 0.0
    for k in range(1, len(points)):
        area += (points[k][0] - points[k - 1][0]) * max(precision for _, precision in points[k:])
    return area


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), max_size=4))
def test_it_is_the_plain_rule(seed: int, sizes) -> None:
    rng = np.random.default_rng(seed)
    images = [
        (np.sort(rng.permutation(1000)[:n_found] / 1000)[::-1] + 1e-6 * place, rng.random((n_found, n_true)))
        for place, (n_found, n_true) in enumerate(sizes)
    ]
    voc = VocPrecision(1)
    for scores, ious in images:
        voc.add(0, scores.tolist(), ious, np.zeros(ious.shape[1], bool))
    for iou, ap in voc.result().items():
        assert ap == pytest.approx(plain_ap(images, iou), nan_ok=True)


def test_an_iou_that_is_just_reached_counts() -> None:
    for iou in VOC_IOUS:
        voc = VocPrecision(1)
        voc.add(0, [0.9], np.array([[iou]]), NO_REGION)
        assert voc.result() == {each: float(each <= iou) for each in VOC_IOUS}


def test_a_second_detection_of_a_taken_instance_does_not_look_for_another() -> None:
    voc = VocPrecision(1)
    voc.add(0, [0.9, 0.8], np.array([[0.8, 0.3], [0.7, 0.6]]), np.zeros(2, bool))
    assert voc.result() == {0.25: 0.5, 0.5: 0.5, 0.7: 0.5, 0.75: 0.5}


def test_each_iou_and_each_class_counts_by_itself() -> None:
    voc = VocPrecision(3)
    voc.add(0, [0.9], np.array([[0.6]]), NO_REGION)
    voc.add(1, [], np.zeros((0, 1)), NO_REGION)  # an instance that nobody found
    voc.add(2, [0.9], np.zeros((1, 0)), np.zeros(0, bool))  # no instance: the class is not counted
    assert voc.result() == {0.25: 0.5, 0.5: 0.5, 0.7: 0.0, 0.75: 0.0}


def test_what_lies_in_a_region_counts_neither_way() -> None:
    voc = VocPrecision(1)
    ious = np.array([[0.0, 0.9], [0.8, 0.9]])
    voc.add(0, [0.9, 0.8], ious, np.array([False, True]))
    assert set(voc.result().values()) == {1.0}


def test_without_truth_there_is_no_figure() -> None:
    assert all(math.isnan(value) for value in VocPrecision(2).result().values())
    assert VOC_IOUS == (0.25, 0.5, 0.7, 0.75)
