from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import PipelineError
from pipeline.masks.instances import SCORE_COLUMNS, Instances
from pipeline.masks.rle import Window
from pipeline.masks.schema import (
    ROW_SCHEMA,
    Provenance,
    instances_to_batch,
    metadata_to_provenance,
    provenance_to_metadata,
    table_to_instances,
)

FILE = Path("part-0000.parquet")


def two_instances() -> Instances:
    windows = [Window(np.ones((2, 2), bool), 1, 0), Window(np.zeros((0, 0), bool), 0, 0)]
    return Instances.from_windows(
        (5, 7), windows, point_id=[8, 3], points_xy=np.array([[1.5, 0.5], [-4.0, 9.0]]), radius_px=[2.0, np.nan],
        score=[0.25, np.nan], source=["head", "fallback"], status=["ok", "empty"],
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
