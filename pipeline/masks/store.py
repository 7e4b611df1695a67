"""A mask store: the instances of many images in a few Parquet files, with access to any one image.

Rows stand sorted by (image_id, point_id). A row group holds whole images, so one image is one read of one group. The
optional columns are there if any image has a value for them.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.compute.files import PARQUET_OPTIONS, fresh_folder, write_table
from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.schema import (
    DICTIONARY_COLUMNS,
    IMAGES_SCHEMA,
    OPTIONAL_FIELDS,
    Provenance,
    instances_to_batch,
    metadata_to_provenance,
    present_columns,
    provenance_to_metadata,
    row_schema,
    table_to_instances,
)

GROUP_ROWS = 2048
"""A row group ends with the image that reaches this many rows."""
FILE_GROUPS = 128
"""Row groups in a file; more would make its footer slow to read."""
IMAGES_FILE = "images.parquet"
_SPILL_FILE = ".unsorted.arrow"


class MaskStore:
    """A store on disk, opened for reading; use :meth:`open`.

    Attributes:
        path: The store's folder.
        image_ids: All images, sorted, those without instances too.
        provenance: What made the masks.
    """

    def __init__(self, path: Path, images: pa.Table, provenance: Provenance) -> None:
        self.path = path
        self.provenance = provenance
        self.image_ids: list[str] = images.column("image_id").to_pylist()
        self._index = {image_id: i for i, image_id in enumerate(self.image_ids)}
        self._sizes_hw = np.stack([images.column(name).to_numpy() for name in ("height_px", "width_px")], axis=1)
        self._n_instances: npt.NDArray[np.int32] = images.column("n_instances").to_numpy()
        self._place: list[tuple[str | None, int | None, int | None]] = list(
            zip(*(images.column(name).to_pylist() for name in ("file", "row_group", "row_start")), strict=True)
        )
        self._footers: dict[str, pq.FileMetaData] = {}
        self._last_group: tuple[tuple[str, int], pa.Table] | None = None

    @classmethod
    def open(cls, path: Path) -> "MaskStore":
        """Open a store; this reads its index and, later, only what is asked for.

        Raises:
            PipelineError: If there is no store, it is damaged, or its schema version is not the one read here.
        """
        index = path / IMAGES_FILE
        if not index.is_file():
            state = "has no images.parquet" if path.is_dir() else "does not exist"
            raise PipelineError(
                f"{path}: expected a mask store, but the folder {state}; run the stage that makes it first"
            )
        with _clear_read_errors(index), pq.ParquetFile(index) as file:
            provenance = metadata_to_provenance(file.schema_arrow.metadata, index)
            return cls(path, file.read(use_threads=False), provenance)

    @staticmethod
    @contextlib.contextmanager
    def create(path: Path, provenance: Provenance) -> Iterator["MaskStoreWriter"]:
        """Write a store, which appears at ``path`` when the block ends well and not at all when it does not.

        Args:
            path: Folder of the store; an older one is replaced.
            provenance: What made the masks.

        Yields:
            A writer; images may be added in any order.
        """
        with fresh_folder(path) as folder:
            writer = MaskStoreWriter(folder, provenance)
            try:
                yield writer
            except BaseException:
                writer.abandon()
                raise
            writer.finish()

    def __len__(self) -> int:
        """Give the number of images."""
        return len(self.image_ids)

    def __contains__(self, image_id: object) -> bool:
        """Tell whether the store lists this image."""
        return image_id in self._index

    @property
    def files(self) -> list[Path]:
        """The Parquet files that hold rows, in order; for SQL over the whole store."""
        return [self.path / name for name in dict.fromkeys(place[0] for place in self._place) if name is not None]

    def size_hw(self, image_id: str) -> tuple[int, int]:
        """Give an image's height and width in pixels."""
        height, width = self._sizes_hw[self._row(image_id)].tolist()
        return height, width

    def n_instances(self, image_id: str) -> int:
        """Give the number of an image's rows, without reading them."""
        return int(self._n_instances[self._row(image_id)])

    def instances(self, image_id: str) -> Instances:
        """Read the rows of one image, sorted by point_id.

        Raises:
            PipelineError: If the store has no such image, or its file is missing or damaged.
        """
        row = self._row(image_id)
        name, group, start = self._place[row]
        if name is None or group is None or start is None:
            return Instances.empty(self.size_hw(image_id))
        table = self._read_group(name, group).slice(start, int(self._n_instances[row]))
        try:
            return table_to_instances(table, self.size_hw(image_id))
        except ValueError as error:
            raise PipelineError(f"{self.path / name}: the rows of {image_id} are damaged ({error})") from error

    def label_map(self, image_id: str) -> npt.NDArray[np.int32]:
        """Paint the masks of one image: (H, W) int32, 0 for background, k + 1 for row k of :meth:`instances`."""
        instances = self.instances(image_id)
        try:
            return instances.label_map()
        except ValueError as error:
            raise PipelineError(
                f"{self.path}: a mask of {image_id} is damaged ({error}); make the store again"
            ) from error

    def read_columns(self, columns: Sequence[str]) -> pa.Table:
        """Read some columns of all rows, in the store's order; an optional column that the store lacks is all null."""
        schema = row_schema(OPTIONAL_FIELDS)
        schema = pa.schema([schema.field(name) for name in columns])
        tables = [schema.empty_table()]
        for file_path in self.files:
            with _clear_read_errors(file_path), pq.ParquetFile(file_path) as file:
                there = [name for name in columns if name in file.schema_arrow.names]
                table = file.read(columns=there, use_threads=False).replace_schema_metadata(None)
            for name in columns:
                if name not in there:
                    table = table.append_column(schema.field(name), pa.nulls(len(table), schema.field(name).type))
            tables.append(table.select(columns).cast(schema))
        return pa.concat_tables(tables)

    def _row(self, image_id: str) -> int:
        try:
            return self._index[image_id]
        except KeyError:
            raise PipelineError(
                f"{self.path}: has no image {image_id!r}; it lists {len(self)} images"
                + (f", the first is {self.image_ids[0]!r}" if self.image_ids else "")
            ) from None

    def _read_group(self, name: str, group: int) -> pa.Table:
        """Read a row group; the last one is kept, since neighbours in the index share it."""
        last = self._last_group
        if last is not None and last[0] == (name, group):
            return last[1]
        path = self.path / name
        with _clear_read_errors(path), pq.ParquetFile(path, metadata=self._footers.get(name)) as file:
            if name not in self._footers:
                metadata_to_provenance(file.schema_arrow.metadata, path)
                self._footers[name] = file.metadata
            table = file.read_row_group(group, use_threads=False)
        self._last_group = ((name, group), table)
        return table


class MaskStoreWriter:
    """Takes images one by one and lays them out; made by :meth:`MaskStore.create`.

    Rows wait unsorted in a file, not in memory, so that a store may be larger than memory and the order of ``add`` is
    of no account.
    """

    def __init__(self, folder: Path, provenance: Provenance) -> None:
        self._folder = folder
        self._metadata = provenance_to_metadata(provenance)
        self._sizes_hw: dict[str, tuple[int, int]] = {}
        self._optional: set[str] = set()
        self._spill = pa.OSFile(str(folder / _SPILL_FILE), "wb")
        self._batches = pa.ipc.new_file(self._spill, row_schema(OPTIONAL_FIELDS))

    def add(self, image_id: str, instances: Instances) -> None:
        """Add one image with its instances, of which there may be none.

        Raises:
            ValueError: If the image was added before.
        """
        if image_id in self._sizes_hw:
            raise ValueError(f"image_id: {image_id!r} was added twice")
        self._sizes_hw[image_id] = instances.size_hw
        self._optional |= present_columns(instances)
        self._batches.write_batch(instances_to_batch(image_id, instances, optional=OPTIONAL_FIELDS))

    def abandon(self) -> None:
        """Close what is open, before the folder is removed."""
        self._batches.close()
        self._spill.close()

    def finish(self) -> None:
        """Lay all rows out in canonical order and write the index."""
        self.abandon()
        numbers = {image_id: i for i, image_id in enumerate(self._sizes_hw)}
        schema = row_schema(self._optional)
        layout = _Layout(self._folder, schema.with_metadata(self._metadata))
        with pa.memory_map(str(self._folder / _SPILL_FILE)) as source:
            batches = pa.ipc.open_file(source)
            for image_id in sorted(numbers):
                layout.add(batches.get_batch(numbers[image_id]).select(schema.names))
            layout.close()
            del batches
        (self._folder / _SPILL_FILE).unlink()
        image_ids = sorted(numbers)
        columns = {
            "image_id": image_ids,
            "height_px": [self._sizes_hw[image_id][0] for image_id in image_ids],
            "width_px": [self._sizes_hw[image_id][1] for image_id in image_ids],
            **layout.index,
        }
        images = pa.table(columns, schema=IMAGES_SCHEMA.with_metadata(self._metadata))
        write_table(images, self._folder / IMAGES_FILE)


class _Layout:
    """Groups images, in the order they come, into row groups and files."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.index: dict[str, list[str | int | None]] = {
            "n_instances": [],
            "file": [],
            "row_group": [],
            "row_start": [],
        }
        self._folder = folder
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._file = self._group = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        n = batch.num_rows
        place = (self._file_name(), self._group, self._rows) if n else (None, None, None)
        for name, value in zip(self.index, (n, *place), strict=True):
            self.index[name].append(value)
        if n:
            self._waiting.append(batch)
            self._rows += n
        if self._rows >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._close_file()

    def _file_name(self) -> str:
        return f"part-{self._file:04d}.parquet"

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._writer is None:
            options = {**PARQUET_OPTIONS, "use_dictionary": DICTIONARY_COLUMNS}
            self._writer = pq.ParquetWriter(self._folder / self._file_name(), self._schema, **options)
        table = pa.Table.from_batches(self._waiting).combine_chunks()
        self._writer.write_table(table.cast(self._schema), row_group_size=max(self._rows, 1))
        self._waiting, self._rows = [], 0
        self._group += 1
        if self._group == FILE_GROUPS:
            self._close_file()
            self._file, self._group = self._file + 1, 0

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@contextlib.contextmanager
def _clear_read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise PipelineError(f"{path}: is missing from the store; make the store again or pull it with dvc") from error
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(f"{path}: cannot be read as Parquet ({error}); make the store again") from error
