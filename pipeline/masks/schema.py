"""The Parquet form of a mask store: its columns, its metadata and the conversion of rows to and from Instances."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import PipelineError
from pipeline.masks.instances import OPTIONAL_COLUMNS, SCORE_COLUMNS, Instances

SCHEMA_VERSION = 1
_VERSION_KEY = b"mask_store.schema_version"
_PROVENANCE_KEY = b"mask_store.provenance"
_BOX_COLUMNS = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")

ROW_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("point_id", pa.int64(), nullable=False),
        pa.field("class_id", pa.int64(), nullable=False),
        pa.field("x_px", pa.float64(), nullable=False),
        pa.field("y_px", pa.float64(), nullable=False),
        pa.field("radius_px", pa.float64()),
        *(pa.field(name, pa.int32(), nullable=False) for name in _BOX_COLUMNS),
        pa.field("area_px", pa.int64(), nullable=False),
        pa.field("height_px", pa.int32(), nullable=False),
        pa.field("width_px", pa.int32(), nullable=False),
        pa.field("rle", pa.binary(), nullable=False),
        *(pa.field(name, pa.float32()) for name in SCORE_COLUMNS),
        pa.field("source", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
    ]
)
"""One row per instance; null stands for NaN. Masks are COCO compressed counts of the full frame, column-major."""

OPTIONAL_FIELDS = {
    "nms_decay": pa.field("nms_decay", pa.float32()),
    "class_probs": pa.field("class_probs", pa.list_(pa.float32())),
    "prob_q8": pa.field("prob_q8", pa.binary()),
}
"""Columns that follow in a store of a method that gives them, and in no other; null where a row has no value."""
assert tuple(OPTIONAL_FIELDS) == OPTIONAL_COLUMNS

IMAGES_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("height_px", pa.int32(), nullable=False),
        pa.field("width_px", pa.int32(), nullable=False),
        pa.field("n_instances", pa.int32(), nullable=False),
        pa.field("file", pa.string()),
        pa.field("row_group", pa.int32()),
        pa.field("row_start", pa.int32()),
    ]
)
"""One row per image, those without instances too (their place is null): file, row group, first row within it."""

DICTIONARY_COLUMNS = ["image_id", "source", "status"]
"""Text that repeats; the other columns gain nothing from a dictionary and are slower with one."""


@dataclass(frozen=True)
class Provenance:
    """Where the masks of a store come from: all that moves a mask, and nothing else.

    Args:
        algorithm: Name of the method, such as ``edp_sam``.
        algorithm_version: Raised by hand when the method gives other masks for the same input.
        params: Parameters that affect the result, as plain JSON values.
        weights_sha256: Digest of the weights in hexadecimal, where the method has weights.
    """

    algorithm: str
    algorithm_version: int
    params: Mapping[str, Any] = field(default_factory=dict)
    weights_sha256: str | None = None


def provenance_to_metadata(provenance: Provenance) -> dict[bytes, bytes]:
    """Give the key-value metadata of every file of a store, in a canonical form."""
    text = json.dumps(asdict(provenance), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {_VERSION_KEY: str(SCHEMA_VERSION).encode(), _PROVENANCE_KEY: text.encode()}


def metadata_to_provenance(metadata: Mapping[bytes, bytes] | None, path: Path) -> Provenance:
    """Read a file's metadata.

    Args:
        metadata: Key-value metadata of the file.
        path: The file, for the message.

    Raises:
        PipelineError: If the file is not of a mask store, or of a version that this code cannot read.
    """
    version = (metadata or {}).get(_VERSION_KEY)
    if version is None:
        raise PipelineError(f"{path}: not a file of a mask store (its metadata has no schema version)")
    if version != str(SCHEMA_VERSION).encode():
        raise PipelineError(
            f"{path}: written with mask store schema version {version.decode(errors='replace')}, but this code reads "
            f"version {SCHEMA_VERSION}; run the stage that wrote it again, or use the code that wrote it"
        )
    try:
        return Provenance(**json.loads((metadata or {})[_PROVENANCE_KEY]))
    except (KeyError, TypeError, ValueError) as error:
        raise PipelineError(f"{path}: its provenance cannot be read ({error}); make the store again") from error


def row_schema(optional: Collection[str] = ()) -> pa.Schema:
    """Give the schema of rows with some of the optional columns, in canonical order."""
    fields = [field for name, field in OPTIONAL_FIELDS.items() if name in optional]
    return pa.schema([*ROW_SCHEMA, *fields])


def present_columns(instances: Instances) -> set[str]:
    """Name the optional columns that have a value."""
    return {name for name in OPTIONAL_COLUMNS if getattr(instances, name) is not None}


def instances_to_batch(
    image_id: str, instances: Instances, *, optional: Collection[str] | None = None
) -> pa.RecordBatch:
    """Turn the instances of one image into rows, sorted by point_id.

    Args:
        image_id: Their image.
        instances: Its instances.
        optional: Optional columns to write, null where there are none; those that have a value when None.
    """
    n = len(instances)
    order = np.argsort(instances.point_id, kind="stable")
    if not np.array_equal(order, np.arange(n)):
        instances = instances[order]
    height, width = instances.size_hw
    columns: dict[str, pa.Array] = {
        "image_id": pa.repeat(pa.scalar(image_id, pa.string()), n),
        "x_px": pa.array(np.ascontiguousarray(instances.points_xy[:, 0])),
        "y_px": pa.array(np.ascontiguousarray(instances.points_xy[:, 1])),
        "radius_px": pa.array(instances.radius_px, from_pandas=True),
        "height_px": pa.repeat(pa.scalar(height, pa.int32()), n),
        "width_px": pa.repeat(pa.scalar(width, pa.int32()), n),
        "rle": pa.array(instances.rle, pa.binary()),
    }
    for i, name in enumerate(_BOX_COLUMNS):
        columns[name] = pa.array(np.ascontiguousarray(instances.boxes_xywh[:, i]))
    for name in SCORE_COLUMNS:
        columns[name] = pa.array(getattr(instances, name), from_pandas=True)
    for name in ("point_id", "class_id", "area_px", "round"):
        columns[name] = pa.array(getattr(instances, name))
    for name in ("source", "status"):
        columns[name] = pa.array(getattr(instances, name).tolist(), pa.string())
    schema = row_schema(present_columns(instances) if optional is None else optional)
    for name in schema.names[len(ROW_SCHEMA) :]:
        columns[name] = _optional_array(instances, name)
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)


def _optional_array(instances: Instances, name: str) -> pa.Array:
    kind = OPTIONAL_FIELDS[name].type
    column = getattr(instances, name)
    if column is None:
        return pa.nulls(len(instances), kind)
    if name != "class_probs":
        return pa.array(column, kind, from_pandas=name == "nms_decay")
    known = ~np.isnan(column).all(axis=1)
    ends = np.concatenate([[0], np.cumsum(known)]) * column.shape[1]
    # A list that begins at null is null; the offsets of the others bound their values.
    offsets = pa.array(ends.astype(np.int32), mask=np.append(~known, False))
    return pa.ListArray.from_arrays(offsets, pa.array(column[known].ravel(), from_pandas=True), type=kind)


def table_to_instances(table: pa.Table, size_hw: tuple[int, int]) -> Instances:
    """Turn the rows of one image into instances.

    Raises:
        ValueError: If the columns do not fit together.
    """

    def numbers(name: str) -> Any:
        return table.column(name).to_numpy()

    return Instances(
        size_hw=size_hw,
        points_xy=np.stack([numbers("x_px"), numbers("y_px")], axis=1),
        boxes_xywh=np.stack([numbers(name) for name in _BOX_COLUMNS], axis=1),
        rle=table.column("rle").to_pylist(),
        source=np.array(table.column("source").to_pylist(), dtype=np.str_),
        status=np.array(table.column("status").to_pylist(), dtype=np.str_),
        **{name: numbers(name) for name in ("point_id", "class_id", "radius_px", "area_px", "round", *SCORE_COLUMNS)},
        **{name: _optional_values(table, name) for name in OPTIONAL_COLUMNS if name in table.column_names},
    )


def _optional_values(table: pa.Table, name: str) -> Any:
    column = table.column(name)
    if column.null_count == len(column):
        return None
    if name == "prob_q8":
        return column.to_pylist()
    if name == "nms_decay":
        return column.to_numpy()
    known = column.is_valid().to_numpy()
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(int(known.sum()), -1)
    rows = np.full((len(known), values.shape[1]), np.nan, dtype=np.float32)
    rows[known] = values
    return rows


def instances_to_bytes(instances: Instances) -> bytes:
    """Write the rows of one image as an Arrow stream, for :func:`instances_from_bytes`."""
    sink = pa.BufferOutputStream()
    batch = instances_to_batch("", instances)
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def instances_from_bytes(data: bytes, size_hw: tuple[int, int]) -> Instances:
    """Read the rows of one image of ``size_hw`` pixels that :func:`instances_to_bytes` wrote.

    Raises:
        PipelineError: If they are something else.
    """
    try:
        with pa.ipc.open_stream(data) as reader:
            return table_to_instances(reader.read_all(), size_hw)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise PipelineError(
            f"a cached result cannot be read ({error}); clear the cache: python -m stages.cache gc --limit 0"
        ) from error
