from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import PipelineError
from pipeline.masks.instances import SCORE_COLUMNS, Instances
from pipeline.masks.rle import Window
from pipeline.masks.schema import (
    ROW_SCHEMA,
    Provenance,
    instances_from_bytes,
    instances_to_batch,
    instances_to_bytes,
    metadata_to_provenance,
    provenance_to_metadata,
    row_schema,
    table_to_instances,
)

FILE = Path("part-0000.parquet")


def two_instances(**optional: Any) -> Instances:
    windows = [Window(np.ones((2, 2), bool), 1, 0), Window(np.zeros((0, 0), bool), 0, 0)]
    return Instances.from_windows(
        (5, 7), windows, point_id=[8, 3], points_xy=np.array([[1.5, 0.5], [-4.0, 9.0]]), radius_px=[2.0, np.nan],
        score=[0.25, np.nan], source=["head", "fallback"], status=["ok", "empty"], **optional,
    )  # fmt: skip


def test_rows_have_the_columns_of_the_design() -> None:
    names = (
        "image_id point_id class_id x_px y_px radius_px bbox_x bbox_y bbox_w bbox_h area_px height_px width_px rle "
        "score pred_iou stability leak_frac clipped_frac class_score mask_quality source status round"
    )
    assert ROW_SCHEMA.names == names.split()


def test_rows_stand_by_point_and_nan_is_null() -> None:
    rows = pa.Table.from_batches([instances_to_batch("a/b", two_instances())])
    assert rows.schema == ROW_SCHEMA
    assert rows["image_id"].to_pylist() == ["a/b", "a/b"]
    assert rows["point_id"].to_pylist() == [3, 8]
    assert rows["score"].to_pylist() == [None, 0.25]
    assert rows["radius_px"].to_pylist() == [None, 2.0]
    assert rows["bbox_x"].to_pylist() == [0, 1]
    assert {rows[name].null_count for name in SCORE_COLUMNS[1:]} == {2}


def test_rows_come_back_as_instances() -> None:
    rows = pa.Table.from_batches([instances_to_batch("a", two_instances())])
    assert table_to_instances(rows, (5, 7)).equals(two_instances()[[1, 0]])
    assert len(table_to_instances(rows.slice(0, 0), (5, 7))) == 0


@pytest.mark.parametrize(
    "provenance", [Provenance("disc", 1), Provenance("edp_sam", 2, {"b": [1, 2.5], "a": {"c": None}}, "ff")]
)
def test_provenance_round_trip(provenance: Provenance) -> None:
    assert metadata_to_provenance(provenance_to_metadata(provenance), FILE) == provenance


def test_metadata_does_not_depend_on_the_order_of_params() -> None:
    first, second = Provenance("m", 1, {"a": 1, "b": 2}), Provenance("m", 1, {"b": 2, "a": 1})
    assert provenance_to_metadata(first) == provenance_to_metadata(second)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "part-0000.parquet: not a file of a mask store"),
        ({b"other": b"1"}, "part-0000.parquet: not a file of a mask store"),
        ({b"mask_store.schema_version": b"99"}, "schema version 99, but this code reads version 1; run the stage"),
        ({b"mask_store.schema_version": b"1"}, "its provenance cannot be read"),
    ],
)
def test_files_that_cannot_be_read_are_refused(metadata: dict[bytes, bytes] | None, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        metadata_to_provenance(metadata, FILE)


OPTIONAL: dict[str, Any] = {
    "nms_decay": [0.5, np.nan],
    "class_probs": [[0.25, 0.5, np.nan], [np.nan, np.nan, np.nan]],
    "prob_q8": [None, b"\x00\x01"],
}


@pytest.mark.parametrize("names", [(), ("prob_q8",), ("class_probs",), ("nms_decay", "prob_q8"), tuple(OPTIONAL)])
def test_optional_columns_are_there_where_they_have_values(names: tuple[str, ...]) -> None:
    instances = two_instances(**{name: OPTIONAL[name] for name in names})
    rows = pa.Table.from_batches([instances_to_batch("a", instances)])
    assert rows.schema == row_schema(names)
    assert rows.schema.names == [*ROW_SCHEMA.names, *names]
    assert table_to_instances(rows, (5, 7)).equals(instances[[1, 0]])
    assert instances_from_bytes(instances_to_bytes(instances), (5, 7)).equals(instances[[1, 0]])


def test_optional_columns_asked_for_are_null_where_they_have_no_values() -> None:
    rows = pa.Table.from_batches([instances_to_batch("a", two_instances(), optional=OPTIONAL)])
    assert rows.schema.names == [*ROW_SCHEMA.names, "nms_decay", "class_probs", "prob_q8"]
    assert [rows[name].null_count for name in OPTIONAL] == [2, 2, 2]
    assert table_to_instances(rows, (5, 7)).equals(two_instances()[[1, 0]])


def test_class_probs_are_null_in_a_row_without_them() -> None:
    rows = pa.Table.from_batches([instances_to_batch("a", two_instances(**OPTIONAL))])
    assert rows["class_probs"].to_pylist() == [None, [0.25, 0.5, None]]
    assert rows["nms_decay"].to_pylist() == [None, 0.5]
