from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.masks.instances import SCORE_COLUMNS, Instances
from pipeline.masks.rle import Window

SIZE_HW = (12, 20)


def three_instances(**changes: Any) -> Instances:
    windows = [
        Window(np.ones((2, 3), bool), 0, 1),
        Window(np.eye(4, dtype=bool), 5, 2),
        Window(np.zeros((1, 1), bool), 3, 3),
    ]
    columns: dict[str, Any] = {
        "point_id": [4, 7, 9],
        "points_xy": np.array([[1.0, 1.5], [6.0, 3.0], [-2.0, 50.0]]),
        "radius_px": [2.0, 3.5, 1.0],
        "score": [0.9, 0.5, np.nan],
        "source": ["head", "superpixel", "fallback"],
        "status": ["ok", "ok", "empty"],
    }
    windows = [
        Window(np.ones((2, 3), bool), 0, 1),
        Window(np.eye(4, dtype=bool), 5, 2),
        Window(np.zeros((1, 1), bool), 3, 3),
    ]
    return Instances.from_windows(SIZE_HW, windows, **(columns | changes))


def test_columns_get_their_types_and_boxes_are_tight() -> None:
    instances = three_instances()
    assert len(instances) == 3
    assert instances.point_id.dtype == np.int64
    assert instances.boxes_xywh.tolist() == [[0, 1, 3, 2], [5, 2, 4, 4], [0, 0, 0, 0]]
    assert instances.area_px.tolist() == [6, 4, 0]
    assert instances.class_id.tolist() == [0, 0, 0]
    assert instances.score.dtype == np.float32
    assert np.isnan(instances.pred_iou).all()
    assert instances.round.tolist() == [0, 0, 0]


def test_window_decodes_inside_the_box() -> None:
    mask, x0, y0 = three_instances().window(1)
    assert (x0, y0) == (5, 2)
    np.testing.assert_array_equal(mask, np.eye(4, dtype=bool))
    assert three_instances().window(2).mask.shape == (0, 0)


@pytest.mark.parametrize(
    ("key", "ids"),
    [
        (1, [7]),
        (-1, [9]),
        (slice(1, None), [7, 9]),
        ([2, 0], [9, 4]),
        (np.array([True, False, True]), [4, 9]),
        (np.zeros(3, dtype=bool), []),
    ],
)
def test_indexing_keeps_columns_together(key: Any, ids: list[int]) -> None:
    chosen = three_instances()[key]
    assert chosen.point_id.tolist() == ids
    everything = three_instances()
    for k, point_id in enumerate(ids):
        row = everything.point_id.tolist().index(point_id)
        assert chosen.rle[k] == everything.rle[row]
        assert chosen.source[k] == everything.source[row]
        np.testing.assert_array_equal(chosen.points_xy[k], everything.points_xy[row])


def test_index_out_of_range_is_an_error() -> None:
    with pytest.raises(IndexError, match="out of bounds"):
        three_instances()[3]


def test_equals_sees_every_column() -> None:
    assert three_instances().equals(three_instances())
    assert not three_instances().equals(three_instances(score=[0.9, 0.5, 0.1]))
    assert not three_instances().equals(three_instances(status=["ok", "ok", "fallback"]))
    assert not three_instances().equals(three_instances()[[0, 1]])


@settings(deadline=None)
@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=15), elements=st.integers(0, 6)))
def test_label_map_round_trip(label_map: np.ndarray) -> None:
    instances = Instances.from_label_map(
        label_map, point_id=np.arange(6), points_xy=np.zeros((6, 2)), radius_px=np.ones(6), source="truth", status="ok"
    )
    np.testing.assert_array_equal(instances.label_map(), label_map)
    np.testing.assert_array_equal(instances.area_px, [(label_map == k + 1).sum() for k in range(6)])


def test_empty_instances() -> None:
    instances = Instances.empty(SIZE_HW)
    assert len(instances) == 0
    assert instances.points_xy.shape == (0, 2)
    assert instances.boxes_xywh.shape == (0, 4)
    assert not instances.label_map().any()
    assert instances.equals(Instances.from_label_map(
        np.zeros(SIZE_HW, np.int32), point_id=[], points_xy=np.zeros((0, 2)), radius_px=[], source=[], status=[]
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"point_id": [1, 1, 2]}, r"point_id: expected each once, got \[1\] more than once"),
        ({"radius_px": [1.0, 2.0]}, r"radius_px: expected shape \(3,\) as there are 3 masks, got \(2,\)"),
        ({"points_xy": np.zeros((3, 3))}, r"points_xy: expected shape \(3, 2\)"),
        ({"status": ["ok", "good", "ok"]}, "status: expected one of ambiguous, collision, .*, small, got good"),
        ({"score": [0.1]}, r"score: expected shape \(3,\)"),
    ],
)
def test_columns_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        three_instances(**changes)


def test_a_box_outside_the_image_is_refused() -> None:
    good = three_instances()
    names = ("point_id", "class_id", "points_xy", "radius_px", "area_px", "rle", "source", "status", "round")
    columns = {name: getattr(good, name) for name in (*names, *SCORE_COLUMNS)}
    boxes = good.boxes_xywh.copy()
    boxes[1] = [18, 2, 4, 4]
    with pytest.raises(ValueError, match=r"boxes_xywh: row 1 is \[18, 2, 4, 4\], outside the image"):
        Instances(size_hw=SIZE_HW, boxes_xywh=boxes, **columns)


@pytest.mark.parametrize("bad", [-1, 4])
def test_a_label_without_a_row_is_refused(bad: int) -> None:
    label_map = np.zeros((3, 3), dtype=np.int32)
    label_map[1, 1] = bad
    with pytest.raises(ValueError, match="label_map: expected values from 0 to 3"):
        Instances.from_label_map(
            label_map, point_id=[0, 1, 2], points_xy=np.zeros((3, 2)), radius_px=np.ones(3), source="truth", status="ok"
        )


OPTIONAL = {
    "nms_decay": [0.5, np.nan, 1.0],
    "class_probs": [[0.25, 0.5], [np.nan, np.nan], [0.0, 1.0]],
    "prob_q8": [b"abc", None, b""],
}


def test_optional_columns_travel_with_their_rows() -> None:
    plain, more = three_instances(), three_instances(**OPTIONAL)
    assert (plain.nms_decay, plain.class_probs, plain.prob_q8) == (None, None, None)
    chosen = more[[2, 0]]
    assert chosen.nms_decay is not None
    assert chosen.class_probs is not None
    assert chosen.nms_decay.dtype == chosen.class_probs.dtype == np.float32
    assert chosen.nms_decay.tolist() == [1.0, 0.5]
    assert chosen.class_probs.tolist() == [[0.0, 1.0], [0.25, 0.5]]
    assert chosen.prob_q8 == [b"", b"abc"]
    assert more.equals(three_instances(**OPTIONAL))
    for name, other in (
        ("nms_decay", [0.5, 0.1, 1.0]),
        ("class_probs", np.ones((3, 2))),
        ("prob_q8", [b"", None, b""]),
    ):
        assert not more.equals(three_instances(**OPTIONAL | {name: other}))
        assert not more.equals(three_instances(**OPTIONAL | {name: None}))
        assert not plain.equals(three_instances(**{name: other}))


def test_an_optional_column_without_a_value_is_none() -> None:
    nothing = three_instances(nms_decay=[np.nan] * 3, class_probs=np.full((3, 4), np.nan), prob_q8=[None] * 3)
    assert nothing.equals(three_instances())
    assert three_instances(**OPTIONAL)[[1]].equals(three_instances()[[1]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nms_decay": [0.5]}, r"nms_decay: expected shape \(3,\) as there are 3 masks, got \(1,\)"),
        ({"class_probs": [0.5, 0.5, 0.5]}, r"class_probs: expected shape \(3, C\) as there are 3 masks, got \(3,\)"),
        ({"prob_q8": [b""]}, "prob_q8: expected 3 values as there are 3 masks, got 1"),
    ],
)
def test_optional_columns_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        three_instances(**changes)


@pytest.mark.parametrize("status", ["small", "duplicate", "collision"])
def test_points_of_a_lookup_may_have_lost_their_mask(status: str) -> None:
    assert three_instances(status=[status, "ok", "empty"]).status[0] == status
