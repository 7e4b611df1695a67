"""Labels of points: none covers another, a point, or another's line, where there is room at all."""

import itertools

import numpy as np
import pytest

from benchmarks.experiments.label_places import leader, overlap, place_labels

BOUNDS = (0.0, 0.0, 300.0, 200.0)


def crowd(seed, n):
    """Points in the middle, the first two at one place, and labels that are far wider than the points are apart."""
    rng = np.random.default_rng(seed)
    anchors = [tuple(one) for one in rng.uniform(0.3, 0.7, (n, 2)) * (300, 200)]
    anchors[1] = anchors[0]
    return anchors, [(float(width), 9.0) for width in rng.uniform(30, 110, n)]


@pytest.mark.parametrize("seed", range(10))
def test_labels_of_crowded_points_are_apart(seed):
    anchors, sizes = crowd(seed, 9)
    boxes = place_labels(anchors, sizes, BOUNDS, gap=4.0)
    for (x, y), box, size in zip(anchors, boxes, sizes, strict=True):
        assert (box[2] - box[0], box[3] - box[1]) == pytest.approx(size)
        assert min(box) >= 0
        assert box[2] <= 300
        assert box[3] <= 200
        assert not any(overlap((x - 2, y - 2, x + 2, y + 2), one) for one in boxes)
    assert not any(overlap(one, other) for one, other in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("seed", range(10))
def test_lines_go_past_other_labels(seed):
    anchors, sizes = crowd(seed, 6)
    boxes = place_labels(anchors, sizes, BOUNDS, gap=4.0)
    for k, ((x, y), box) in enumerate(zip(anchors, boxes, strict=True)):
        end = leader((x, y), box)
        line = [(x + (end[0] - x) * t, y + (end[1] - y) * t) for t in np.linspace(0, 1, 33)]
        others = [one for other, one in enumerate(boxes) if other != k]
        assert not any(one[0] < px < one[2] and one[1] < py < one[3] for px, py in line for one in others)


def test_a_lone_point_has_its_label_at_its_right():
    assert place_labels([(100.0, 100.0)], [(50.0, 10.0)], BOUNDS, gap=4.0) == [(104.0, 95.0, 154.0, 105.0)]


def test_a_point_at_the_edge_keeps_its_label_inside():
    [box] = place_labels([(299.0, 199.0)], [(50.0, 10.0)], BOUNDS, gap=4.0)
    assert box[2] <= 300
    assert box[3] <= 200
    assert not overlap(box, (297.0, 197.0, 301.0, 201.0))


def test_no_points_have_no_labels():
    assert place_labels([], [], BOUNDS, gap=4.0) == []
