import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.pseudo_labels.quality import (
    ABOVE_ALL,
    Limits,
    QualityOptions,
    Tier,
    judge,
    judge_product,
    judge_rows,
    with_tiers,
)
from tests.pseudo_labels.rows_by_hand import boxes

SHARES = st.floats(0, 1, width=32)
ROWS = st.lists(
    st.tuples(SHARES, SHARES, st.integers(0, 9), st.integers(0, 2), st.one_of(SHARES, st.just(math.nan))), max_size=12
)
THRESHOLDS = st.tuples(*[st.lists(SHARES, min_size=3, max_size=3)] * 2)


def columns(rows: list[tuple[float, float, int, int, float]]) -> tuple[np.ndarray, ...]:
    c, m, area, stratum, decay = (np.array(column) for column in zip(*rows, strict=True)) if rows else [np.zeros(0)] * 5
    return c.astype(float), m.astype(float), area.astype(int), stratum.astype(int), decay.astype(float)


def plain_tier(c: float, m: float, area: int, t_c: float, t_m: float, margin: float, least_px: int) -> str:
    if c >= t_c and m >= t_m and area > least_px:
        return "KEEP"
    if c >= t_c - margin and m >= t_m - margin:
        return "AMBIGUOUS"
    return "DROP"


@settings(deadline=None, max_examples=50)
@given(ROWS, THRESHOLDS, SHARES, SHARES)
def test_every_row_gets_the_tier_of_the_rule(
    rows: list[tuple[float, float, int, int, float]], thresholds: Any, margin: float, min_decay: float
) -> None:
    c, m, area, stratum, decay = columns(rows)
    found = judge(
        c, m, area, stratum, limits=Limits.of(*thresholds, margin=margin), min_area_px=5, nms_decay=decay,
        min_decay=min_decay,
    )  # fmt: skip
    expected = [
        "DROP" if d < min_decay else plain_tier(c, m, area, thresholds[0][k], thresholds[1][k], margin, 5)
        for c, m, area, k, d in rows
    ]
    assert [Tier(tier).name for tier in found] == expected
    assert found.dtype == np.int8


@settings(deadline=None, max_examples=50)
@given(ROWS, THRESHOLDS, THRESHOLDS, SHARES)
def test_higher_thresholds_move_no_row_up(
    rows: list[tuple[float, float, int, int, float]], one: Any, other: Any, margin: float
) -> None:
    c, m, area, stratum, decay = columns(rows)
    higher = tuple([max(pair) for pair in zip(*lists, strict=True)] for lists in zip(one, other, strict=True))
    lax, strict = (
        judge(c, m, area, stratum, limits=Limits.of(*each, margin=margin), min_area_px=5, nms_decay=decay)
        for each in (one, higher)
    )
    assert (strict <= lax).all()
    lax, strict = (
        judge_product(c, m, area, score_thr=thr, margin=margin, min_area_px=5, nms_decay=decay)
        for thr in (one[0][0], higher[0][0])
    )
    assert (strict <= lax).all()


@pytest.mark.parametrize(
    ("c", "m", "area", "tier"),
    [
        (0.85, 0.9, 6, Tier.KEEP),  # at both thresholds, in float32
        (0.85, 0.9, 5, Tier.AMBIGUOUS),  # too small
        (0.84, 0.99, 6, Tier.AMBIGUOUS),
        (0.7, 0.75, 6, Tier.AMBIGUOUS),  # at both margins
        (0.69, 1.0, 6, Tier.DROP),  # the product is above that of the thresholds
        (1.0, 0.74, 6, Tier.DROP),
    ],
)
def test_the_published_thresholds(c: float, m: float, area: int, tier: Tier) -> None:
    found = judge(
        np.array([c], np.float32), np.array([m], np.float32), np.array([area]), np.array([0]),
        limits=Limits.of([0.85], [0.9], margin=0.15), min_area_px=5,
    )  # fmt: skip
    assert found.tolist() == [tier]


@settings(deadline=None, max_examples=50)
@given(ROWS, SHARES, SHARES)
def test_a_single_threshold_is_one_on_the_product(
    rows: list[tuple[float, float, int, int, float]], thr: float, margin: float
) -> None:
    c, m, area, _, decay = columns(rows)
    found = judge_product(c, m, area, score_thr=thr, margin=margin, min_area_px=3, nms_decay=decay)
    for (c, m, area, _, d), tier in zip(rows, found.tolist(), strict=True):
        score = c * m * (1.0 if math.isnan(d) else d)
        assert tier == (2 if score >= thr and area > 3 else 1 if score >= thr - margin else 0)


def test_nothing_reaches_above_all() -> None:
    limits = Limits((ABOVE_ALL,), (0.0,), (0.5,), (0.0,))
    for dtype in (np.float32, np.float64):
        scores = np.array([1.0, 0.4], dtype)
        found = judge(scores, scores, np.array([9, 9]), np.zeros(2, int), limits=limits, min_area_px=0)
        assert found.tolist() == [Tier.AMBIGUOUS, Tier.DROP]


ROWS_OF_ONE_IMAGE = boxes(
    [(0, 0, 8, 8), (4, 4, 12, 12), (0, 0, 2, 2), (20, 20, 24, 24)],
    class_id=[0, 1, 1, 1], class_score=[0.9, 0.5, 0.9, 0.05], mask_quality=[0.9, 0.8, 0.9, 0.9],
    nms_decay=[1.0, 1.0, 1.0, 0.2],
)  # fmt: skip


@pytest.mark.parametrize(
    ("values", "tiers"),
    [
        ({"thresholds": "off"}, [2, 2, 2, 2]),
        ({"class_thr": 0.6, "mask_thr": 0.8}, [2, 1, 1, 0]),
        ({"class_thr": (0.6, 0.4), "mask_thr": 0.8}, [2, 2, 1, 0]),
        ({"class_thr": 0.0, "mask_thr": 0.0}, [2, 2, 1, 0]),  # the last is a copy
        ({"class_thr": 0.0, "mask_thr": 0.0, "min_decay": 0.2}, [2, 2, 1, 2]),
        ({"thresholds": "single", "score_thr": 0.5}, [2, 1, 1, 0]),
        ({"thresholds": "single", "score_thr": 0.5, "margin": 0.0}, [2, 0, 1, 0]),
    ],
)
def test_rows_are_judged_as_the_options_say(values: dict[str, Any], tiers: list[int]) -> None:
    assert judge_rows(ROWS_OF_ONE_IMAGE, options=QualityOptions(**values)).tolist() == tiers


def test_strata_in_place_of_classes() -> None:
    limits = Limits.of([0.4, 0.95], [0.5, 0.5], margin=0.0)
    options = QualityOptions(thresholds="adaptive", min_decay=0.0)
    found = judge_rows(ROWS_OF_ONE_IMAGE, options=options, limits=limits, stratum=np.array([1, 0, 0, 0]))
    assert found.tolist() == [0, 2, 1, 0]
    with pytest.raises(ValueError, match="limits: expected them, as thresholds is adaptive"):
        judge_rows(ROWS_OF_ONE_IMAGE, options=options)


def test_tiers_become_statuses() -> None:
    rows = boxes([(0, 0, 4, 4)] * 5, status=["ok", "ok", "fallback", "collision", "small"])
    tiers = np.array([2, 1, 0, 1, 0], np.int8)
    kept = with_tiers(rows, tiers)
    assert (kept.point_id.tolist(), kept.status.tolist()) == ([0, 1, 3], ["ok", "ambiguous", "collision"])
    ignored = with_tiers(rows, tiers, dropped="ignore")
    assert ignored.status.tolist() == ["ok", "ambiguous", "ambiguous", "collision", "small"]
    assert with_tiers(rows, np.full(5, 2, np.int8)).equals(rows)


def test_an_image_without_rows() -> None:
    for thresholds in ("off", "single", "fixed"):
        assert judge_rows(boxes([]), options=QualityOptions(thresholds=thresholds)).tolist() == []


@pytest.mark.parametrize("name", ["class_score", "mask_quality"])
@pytest.mark.parametrize("thresholds", ["single", "fixed"])
def test_rows_without_a_score_are_refused(name: str, thresholds: Any) -> None:
    rows = boxes([(0, 0, 4, 4)] * 2, **{"class_score": [0.5, 0.5], "mask_quality": [0.5, 0.5], name: [0.5, np.nan]})
    with pytest.raises(PipelineError, match=f"{name}: 1 of 2 rows have none.*quality.thresholds: off"):
        judge_rows(rows, options=QualityOptions(thresholds=thresholds))


def test_a_class_without_thresholds_is_refused() -> None:
    with pytest.raises(PipelineError, match="class_id .or stratum. 1 has no thresholds, which are there for 0 to 0"):
        judge_rows(ROWS_OF_ONE_IMAGE, options=QualityOptions(class_thr=(0.5,)))
    with pytest.raises(PipelineError, match="mask_thr: expected one number, or one for each of 2 classes"):
        judge_rows(ROWS_OF_ONE_IMAGE, options=QualityOptions(class_thr=(0.5, 0.5), mask_thr=(0.5, 0.5, 0.5)))


RANGED = sorted(name for name, value in asdict(QualityOptions()).items() if isinstance(value, float))


@pytest.mark.parametrize("name", RANGED)
@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_options_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected a number from 0 to 1, got {value}"):
        QualityOptions(**{name: value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"thresholds": "dual"}, "thresholds: expected one of off, single, fixed"),
        ({"class_thr": (0.5, 1.5)}, "class_thr: expected a number from 0 to 1, got 1.5"),
        ({"mask_thr": ()}, "mask_thr: expected a number, or one for each class"),
        ({"class_thr_min": 0.7}, "class_thr_min: expected at most class_thr_max .0.6., got 0.7"),
        ({"mask_thr_max": 0.1}, "mask_thr_min: expected at most mask_thr_max"),
        ({"min_area_px": -1}, "min_area_px: expected at least 0"),
        ({"calibration_rows": 0}, "calibration_rows: expected at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QualityOptions(**values)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (((), (), (), ()), "expected as many of both, and at least one"),
        (((0.5,), (0.5, 0.5), (0.5,), (0.5, 0.5)), "got 1 and 2"),
        (((1.1,), (0.5,), (0.5,), (0.5,)), "class_thr: expected numbers from 0 to 1, got 1.1"),
        (((0.5,), (math.nan,), (0.5,), (0.5,)), "mask_thr: expected numbers"),
        (((0.5,), (0.5,), (0.5,), (0.6,)), "mask_floor: expected one for each threshold and not above"),
        (((0.5,), (0.5,), (), (0.5,)), "class_floor: expected one for each threshold"),
    ],
)
def test_limits_that_do_not_fit_are_refused(lists: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(*lists)
