"""What the plots of judging are given."""

import numpy as np
import pytest

from pipeline.pseudo_labels.calibrated_thresholds import HeldOutRows
from pipeline.pseudo_labels.quality import Limits, QualityOptions, Tier
from pipeline.training.judged_view import judged_view

ROWS = HeldOutRows(
    np.float32([0.9, 0.9, 0.45, 0.1]), np.float32([0.9, 0.6, 0.9, 0.9]), np.array([0, 1, 1, 0]),
    np.array([0.8, 0.2, 0.7, 0.0]), np.array([True, False, True, False]), np.array([True, False, True, False]),
)  # fmt: skip
YIELDS = np.array([[1, 2, 3], [4, 5, 6]])
TEXT = {"title": "shapes", "names": ("disc", "star"), "facts": {"images": "1"}}


def test_held_out_rows_are_sorted_as_the_others_are():
    options = QualityOptions(thresholds="fixed", class_thr=0.5, mask_thr=0.8, margin=0.1)
    limits = Limits.fixed(options, 2)
    view = judged_view(ROWS, YIELDS, limits, options, **TEXT)
    assert view.tier.tolist() == [Tier.KEEP, Tier.DROP, Tier.AMBIGUOUS, Tier.DROP]
    assert view.class_thr.tolist() == [0.5, 0.5]
    np.testing.assert_allclose(view.mask_floor, [0.7, 0.7])
    assert view.score_thr is None
    assert view.yields is YIELDS


def test_one_threshold_is_a_curve():
    view = judged_view(ROWS, YIELDS, None, QualityOptions(thresholds="single", score_thr=0.5, margin=0.1), **TEXT)
    assert view.class_thr is None
    assert (view.score_thr, view.score_floor) == (0.5, pytest.approx(0.4))
    assert view.tier.tolist() == [Tier.KEEP, Tier.KEEP, Tier.AMBIGUOUS, Tier.DROP]


def test_without_held_out_images_the_yield_is_left():
    view = judged_view(None, YIELDS, None, QualityOptions(thresholds="off"), **TEXT)
    assert len(view) == 0
    assert (view.class_thr, view.score_thr, view.score_floor) == (None, None, None)
