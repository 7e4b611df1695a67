"""From a raw data set to its tables: every image decoded and checked once, every point kept and flagged."""

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.compute.files import fresh_folder, write_json, write_table
from pipeline.compute.progress import track
from pipeline.datasets import prepared as layout
from pipeline.datasets.base import DatasetReader, RawEntry
from pipeline.datasets.flags import PointFlag, flags_to_column
from pipeline.datasets.prepare_image import PreparedImage, prepare_image
from pipeline.errors import PipelineError, raise_all
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore, MaskStoreWriter

TRUTH_VERSION = 1
MIN_IMAGES_FOR_POOL = 8
"""Fewer images are done before the processes of a pool have started."""
READER_FACTS = ("name", "version", "published")
SPLIT_ORDER = ("train", "val", "test", "hidden", "total")


@dataclass(frozen=True)
class SplitCount:
    """Figures of one split.

    Args:
        images: Number of images.
        points: Number of points, flagged ones too.
        most: Most points in one image.
    """

    images: int = 0
    points: int = 0
    most: int = 0

    def __add__(self, other: "SplitCount") -> "SplitCount":
        """Join two splits."""
        return SplitCount(self.images + other.images, self.points + other.points, max(self.most, other.most))


@dataclass(frozen=True)
class Broken:
    """One image or annotation that could not be used, and why."""

    image_id: str
    split: str
    reason: str


@dataclass(frozen=True)
class PrepareReport:
    """What ``prepare`` found.

    Args:
        counts: Split → figures; only splits that have images.
        differences: How the counts differ from the published ones, a line each; empty where they agree.
        broken: What was left out, as ``max_broken_frac`` allows.
        flagged: Name of a point flag → points that carry it, for those that any carries.
        notes: Oddities that are no faults.
        has_truth: Whether the source has true masks.
    """

    counts: Mapping[str, SplitCount]
    differences: tuple[str, ...]
    broken: tuple[Broken, ...]
    flagged: Mapping[str, int]
    notes: tuple[str, ...]
    has_truth: bool

    @property
    def total(self) -> SplitCount:
        """All splits together."""
        return sum(self.counts.values(), SplitCount())


def prepare_dataset(
    reader: DatasetReader,
    raw: Path,
    out: Path,
    dataset_root: Path,
    *,
    max_broken_frac: float = 0.0,
    workers: int | None = None,
) -> PrepareReport:
    """Write the tables of a data set; on any error nothing is written and an older output stays.

    Args:
        reader: Reader of the layout.
        raw: Folder of the raw data, below ``dataset_root``; never written to.
        out: The ``prepared`` folder, below ``dataset_root`` too; replaced as a whole.
        dataset_root: Folder of the data set, which image paths are relative to.
        max_broken_frac: Share of the images that may be broken, from 0 to below 1.
        workers: Processes that decode or render; all cores by default. The result does not depend on it.

    Raises:
        PipelineError: With the list of all broken files, if there are more than allowed; or if the layout is wrong.
    """
    if not raw.is_dir():
        raise PipelineError(f"{raw}: is missing; put or link the raw data of the reader '{reader.name}' there")
    if out.resolve().is_relative_to(raw.resolve()):
        raise PipelineError(f"{out}: lies inside the raw data; choose another output folder")
    entries = sorted(reader.scan(raw), key=lambda entry: entry.image_id)
    _check_ids(entries)
    broken = [Broken(entry.image_id, entry.split, entry.fault) for entry in entries if entry.fault]
    sound = [entry for entry in entries if not entry.fault]
    images: list[PreparedImage] = []
    names: dict[tuple[str, ...], tuple[str, ...]] = {}
    with fresh_folder(out) as folder:
        rendered = folder / layout.RENDERED_FOLDER
        with ExitStack() as stack:
            store = None
            for entry, result in zip(sound, _each(reader, rendered, sound, workers), strict=True):
                if isinstance(result, str):
                    broken.append(Broken(entry.image_id, entry.split, result))
                    continue
                if result.truth is not None:
                    if store is None:
                        store = stack.enter_context(_truth_store(folder, reader))
                    store.add(result.image_id, result.truth)
                path = result.path
                if path.is_relative_to(folder):
                    path = out / path.relative_to(folder)
                # The masks stand in the store by now; the table needs the rest only. All images share their names.
                result = dataclasses.replace(result, path=_relative(path, dataset_root), truth=None)
                images.append(
                    dataclasses.replace(result, class_names=names.setdefault(result.class_names, result.class_names))
                )
            _judge(broken, len(entries), max_broken_frac, raw)
        report = _report(reader, images, broken, has_truth=store is not None)
        _write(folder, reader, images, report, dataset_root)
    return report


def published_differences(
    published: Mapping[str, tuple[int, int | None]], counts: Mapping[str, SplitCount]
) -> tuple[str, ...]:
    """Compare counts with published ones, per split and in total; where nothing is published there is no difference."""
    if not published:
        return ()
    here = {**counts, "total": sum(counts.values(), SplitCount())}
    lines = []
    for split in sorted(published.keys() | counts.keys(), key=_split_rank):
        found = here.get(split, SplitCount())
        images, points = published.get(split, (0, None))
        if found.images != images:
            lines.append(f"{split}: {found.images:,} images, published are {images:,}")
        if points is not None and found.points != points:
            lines.append(f"{split}: {found.points:,} points, published are {points:,}")
    return tuple(lines)


def _each(
    reader: DatasetReader, rendered: Path, entries: Sequence[RawEntry], workers: int | None
) -> Iterator[PreparedImage | str]:
    """Prepare all entries, in order; a broken one gives its reason."""
    do = functools.partial(_prepare_or_reason, reader, rendered)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(workers or cores, len(entries))
    if processes < 2 or len(entries) < MIN_IMAGES_FOR_POOL:
        yield from track(map(do, entries), description="prepare", total=len(entries))
        return
    # Spawned, not forked: a fork copies the locks that threads of decoders and BLAS may hold.
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        yield from track(pool.map(do, entries), description="prepare", total=len(entries))
    except BrokenProcessPool as error:
        raise PipelineError("prepare: a worker process was killed, maybe for memory; try --workers 1") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prepare_or_reason(reader: DatasetReader, rendered: Path, entry: RawEntry) -> PreparedImage | str:
    try:
        return prepare_image(reader, rendered, entry)
    except PipelineError as error:
        return str(error)


def _check_ids(entries: Sequence[RawEntry]) -> None:
    """Refuse ids that stand twice or would leave the data root."""
    faults = []
    previous = ""
    for entry in entries:
        parts = PurePosixPath(entry.image_id).parts
        if not parts or entry.image_id.startswith("/") or ".." in parts or "\\" in entry.image_id:
            faults.append(f"'{entry.image_id}' is no path below the data set; rename the image")
        if entry.image_id == previous:
            faults.append(f"'{entry.image_id}' stands twice; rename one of the images")
        previous = entry.image_id
    raise_all(faults, "the image ids must be unique paths below the data set")


def _truth_store(folder: Path, reader: DatasetReader) -> AbstractContextManager[MaskStoreWriter]:
    params = {"reader": reader.name, "reader_version": reader.version}
    return MaskStore.create(folder / layout.TRUTH_FOLDER, Provenance("truth", TRUTH_VERSION, params))


def _relative(path: Path, dataset_root: Path) -> Path:
    if not path.is_relative_to(dataset_root):
        raise PipelineError(f"{path}: expected a file below {dataset_root}; put or link the raw data there")
    return path.relative_to(dataset_root)


def _judge(broken: list[Broken], n_entries: int, max_broken_frac: float, raw: Path) -> None:
    """Fail with the list of what is broken, if it is more than the user allows."""
    broken.sort(key=lambda item: (item.image_id, item.reason))
    if len(broken) > max_broken_frac * n_entries or len(broken) == n_entries:
        raise_all(
            [item.reason for item in broken],
            f"{raw}: {len(broken)} of {n_entries} images or annotations are broken; mend or remove them, "
            f"or allow a share of them by prepare.max_broken_frac (now {max_broken_frac})",
        )
        raise PipelineError(f"{raw}: the data set has no images")


def _report(
    reader: DatasetReader, images: Sequence[PreparedImage], broken: Sequence[Broken], *, has_truth: bool
) -> PrepareReport:
    counts: dict[str, SplitCount] = {}
    for image in images:
        n_points = len(image.points_xy)
        counts[image.split] = counts.get(image.split, SplitCount()) + SplitCount(1, n_points, n_points)
    counts = {split: counts[split] for split in sorted(counts, key=_split_rank)}
    flags = np.concatenate([np.zeros(0, np.uint8), *(image.flags for image in images)])
    flagged = {str(f.name).lower(): int(np.count_nonzero(flags & np.uint8(f))) for f in sorted(PointFlag)}
    return PrepareReport(
        counts=counts,
        differences=published_differences(reader.published, counts),
        broken=tuple(broken),
        flagged={name: count for name, count in flagged.items() if count},
        notes=tuple(note for image in images for note in image.notes),
        has_truth=has_truth,
    )


def _split_rank(split: str) -> tuple[int, str]:
    return (SPLIT_ORDER.index(split) if split in SPLIT_ORDER else len(SPLIT_ORDER), split)


def _write(
    folder: Path, reader: DatasetReader, images: Sequence[PreparedImage], report: PrepareReport, dataset_root: Path
) -> None:
    """Write the tables and ``source.json``."""
    write_table(_images_table(images), folder / layout.IMAGES_FILE)
    write_table(_points_table(images), folder / layout.POINTS_FILE)
    if report.broken:
        # Reasons name files as seen from here; the table must not depend on where "here" is.
        rows = [(b.image_id, b.split, b.reason.replace(f"{dataset_root}/", "")) for b in report.broken]
        columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
        write_table(pa.Table.from_arrays(columns, schema=layout.BROKEN_SCHEMA), folder / layout.BROKEN_FILE)
    classes = sorted({(image.class_names, image.class_source_ids) for image in images})
    if len(classes) != 1:
        raise ValueError(f"{reader.name}: the reader gave different classes: {classes}")
    class_names, class_source_ids = classes[0]
    source: dict[str, Any] = {
        "reader": reader.name,
        "reader_version": reader.version,
        "options": json.loads(json.dumps(_options(reader), default=str)),
        "class_names": list(class_names),
        **({"class_source_ids": list(class_source_ids)} if class_source_ids else {}),
        "counts": {split: {"images": c.images, "points": c.points} for split, c in report.counts.items()},
        "flagged": dict(report.flagged),
        "broken": len(report.broken),
        "has_truth": report.has_truth,
    }
    write_json(folder / layout.SOURCE_FILE, source)


def _options(reader: DatasetReader) -> dict[str, Any]:
    fields = dataclasses.fields(reader)  # type: ignore[arg-type]  # readers are dataclasses by contract
    return {field.name: getattr(reader, field.name) for field in fields if field.name not in READER_FACTS}


def _images_table(images: Sequence[PreparedImage]) -> pa.Table:
    columns: list[list[Any]] = [
        [image.image_id for image in images],
        [image.path.as_posix() for image in images],
        [image.split for image in images],
        [image.size_hw[0] for image in images],
        [image.size_hw[1] for image in images],
        [image.digest for image in images],
        [len(image.points_xy) for image in images],
        [json.dumps(dict(image.attributes), sort_keys=True, ensure_ascii=False) for image in images],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, layout.IMAGES_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=layout.IMAGES_SCHEMA)


def _points_table(images: Sequence[PreparedImage]) -> pa.Table:
    counts = np.array([len(image.points_xy) for image in images], np.int64)
    points_xy = np.concatenate([np.zeros((0, 2)), *(image.points_xy for image in images)])
    boxes_wh_px = np.concatenate(
        [np.zeros((0, 2))]
        + [np.full((len(i.points_xy), 2), np.nan) if i.boxes_wh_px is None else i.boxes_wh_px for i in images]
    )
    image_ids = pa.DictionaryArray.from_arrays(
        pa.array(np.repeat(np.arange(len(images), dtype=np.int32), counts)),
        pa.array([image.image_id for image in images], pa.string()),
    )
    columns = [
        image_ids,
        pa.array(np.concatenate([np.zeros(0, np.int64), *(np.arange(count) for count in counts)])),
        pa.array(points_xy[:, 0]),
        pa.array(points_xy[:, 1]),
        pa.array(np.concatenate([np.zeros(0, np.int64), *(image.class_id for image in images)]), pa.int64()),
        pa.array(boxes_wh_px[:, 0], from_pandas=True),
        pa.array(boxes_wh_px[:, 1], from_pandas=True),
        flags_to_column(np.concatenate([np.zeros(0, np.uint8), *(image.flags for image in images)]), PointFlag),
    ]
    return pa.Table.from_arrays(columns, schema=layout.POINTS_SCHEMA)
