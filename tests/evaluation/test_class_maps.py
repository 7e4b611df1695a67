import math

import numpy as np
import pytest

from pipeline.evaluation.class_maps import class_map_quality
from pipeline.masks.instances import Instances


def truth(labels, class_id, status="ok") -> Instances:
    n = len(class_id)
    return Instances.from_label_map(
        np.array(labels), point_id=np.arange(n), class_id=class_id, points_xy=np.zeros((n, 2)), radius_px=np.ones(n),
        source="truth", status=status,
    )  # fmt: skip


def test_literal_values() -> None:
    true = truth([[1, 1, 2, 0], [0, 0, 3, 0]], [0, 1, 0])
    found = np.array([[1, 1, 1, 0], [255, 0, 1, 0]], np.uint8)
    quality = class_map_quality([(found, true)], n_classes=2)
    assert quality.known_frac == 7 / 8
    assert quality.mean_iou == pytest.approx((3 / 3 + 3 / 4 + 0) / 3)
    assert quality.object_iou == 1.0


def test_regions_are_left_out() -> None:
    true = truth([[1, 2]], [0, 0], ["ok", "ambiguous"])
    quality = class_map_quality([(np.array([[1, 0]], np.uint8), true)], n_classes=1)
    assert (quality.mean_iou, quality.known_frac) == (1.0, 1.0)


def test_no_images_give_no_figures() -> None:
    assert all(math.isnan(value) for value in vars(class_map_quality([], n_classes=1)).values())
