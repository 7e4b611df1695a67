"""Anyone's images: a folder with one CSV or Parquet table of points (``image, x, y[, class][, split]``)."""

import csv
import hashlib
import io
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.datasets.annotation_files import read_lines
from pipeline.datasets.base import NO_PUBLISHED_COUNTS, SPLITS, RawEntry, RawImage
from pipeline.datasets.images import IMAGE_SUFFIXES
from pipeline.errors import PipelineError

TABLE_SUFFIXES = (".csv", ".parquet")
COLUMNS = ("image", "x", "y", "class", "split")
SPLIT_FOLDERS = {
    "train": "train",
    "train_data": "train",
    "val": "val",
    "valid": "val",
    "test": "test",
    "test_data": "test",
}
MAX_FAULTS_PER_IMAGE = 3


@dataclass(frozen=True)
class ImagePoints:
    """Rows of one image in the table."""

    points_xy: NDArray[np.float64]
    class_id: NDArray[np.int64]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class FolderReader:
    """Images below a folder, and the table of their points.

    The split comes from the column ``split``; else from folders named train, val and test; else a fixed share of the
    images, chosen by the digest of their names, is the test set. A row with empty x and y says that an image has no
    heads.

    Args:
        table: Name of the table below the folder; empty: the only ``.csv`` or ``.parquet`` file in it.
        test_frac: Share of the images for the test where neither a column nor folders say, from 0 to below 1.
        unlisted: Images without a row: ``error``, ``empty`` (they have no heads) or ``skip`` (leave them out).
    """

    table: str = ""
    test_frac: float = 0.2
    unlisted: Literal["error", "empty", "skip"] = "error"

    name: ClassVar[str] = "folder"
    version: ClassVar[int] = 1
    published: ClassVar[Mapping[str, tuple[int, int | None]]] = NO_PUBLISHED_COUNTS

    def __post_init__(self) -> None:
        """Raise ValueError for an option out of range."""
        if not 0 <= self.test_frac < 1:
            raise ValueError(f"test_frac must be at least 0 and below 1, got {self.test_frac}")
        if self.unlisted not in ("error", "empty", "skip"):
            raise ValueError(f"unlisted must be one of error, empty, skip, got '{self.unlisted}'")

    def scan(self, root: Path) -> list[RawEntry]:
        """Find the images and read the table.

        Raises:
            PipelineError: If there is no image or no table, or the table lacks a column.
        """
        path = self._find_table(root)
        images = _find_images(root)
        if not images:
            raise PipelineError(
                f"{root}: holds no images; put or link them there ({', '.join(sorted(IMAGE_SUFFIXES))})"
            )
        rows = list(_parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path))
        collected = _collect(rows, _Names(images))
        class_ids = _class_ids(collected)
        column_splits = any(image.splits for image in collected.values())
        split_of = {} if column_splits else _splits_of(sorted(images), self.test_frac)
        entries: list[RawEntry] = []
        for image_id in sorted(images.keys() | collected.keys()):
            image = collected.get(image_id, _Rows())
            if image_id not in images:
                fault = f"{path}: {image.faults[0]}: annotation without image; no image '{image_id}' below {root}"
                entries.append(RawEntry(image_id, "", None, path, fault))
                continue
            listed = image_id in collected
            if not listed and self.unlisted == "skip":
                continue
            faults = list(image.faults)
            if not listed and self.unlisted == "error":
                faults.append(
                    f"image without annotation; expected rows in {path.name} (one with empty x and y if there "
                    "are no heads; the reader's option unlisted: empty or skip accepts such images)"
                )
            if len(image.splits) > 1:
                faults.append(f"stands in the splits {', '.join(sorted(image.splits))} of {path.name}; keep one")
            split = min(image.splits) if image.splits else split_of.get(image_id, "train")
            payload = None if faults else image.points(class_ids)
            entries.append(RawEntry(image_id, split, images[image_id], path, _told(images[image_id], faults), payload))
        return entries

    def read(self, entry: RawEntry) -> RawImage:
        """Hand over what the scan read."""
        rows: ImagePoints = entry.payload
        return RawImage(
            image_id=entry.image_id,
            path=entry.image_path,
            split=entry.split,
            points_xy=rows.points_xy,
            class_id=rows.class_id,
            class_names=rows.class_names,
        )

    def _find_table(self, root: Path) -> Path:
        if self.table:
            path = root / self.table
            if not path.is_file() or path.suffix.lower() not in TABLE_SUFFIXES:
                raise PipelineError(f"{path}: expected a .csv or .parquet table of points; check the option table")
            return path
        found = sorted(path for path in root.iterdir() if path.suffix.lower() in TABLE_SUFFIXES and path.is_file())
        if len(found) != 1:
            raise PipelineError(
                f"{root}: expected one .csv or .parquet table with the columns image, x, y, "
                f"found {', '.join(path.name for path in found) or 'none'}; name it by the option table"
            )
        return found[0]


@dataclass
class _Rows:
    """What the table says about one image."""

    xy: list[tuple[float, float]] = field(default_factory=list)
    classes: list[str | int] = field(default_factory=list)
    splits: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def points(self, class_ids: Mapping[str, int] | None) -> ImagePoints:
        ids = [class_ids[str(name)] for name in self.classes] if class_ids else [int(name) for name in self.classes]
        return ImagePoints(
            np.array(self.xy, np.float64).reshape(-1, 2), np.array(ids, np.int64), tuple(class_ids or ())
        )


class _Names:
    """Finds the image that a row means: by id, by path, or by file name where only one image has it."""

    def __init__(self, images: Mapping[str, Path]) -> None:
        self._ids = set(images)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._cache: dict[str, str] = {}
        for image_id, path in images.items():
            for name in {image_id + path.suffix, PurePosixPath(image_id).name, path.name}:
                self._by_name[name].append(image_id)

    def find(self, name: str) -> str:
        """Return an image id, or the cleaned name itself when no single image fits."""
        if name not in self._cache:
            cleaned = name.strip().replace("\\", "/").removeprefix("./")
            fits = [cleaned] if cleaned in self._ids else self._by_name.get(cleaned, [])
            fits = fits or self._by_name.get(PurePosixPath(cleaned).name, [])
            self._cache[name] = fits[0] if len(fits) == 1 else cleaned
        return self._cache[name]


def _find_images(root: Path) -> dict[str, Path]:
    """All images below ``root`` by id; symlinked folders are followed at the root only."""
    found: dict[str, Path] = {}
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder) / name
            if path.suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                image_id = path.relative_to(root).with_suffix("").as_posix()
                if image_id in found:
                    raise PipelineError(
                        f"{path}: differs from {found[image_id].name} in its extension only; keep one of them"
                    )
                found[image_id] = path
    return found


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a CSV with commas, semicolons or tabs, and where each stands."""
    lines = read_lines(path)
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter)
    names = [name.strip().lower() for name in next(reader, [])]
    _check_columns(path, names)
    for words in reader:
        if any(word.strip() for word in words):
            yield f"line {reader.line_num}", {name: word.strip() for name, word in zip(names, words, strict=False)}


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        names = pq.read_schema(path).names
        _check_columns(path, names)
        table = pq.read_table(path, columns=[name for name in COLUMNS if name in names])
    except (OSError, pa.ArrowException) as error:
        raise PipelineError(f"{path}: not a readable Parquet file ({error})") from error
    for number, row in enumerate(table.to_pylist()):
        yield f"row {number}", row


def _check_columns(path: Path, names: list[str]) -> None:
    missing = [name for name in COLUMNS[:3] if name not in names]
    if missing:
        raise PipelineError(
            f"{path}: expected the columns image, x, y and maybe class and split, got {', '.join(names) or 'none'}; "
            f"{', '.join(missing)} missing"
        )


def _collect(rows: list[tuple[str, dict[str, Any]]], names: _Names) -> dict[str, _Rows]:
    """Gather the rows by image; what is wrong with a row becomes a fault of its image."""
    collected: dict[str, _Rows] = defaultdict(_Rows)
    for place, row in rows:
        image_id = names.find(str(row["image"] or "(empty name)"))
        image = collected[image_id]
        if image_id not in names._ids:
            image.faults.append(place)
            continue
        split = row.get("split")
        if split not in (None, ""):
            image.splits.add(str(split))
            if split not in SPLITS:
                image.faults.append(f"{place}: split '{split}' is none of {', '.join(SPLITS)}")
        x, y = row.get("x"), row.get("y")
        if x in (None, "") and y in (None, ""):
            continue
        try:
            x_px, y_px = float(x), float(y)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            image.faults.append(f"{place}: x '{x}' and y '{y}' are not both numbers")
            continue
        if not (math.isfinite(x_px) and math.isfinite(y_px)):
            image.faults.append(f"{place}: x {x} and y {y} must be finite")
            continue
        image.xy.append((x_px, y_px))
        image.classes.append(row["class"] if row.get("class") not in (None, "") else 0)
    return dict(collected)


def _class_ids(collected: Mapping[str, _Rows]) -> dict[str, int] | None:
    """Name → id in the order of the names, or ``None`` where the classes are whole numbers already."""
    names = {name for image in collected.values() for name in image.classes}
    if all(isinstance(name, int) or str(name).lstrip("-").isdigit() for name in names):
        return None
    return {name: index for index, name in enumerate(sorted(str(name) for name in names))}


def _splits_of(image_ids: list[str], test_frac: float) -> dict[str, str]:
    """Split by folder names; without any, by the digest of the id."""
    by_folder = {}
    for image_id in image_ids:
        folders = [part.lower() for part in PurePosixPath(image_id).parts[:-1]]
        splits = [SPLIT_FOLDERS[name] for name in folders if name in SPLIT_FOLDERS]
        if splits:
            by_folder[image_id] = splits[0]
    if by_folder:
        return by_folder
    order = sorted(image_ids, key=lambda image_id: hashlib.sha256(image_id.encode()).hexdigest())
    return dict.fromkeys(order[: math.ceil(test_frac * len(order))], "test")


def _told(path: Path, faults: list[str]) -> str:
    if not faults:
        return ""
    more = len(faults) - MAX_FAULTS_PER_IMAGE
    return f"{path}: {'; '.join(faults[:MAX_FAULTS_PER_IMAGE])}{f'; and {more} more' if more > 0 else ''}"
