import math
from typing import Any

import numpy as np
import pytest

from pipeline.report import quality_view
from pipeline.report.quality_view import (
    N_BINS,
    QualityView,
    calibration_error,
    class_reliability,
    kept_precision,
    mask_reliability,
    plane_table,
    reliability,
    yield_table,
)
from tests.report.judged_rows import judged


def plain_reliability(scores: list[float], observed: list[float]) -> list[dict[str, float]]:
    rows = []
    for k in range(N_BINS):
        low, high = k / N_BINS, (k + 1) / N_BINS
        inside = [i for i, s in enumerate(scores) if low <= s < high or (k == N_BINS - 1 and s == 1)]
        if not inside:
            continue
        n = len(inside)
        p = sum(observed[i] for i in inside) / n
        z = 1.96
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(max(p * (1 - p), 0) / n + z * z / (4 * n * n))
        rows.append(
            {
                "bin_low": low, "bin_high": high, "rows": n, "mean_score": sum(scores[i] for i in inside) / n,
                "observed": p, "observed_low": max(middle - half, 0), "observed_high": min(middle + half, 1),
            }
        )  # fmt: skip
    return rows


def test_reliability_is_that_of_a_plain_loop_and_counts_only_rows_that_say_something() -> None:
    view = judged(700)
    said = np.flatnonzero(view.class_counts)
    assert 0 < len(said) < 700
    for table, scores, observed in (
        (class_reliability(view), view.class_score[said], view.class_right[said]),
        (mask_reliability(view), view.mask_quality, view.iou),
    ):
        plain = plain_reliability([float(s) for s in scores], [float(o) for o in observed])
        found = table.to_pylist()
        assert len(found) == len(plain) > 5
        for one, other in zip(found, plain, strict=True):
            assert one == pytest.approx(other, abs=1e-6)


def test_reliability_by_hand() -> None:
    table = reliability(np.array([0.0, 0.05, 0.06, 1.0, 0.95]), np.array([0.0, 1.0, 0.0, 1.0, 1.0])).to_pydict()
    assert table["bin_low"] == [0.0, 0.05, 0.95]
    assert table["rows"] == [1, 2, 2]
    assert table["mean_score"] == [0.0, 0.055, 0.975]
    assert table["observed"] == [0.0, 0.5, 1.0]
    assert table["observed_high"][2] == 1.0
    assert table["observed_low"][2] == pytest.approx(0.342372, abs=1e-6)


def test_calibration_error_weighs_bins_by_their_rows() -> None:
    table = reliability(np.array([0.2, 0.2, 0.2, 0.9]), np.array([0.2, 0.2, 0.2, 0.5]))
    assert calibration_error(table) == pytest.approx(0.1)
    assert calibration_error(table.slice(0, 0)) is None


def test_plane_has_every_row_in_order() -> None:
    view = judged(50)
    table = plane_table(view).to_pydict()
    assert table["stratum"] == [view.names[k] for k in view.stratum]
    assert table["class_score"] == [round(float(s), 6) for s in view.class_score]
    assert table["mask_quality"] == [round(float(s), 6) for s in view.mask_quality]
    assert table["iou"] == [round(float(s), 6) for s in view.iou]
    assert table["class_right"] == view.class_right.tolist()
    assert table["tier"] == [("drop", "ambiguous", "keep")[t] for t in view.tier]
    assert set(table["tier"]) == {"drop", "ambiguous", "keep"}


def test_of_many_rows_some_of_each_stratum_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    view = judged(900)
    monkeypatch.setattr(quality_view, "PLANE_ROWS", 90)
    shown = view.shown()
    assert len(set(shown.tolist())) == 90
    assert (np.diff(shown) > 0).all()
    share = np.bincount(view.stratum[shown], minlength=3)
    assert np.abs(share - np.bincount(view.stratum, minlength=3) / 10).max() <= 1
    assert plane_table(view).num_rows == 90


def test_yields_are_spread_over_rows() -> None:
    view = judged(0, ("a", "b"), yields=np.array([[1, 2, 3], [4, 5, 6]]))
    assert yield_table(view).to_pylist() == [
        {"stratum": "a", "tier": "keep", "rows": 3},
        {"stratum": "a", "tier": "ambiguous", "rows": 2},
        {"stratum": "a", "tier": "drop", "rows": 1},
        {"stratum": "b", "tier": "keep", "rows": 6},
        {"stratum": "b", "tier": "ambiguous", "rows": 5},
        {"stratum": "b", "tier": "drop", "rows": 4},
    ]


def test_precision_is_of_kept_rows_whose_mask_and_class_are_right() -> None:
    view = judged(
        6, ("a", "b", "c"), stratum=np.array([0, 0, 0, 0, 1, 1]), tier=np.array([2, 2, 2, 2, 2, 1]),
        iou=np.array([0.5, 0.49, 0.9, 0.8, 0.6, 0.9]), class_right=np.array([1, 1, 0, 1, 1, 1], dtype=bool),
    )  # fmt: skip
    assert kept_precision(view, 0) == (0.5, 4)
    assert kept_precision(view, 1) == (1.0, 1)
    assert kept_precision(view, 2) == (None, 0)
    assert kept_precision(view) == (0.6, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iou": np.zeros(3)}, r"iou: expected shape \(4,\), got \(3,\)"),
        ({"class_thr": np.zeros(3)}, r"class_thr: expected shape \(2,\)"),
        ({"mask_floor": np.zeros(1)}, r"mask_floor: expected shape \(2,\)"),
        ({"yields": np.zeros((2, 2), dtype=int)}, r"yields: expected shape \(2, 3\)"),
        ({"class_score": np.array([0.1, np.nan, 0.2, 0.3])}, "class_score: expected numbers from 0 to 1, got nan"),
        ({"mask_quality": np.array([0.1, 1.1, 0.2, 1.2])}, r"mask_quality: .* got 1.1 \(of 2 such\)"),
        ({"stratum": np.array([0, 1, 2, 0])}, "stratum: expected numbers from 0 to 1, got 2"),
        ({"tier": np.array([0, 1, -1, 2])}, "tier: expected numbers from 0 to 2, got -1"),
    ],
)
def test_columns_that_do_not_belong_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judged(4, ("a", "b"), **changes)


def test_rows_without_strata_are_refused() -> None:
    view = judged(1, ("a",))
    with pytest.raises(ValueError, match="stratum: expected numbers from 0 to -1"):
        QualityView(**(vars(view) | {"names": (), "class_thr": None, "mask_thr": None, "class_floor": None,
                                     "mask_floor": None, "yields": np.zeros((0, 3), dtype=int)}))  # fmt: skip
