from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.pseudo_labels.adaptive_thresholds import AdaptiveState, adapt, adapt_over, start_state
from pipeline.pseudo_labels.quality import QualityOptions, Tier, judge_rows
from tests.pseudo_labels.rows_by_hand import boxes

OPTIONS = QualityOptions(
    thresholds="adaptive", alpha=0.8, class_thr_min=0.2, class_thr_max=0.6, mask_thr_min=0.5, mask_thr_max=0.9
)
SHARES = st.floats(0, 1, width=32)
IMAGE = st.lists(st.tuples(SHARES, SHARES, st.integers(0, 2), SHARES), max_size=8)


def test_common_classes_begin_stricter() -> None:
    state = start_state([100, 50, 1], options=OPTIONS)
    assert state.class_thr == pytest.approx((0.6, 0.4, 0.204))
    assert state.mask_thr == pytest.approx((0.9, 0.7, 0.504))
    assert state.n_images == 0


def test_a_rare_class_keeps_what_a_common_one_does_not() -> None:
    state = start_state([100, 1], options=OPTIONS)
    rows = boxes([(0, 0, 8, 8), (9, 0, 17, 8)], class_id=[0, 1], class_score=[0.4, 0.4], mask_quality=[0.7, 0.7])
    tiers = judge_rows(rows, options=OPTIONS, limits=state.limits(margin=OPTIONS.margin))
    assert tiers.tolist() == [Tier.DROP, Tier.KEEP]


def plain_steps(thr: list[float], images: list[Any], column: int, low: float, high: float) -> list[float]:
    thr = list(thr)
    for image in images:
        for k in range(3):
            scores = [row[column] for row in image if row[2] == k and row[0] >= 0.3 and row[3] >= 0.5]
            if scores:
                thr[k] = 0.8 * thr[k] + 0.2 * sum(scores) / len(scores)
            thr[k] = min(max(thr[k], low), high)
    return thr


@settings(deadline=None, max_examples=50)
@given(st.lists(IMAGE, max_size=5))
def test_each_image_moves_its_classes(images: list[Any]) -> None:
    # 0.3 in float32 is a little more than in float64: on the border the two need not agree.
    images = [[row for row in image if abs(row[0] - 0.3) > 1e-6] for image in images]
    start = start_state([4, 2, 1], options=OPTIONS)
    state = start
    for image in images:
        c, m, stratum, decay = zip(*image, strict=True) if image else ((), (), (), ())
        floats = [np.array(each, np.float32) for each in (c, m, decay)]
        state = adapt(state, *floats[:2], np.array(stratum, np.int64), options=OPTIONS, nms_decay=floats[2])
    assert state.class_thr == pytest.approx(plain_steps(list(start.class_thr), images, 0, 0.2, 0.6))
    assert state.mask_thr == pytest.approx(plain_steps(list(start.mask_thr), images, 1, 0.5, 0.9))
    assert state.n_images == len(images)


def test_literal_steps() -> None:
    """0.8 · 0.4 + 0.2 · 0.5 = 0.42, of rows 0.4 and 0.6; a copy and a row of the background do not count."""
    rows = boxes(
        [(0, 0, 4, 4)] * 4, class_id=[0] * 4, class_score=[0.4, 0.6, 0.9, 0.1], mask_quality=[0.8, 0.6, 0.1, 0.1],
        nms_decay=[1.0, np.nan, 0.1, 1.0],
    )  # fmt: skip
    before = AdaptiveState((0.4, 0.3), (0.6, 0.7))
    after = adapt_over(before, [("a", rows)], options=OPTIONS)
    assert after.class_thr == pytest.approx((0.42, 0.3))
    assert after.mask_thr == pytest.approx((0.62, 0.7))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=5), st.integers(0, 10**6), st.data())
def test_a_state_comes_back_bit_for_bit(pairs: list[tuple[float, float]], n_images: int, data: Any) -> None:
    exact = st.floats(0, 1)
    state = AdaptiveState(
        tuple(data.draw(exact) for _ in pairs), tuple(data.draw(exact) for _ in pairs), n_images
    )  # fmt: skip
    back = AdaptiveState.from_json(state.to_json(), where="state.json")
    assert [value.hex() for value in back.class_thr] == [value.hex() for value in state.class_thr]
    assert [value.hex() for value in back.mask_thr] == [value.hex() for value in state.mask_thr]
    assert back == state


def test_a_broken_run_goes_on_as_an_unbroken_one() -> None:
    rng = np.random.default_rng(0)
    images = [
        (f"{k}", boxes([(0, 0, 4, 4)] * 3, class_id=[0, 1, 2], class_score=rng.random(3), mask_quality=rng.random(3)))
        for k in range(6)
    ]
    start = start_state([3, 2, 1], options=OPTIONS)
    whole = adapt_over(start, images, options=OPTIONS)
    half = AdaptiveState.from_json(adapt_over(start, images[:3], options=OPTIONS).to_json(), where="state.json")
    assert adapt_over(half, images[3:], options=OPTIONS) == whole
    assert half != whole


def test_images_in_another_order_are_refused() -> None:
    rows = boxes([])
    with pytest.raises(ValueError, match="expected ascending ids, got a after b"):
        adapt_over(start_state([1], options=OPTIONS), [("b", rows), ("a", rows)], options=OPTIONS)


@pytest.mark.parametrize(("counts", "names"), [([3, 0, 2], "car"), ([0, 0, 0], "bus, car, dog")])
def test_a_class_without_labels_is_refused(counts: list[int], names: str) -> None:
    with pytest.raises(PipelineError, match=f"of 3 classes have none .{names}.; raise labeled_pct.*set it to fixed"):
        start_state(counts, options=OPTIONS, names=["bus", "car", "dog"])


def test_a_row_of_no_stratum_is_refused() -> None:
    one = np.ones(1, np.float32)
    with pytest.raises(PipelineError, match="2 has no thresholds, which are there for 0 to 1"):
        adapt(AdaptiveState((0.5, 0.5), (0.5, 0.5)), one, one, np.array([2]), options=OPTIONS)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"class_thr": [2.0], "mask_thr": [0.5], "n_images": 1}', '{"class_thr": [0.5], "mask_thr": 1}'],
)
def test_something_else_is_refused(text: str) -> None:
    with pytest.raises(PipelineError, match="state.json: expected the state of adaptive thresholds.*delete it"):
        AdaptiveState.from_json(text, where="state.json")


def test_counts_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="n_images: expected at least 0"):
        AdaptiveState((0.5,), (0.5,), -1)
