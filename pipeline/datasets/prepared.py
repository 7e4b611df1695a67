"""A prepared data set: images, points and true masks as tables, whatever the source looked like."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.compute.files import read_table
from pipeline.errors import PipelineError
from pipeline.masks.store import MaskStore

IMAGES_FILE = "images.parquet"
POINTS_FILE = "points.parquet"
SOURCE_FILE = "source.json"
BROKEN_FILE = "broken.parquet"
TRUTH_FOLDER = "truth"
RENDERED_FOLDER = "images"
REGION = "region"
"""Name of the flag :class:`~pipeline.datasets.flags.PointFlag` of crowd regions."""
MADE_BY = "python -m stages.prepare"

IMAGES_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("split", pa.string()),
        ("height_px", pa.int32()),
        ("width_px", pa.int32()),
        ("digest", pa.string()),
        ("n_points", pa.int64()),
        ("attributes", pa.string()),
    ]
)
"""``path`` is relative to the data set's folder; ``digest`` is the file's SHA-256; ``attributes`` a JSON object."""

POINTS_SCHEMA = pa.schema(
    [
        ("image_id", pa.dictionary(pa.int32(), pa.string())),
        ("point_id", pa.int64()),
        ("x_px", pa.float64()),
        ("y_px", pa.float64()),
        ("class_id", pa.int64()),
        ("box_w_px", pa.float64()),
        ("box_h_px", pa.float64()),
        ("flags", pa.dictionary(pa.int32(), pa.string())),
    ]
)
"""Sorted by (image_id, point_id); ``point_id`` is the row of the point in its raw annotation, from 0, where crowd
regions are counted after all others."""

BROKEN_SCHEMA = pa.schema([("image_id", pa.string()), ("split", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True)
class ImageRow:
    """One image.

    Args:
        image_id: Path below the data set's own root without extension.
        path: The image file, usable as it stands.
        split: ``train``, ``val``, ``test`` or ``hidden``.
        size_hw: Height and width in pixels after EXIF rotation.
        digest: SHA-256 of the file, in hex.
        n_points: Number of annotated points, crowd regions left out; 0 in the split ``hidden``.
        attributes: What the source says about the image.
        n_regions: Number of crowd regions, whose rows follow those of the points in ``points.parquet``.
    """

    image_id: str
    path: Path
    split: str
    size_hw: tuple[int, int]
    digest: str
    n_points: int
    attributes: Mapping[str, str] = field(default_factory=dict)
    n_regions: int = 0


@dataclass(frozen=True)
class Points:
    """The points of one image, in the order of their ids.

    Args:
        points_xy: (N, 2) float64, pixels of the image, pixel centres are whole numbers.
        point_id: (N,) int64.
        class_id: (N,) int64.
        box_wh_px: (N, 2) float64 size of the head boxes, NaN where unknown; ``None`` where the source has none.
        flags: N strings, names of :class:`~pipeline.datasets.flags.PointFlag` joined by ``|``.
    """

    points_xy: NDArray[np.float64]
    point_id: NDArray[np.int64]
    class_id: NDArray[np.int64]
    box_wh_px: NDArray[np.float64] | None
    flags: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.point_id)


class Prepared:
    """The output folder of ``prepare``, opened for reading; points are read at first use.

    Args:
        folder: The ``prepared`` folder.
        images: Its images, sorted by id.
        source: The contents of ``source.json``: reader, its version and options, counts, class names.
    """

    def __init__(self, folder: Path, images: Sequence[ImageRow], source: Mapping[str, Any]) -> None:
        self.folder = folder
        self.images = list(images)
        self.source = source
        self._row_of = {row.image_id: index for index, row in enumerate(self.images)}
        counts = [row.n_points + row.n_regions for row in self.images]
        self._offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    @classmethod
    def open(cls, folder: Path) -> "Prepared":
        """Open a ``prepared`` folder; reads the list of images only, and of points where any is a crowd region.

        Raises:
            PipelineError: If ``prepare`` has not run, or its files are not what this version writes.
        """
        table = _read_table(folder / IMAGES_FILE, IMAGES_SCHEMA)
        source_path = folder / SOURCE_FILE
        try:
            source: dict[str, Any] = json.loads(source_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PipelineError(f"{source_path}: cannot be read ({error}); run {MADE_BY} again") from error
        n_regions = _regions_per_image(folder, table, source)
        rows = [
            ImageRow(
                image_id=row["image_id"],
                path=folder.parent / row["path"],
                split=row["split"],
                size_hw=(row["height_px"], row["width_px"]),
                digest=row["digest"],
                n_points=row["n_points"] - regions,
                attributes=json.loads(row["attributes"]),
                n_regions=regions,
            )
            for row, regions in zip(table.to_pylist(), n_regions, strict=True)
        ]
        return cls(folder, rows, source)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes 0, 1, …; empty where the source does not name them."""
        return tuple(self.source.get("class_names", ()))

    @property
    def class_source_ids(self) -> tuple[int, ...]:
        """The source's own numbers of the classes 0, 1, …, for exports; empty where it has none."""
        return tuple(self.source.get("class_source_ids", ()))

    def of_split(self, split: str) -> list[ImageRow]:
        """Images of one split, sorted by id."""
        return [row for row in self.images if row.split == split]

    def image(self, image_id: str) -> ImageRow:
        """Return one image's row.

        Raises:
            PipelineError: If the data set has no such image.
        """
        return self.images[self._index(image_id)]

    def require_split(self, image_ids: Sequence[str], splits: Collection[str], what: str) -> None:
        """Refuse images of other splits.

        Args:
            image_ids: The images.
            splits: Splits that they may be of.
            what: What they shall get, for the message.

        Raises:
            PipelineError: If one is in another split, or the data set has no such image.
        """
        others = [image_id for image_id in image_ids if self.image(image_id).split not in splits]
        if others:
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            raise PipelineError(
                f"{self.folder / IMAGES_FILE}: {what} are for training images only, but {', '.join(others[:5])}{more} "
                f"are in another split; run {MADE_BY} again, and the stages after it"
            )

    def points(self, image_id: str, *, regions: bool = False) -> Points:
        """Return one image's points, in the order of their ids.

        Args:
            image_id: The image.
            regions: Whether crowd regions, which are no objects, come too, after the points.

        Raises:
            PipelineError: If the data set has no such image.
        """
        index = self._index(image_id)
        row, start = self.images[index], int(self._offsets[index])
        rows = slice(start, start + row.n_points + (row.n_regions if regions else 0))
        columns = self._columns
        boxes_wh_px = columns.boxes_wh_px[rows]
        return Points(
            points_xy=columns.points_xy[rows],
            point_id=columns.point_id[rows],
            class_id=columns.class_id[rows],
            box_wh_px=None if np.isnan(boxes_wh_px).all() else boxes_wh_px,
            flags=tuple(columns.flag_names[code] for code in columns.flag_code[rows]),
        )

    @cached_property
    def truth(self) -> MaskStore | None:
        """The true masks, one row per point and crowd region, where the source has them."""
        path = self.folder / TRUTH_FOLDER
        return MaskStore.open(path) if path.is_dir() else None

    def _index(self, image_id: str) -> int:
        if image_id not in self._row_of:
            raise PipelineError(f"{self.folder / IMAGES_FILE}: has no image '{image_id}'; see the column image_id")
        return self._row_of[image_id]

    @cached_property
    def _columns(self) -> "_PointColumns":
        path = self.folder / POINTS_FILE
        table = _read_table(path, POINTS_SCHEMA).combine_chunks()
        if table.num_rows != int(self._offsets[-1]):
            raise PipelineError(
                f"{path}: expected {int(self._offsets[-1])} points as counted in {IMAGES_FILE}, got {table.num_rows}; "
                f"run {MADE_BY} again"
            )
        flags = table["flags"].unify_dictionaries().combine_chunks()
        # An empty chunked column combines to no chunk at all, which has no dictionary.
        empty = table.num_rows == 0
        return _PointColumns(
            points_xy=np.stack([table["x_px"].to_numpy(), table["y_px"].to_numpy()], axis=1),
            point_id=table["point_id"].to_numpy(),
            class_id=table["class_id"].to_numpy(),
            boxes_wh_px=np.stack([table["box_w_px"].to_numpy(), table["box_h_px"].to_numpy()], axis=1),
            flag_code=np.zeros(0, np.int32) if empty else flags.indices.to_numpy(zero_copy_only=False),
            flag_names=() if empty else tuple(flags.dictionary.to_pylist()),
        )


@dataclass(frozen=True)
class _PointColumns:
    """All points of a data set, in the order of the images."""

    points_xy: NDArray[np.float64]
    point_id: NDArray[np.int64]
    class_id: NDArray[np.int64]
    boxes_wh_px: NDArray[np.float64]
    flag_code: NDArray[np.int32]
    flag_names: tuple[str, ...]


def _regions_per_image(folder: Path, images: pa.Table, source: Mapping[str, Any]) -> list[int]:
    """Count the crowd regions of each image; points are read only where ``source.json`` tells of any."""
    if not source.get("flagged", {}).get(REGION):
        return [0] * images.num_rows
    flags = _read_table(folder / POINTS_FILE, POINTS_SCHEMA)["flags"].unify_dictionaries()
    is_region = np.zeros(0, np.int64)
    if flags.num_chunks:
        column = flags.combine_chunks()
        named = np.array([REGION in name.split("|") for name in column.dictionary.to_pylist()], np.int64)
        is_region = named[column.indices.to_numpy(zero_copy_only=False)]
    ends = np.cumsum(images["n_points"].to_numpy())
    before = np.concatenate([[0], np.cumsum(is_region)])
    if len(ends) and ends[-1] != len(is_region):
        raise PipelineError(
            f"{folder / POINTS_FILE}: expected {ends[-1]} points as counted in {IMAGES_FILE}, got {len(is_region)}; "
            f"run {MADE_BY} again"
        )
    counts: list[int] = np.diff(before[np.concatenate([[0], ends])]).tolist()
    return counts


def _read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a table of ``prepare`` and check its columns."""
    table = read_table(path, made_by=MADE_BY)
    if table.schema.remove_metadata() != schema:
        raise PipelineError(
            f"{path}: expected the columns {', '.join(schema.names)}, got {', '.join(table.schema.names)} "
            f"(or other types); run {MADE_BY} again"
        )
    return table
