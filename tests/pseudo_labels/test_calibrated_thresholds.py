from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.pseudo_labels.calibrated_thresholds import Curve, HeldOutRows, calibrate, compare_with_truth
from pipeline.pseudo_labels.quality import ABOVE_ALL, QualityOptions, Tier, judge
from tests.pseudo_labels.rows_by_hand import boxes

OPTIONS = QualityOptions(thresholds="calibrated", calibration_rows=4, class_wanted=0.7, mask_wanted=0.6)


def plain_isotonic(score: list[float], outcome: list[float]) -> dict[float, float]:
    """The least-squares non-falling fit, by its max-min formula over means of runs of scores."""
    seen = sorted(set(score))

    def mean(first: int, last: int) -> float:
        values = [y for x, y in zip(score, outcome, strict=True) if seen[first] <= x <= seen[last]]
        return sum(values) / len(values)

    n = len(seen)
    return {seen[k]: max(min(mean(a, b) for b in range(k, n)) for a in range(k + 1)) for k in range(n)}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0.0, 0.25, 1.0])), min_size=1, max_size=14))
def test_the_fit_is_the_plain_one(pairs: list[tuple[int, float]]) -> None:
    score, outcome = [x / 8 for x, _ in pairs], [y for _, y in pairs]
    curve, expected = Curve.fit(score, outcome), plain_isotonic(score, outcome)
    np.testing.assert_array_equal(curve.score, list(expected))
    np.testing.assert_allclose(curve.quality, list(expected.values()), atol=1e-12)
    for wanted in (0.0, 0.25, 0.5, 0.7, 1.0):
        enough = [x for x, y in expected.items() if y >= wanted - 1e-9]
        assert curve.threshold(wanted) == ((min(enough), min(enough)) if enough else (ABOVE_ALL, max(score)))


def held_out(c: Any, right: Any, m: Any, iou: Any, stratum: Any = 0, counts: Any = True) -> HeldOutRows:
    n = len(c)
    return HeldOutRows(
        np.array(c, np.float32), np.array(m, np.float32), np.broadcast_to(stratum, n).astype(np.int64),
        np.array(iou, float), np.array(right, bool), np.broadcast_to(counts, n).astype(bool),
    )  # fmt: skip


def test_literal_thresholds() -> None:
    """Right from 0.3 on in 3 of 4; a mean IoU of 0.6 from 0.8 on."""
    quality, iou = [0.5, 0.6, 0.7, 0.8, 0.9, 0.9], [0, 0.2, 0.4, 0.6, 0.9, 0.5]
    rows = held_out([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0, 0, 1, 1, 0, 1], quality, iou)
    found = calibrate(rows, [9], options=QualityOptions(class_wanted=0.66, mask_wanted=0.6, calibration_rows=1))
    np.testing.assert_allclose(found.class_curves[0].quality, [0, 0, 2 / 3, 2 / 3, 2 / 3, 1])
    np.testing.assert_allclose(found.mask_curves[0].quality, [0, 0.2, 0.4, 0.6, 0.7])
    assert found.limits.class_thr == (np.float32(0.3),)
    assert found.limits.mask_thr == (np.float32(0.8),)
    assert found.limits.class_floor == (pytest.approx(0.15),)
    assert (found.class_rows, found.mask_rows) == ((6,), (6,))


def test_the_row_at_the_threshold_is_kept() -> None:
    rows = held_out([0.1, 0.3, 0.7, 0.7], [0, 1, 1, 1], [0.6, 0.9, 0.9, 0.9], [0.1, 0.8, 0.9, 0.9])
    limits = calibrate(rows, [1], options=OPTIONS).limits
    tiers = judge(rows.class_score, rows.mask_quality, np.full(4, 99), rows.stratum, limits=limits, min_area_px=5)
    assert tiers.tolist() == [Tier.DROP, Tier.KEEP, Tier.KEEP, Tier.KEEP]


def test_a_class_that_is_never_good_enough_keeps_nothing() -> None:
    rows = held_out(
        [0.2, 0.4, 0.6, 0.8] * 2, [1] * 4 + [0, 1, 0, 1], [0.9] * 8, [0.9] * 8, stratum=[0] * 4 + [1] * 4
    )  # fmt: skip
    limits = calibrate(rows, [5, 5], options=QualityOptions(class_wanted=1.0, calibration_rows=4, margin=0.15)).limits
    assert limits.class_thr[0] == np.float32(0.2)
    assert limits.class_thr[1] == np.float32(0.8)
    limits = calibrate(
        held_out([0.2, 0.4, 0.6, 0.8], [0, 1, 0, 0], [0.9] * 4, [0.9] * 4), [5], options=OPTIONS
    ).limits  # fmt: skip
    assert limits.class_thr == (ABOVE_ALL,)
    c = np.array([0.6, 0.7, 0.8, 1.0], np.float32)
    tiers = judge(c, np.full(4, 0.95, np.float32), np.full(4, 99), np.zeros(4, int), limits=limits, min_area_px=5)
    assert tiers.tolist() == [Tier.DROP, Tier.AMBIGUOUS, Tier.AMBIGUOUS, Tier.AMBIGUOUS]


def test_a_class_with_few_rows_takes_the_curve_of_all() -> None:
    rows = held_out([0.1, 0.2, 0.3, 0.4, 0.9], [0, 0, 1, 1, 0], [0.9] * 5, [0.9] * 5, stratum=[0] * 4 + [1])
    found = calibrate(rows, [4, 1, 1], options=OPTIONS)
    assert found.class_rows == (4, 1, 0)
    assert found.limits.class_thr[0] == np.float32(0.3)
    of_all = Curve.fit(rows.class_score, rows.class_right)
    for k in (1, 2):
        np.testing.assert_array_equal(found.class_curves[k].quality, of_all.quality)
    assert found.limits.class_thr[1:] == (ABOVE_ALL, ABOVE_ALL)  # the best of all is 2/3


def test_only_rows_that_count_teach_the_class() -> None:
    rows = held_out([0.1, 0.2, 0.3, 0.4] * 2, [1] * 4 + [0] * 4, [0.9] * 8, [0.9] * 8, counts=[1] * 4 + [0] * 4)
    assert calibrate(rows, [1], options=OPTIONS).limits.class_thr == (np.float32(0.1),)
    assert calibrate(rows, [1], options=OPTIONS).class_rows == (4,)


TRUTH = boxes(
    [(0, 0, 8, 8), (16, 0, 24, 8), (0, 12, 20, 24)], class_id=[0, 1, 0], status=["ok", "ok", "ambiguous"],
    source="truth",
)  # fmt: skip


def compared(corners: list[tuple[int, int, int, int]], class_id: list[int], **values: Any) -> HeldOutRows:
    n = len(corners)
    decay = values.pop("nms_decay", None)
    rows = boxes(
        corners, class_id=class_id, class_score=np.arange(n) / 10, mask_quality=[0.9] * n, nms_decay=decay
    )  # fmt: skip
    return compare_with_truth(rows, TRUTH, options=OPTIONS, **values)


def test_rows_meet_the_truth_they_overlap_most() -> None:
    found = compared(
        [(0, 0, 8, 8), (0, 0, 8, 4), (17, 0, 25, 8), (0, 0, 3, 8), (28, 10, 32, 12)], [0, 1, 1, 0, 0]
    )  # fmt: skip
    np.testing.assert_allclose(found.iou, [1.0, 0.5, 56 / 72, 3 / 8, 0.0])
    assert found.class_right.tolist() == [True, False, True, False, False]
    assert found.class_counts.tolist() == [True, True, True, False, False]
    assert len(found) == 5


def test_copies_and_rows_in_regions_are_left_out() -> None:
    corners = [(0, 0, 8, 8), (0, 0, 8, 8), (2, 14, 10, 20), (0, 6, 8, 18), (0, 4, 8, 15)]
    found = compared(corners, [0] * 5, nms_decay=[1.0, 0.2, np.nan, 1.0, 1.0])
    assert found.class_score.tolist() == [np.float32(0.0), np.float32(0.4)]


def test_the_best_of_several_true_masks_counts() -> None:
    """A thing in a region is known, and a row over two things meets the one it covers more."""
    truth = boxes(
        [(0, 0, 8, 8), (8, 0, 10, 8), (0, 0, 32, 24)], class_id=[1, 0, 0], status=["ok", "ok", "ambiguous"],
    )  # fmt: skip
    rows = boxes([(0, 0, 10, 8)], class_id=[1], class_score=[0.5], mask_quality=[0.5])
    found = compare_with_truth(rows, truth, options=OPTIONS)
    assert (found.iou.tolist(), found.class_right.tolist()) == ([0.8], [True])


def test_one_class_learns_from_the_background() -> None:
    found = compared([(0, 0, 8, 8), (28, 10, 32, 12)], [0, 0], background_is_wrong=True, stratum=np.array([1, 0]))
    assert found.class_counts.tolist() == [True, True]
    assert found.class_right.tolist() == [True, False]
    assert found.stratum.tolist() == [1, 0]


def test_images_without_truth_or_rows() -> None:
    nobody = boxes([])
    one = boxes([(0, 0, 4, 4)], class_score=[0.5], mask_quality=[0.5])
    joined = HeldOutRows.join(
        [compare_with_truth(a, b, options=OPTIONS) for a, b in ((one, nobody), (nobody, one), (nobody, nobody))]
    )
    assert joined.iou.tolist() == [0.0]
    assert joined.class_right.tolist() == [False]
    with pytest.raises(PipelineError, match="none of the 1 rows on held-out images meets a true mask"):
        calibrate(joined, [1], options=OPTIONS)


def test_bad_input_is_refused() -> None:
    rows = held_out([0.5], [1], [0.5], [0.9], stratum=1)
    with pytest.raises(PipelineError, match="1 of 2 classes have none .1."):
        calibrate(rows, [1, 0], options=OPTIONS)
    with pytest.raises(PipelineError, match="1 has no thresholds"):
        calibrate(rows, [1], options=OPTIONS)
    with pytest.raises(PipelineError, match="class_score: 1 of 1 rows"):
        compare_with_truth(boxes([(0, 0, 4, 4)]), TRUTH, options=OPTIONS)
    with pytest.raises(ValueError, match="one image"):
        compare_with_truth(
            boxes([(0, 0, 4, 4)], size_hw=(9, 9), class_score=[0.5], mask_quality=[0.5]), TRUTH, options=OPTIONS
        )
