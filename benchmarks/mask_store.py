"""The mask store: writing, reading one image cold, painting a label map; against one JSON file per image."""

import dataclasses
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rlemasklib import RLEMask

from benchmarks.measure import Row, best_seconds, seconds_of
from benchmarks.nnec import IMAGES, POINTS, crowd_counts
from pipeline.annotators.exclusion import disc_window
from pipeline.masks.instances import Instances
from pipeline.masks.rle import rle_to_window
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore

SIZE_HW = (1080, 1920)
LABEL_MAP_SIZE_HW, LABEL_MAP_HEADS = (3000, 4000), 5000
JSON_ROWS = 20_000
COLD_READS = 21
FULL_FRAMES = 25
WRITE_REACH_PER_S, COLD_REACH_S, LABEL_MAP_REACH_S = 50_000, 0.020, 0.060


def random_instances(rng: np.random.Generator, count: int, size_hw: tuple[int, int]) -> Instances:
    """Make wavy blobs of a few to thirty pixels' radius, as masks of heads are."""
    height, width = size_hw
    points_xy = rng.uniform((0, 0), (width - 1, height - 1), (count, 2))
    radius_px = np.minimum(rng.lognormal(np.log(10), 0.5, count), 30)
    windows = []
    for (x, y), radius, turn in zip(points_xy, radius_px, rng.uniform(0, 2 * np.pi, count), strict=True):
        disc = disc_window(x, y, radius, size_hw)
        rows, columns = np.ogrid[: disc.mask.shape[0], : disc.mask.shape[1]]
        down, right = rows + disc.y0 - y, columns + disc.x0 - x
        wave = radius * (0.8 + 0.2 * np.sin(3 * np.arctan2(down, right) + turn))
        windows.append(disc._replace(mask=disc.mask & (np.hypot(down, right) <= wave)))
    score = rng.random(count)
    return Instances.from_windows(
        size_hw, windows, point_id=np.arange(count), points_xy=points_xy, radius_px=radius_px, score=score,
        pred_iou=score, stability=score, leak_frac=1 - score, clipped_frac=1 - score, source="head", status="ok",
    )  # fmt: skip


def drawn_images(rng: np.random.Generator, counts: NDArray[np.int64], pool: Instances) -> list[tuple[str, Instances]]:
    """Fill images with instances from a pool, of which each may come several times."""
    columns = {one.name: getattr(pool, one.name) for one in dataclasses.fields(pool)}
    columns = {name: column for name, column in columns.items() if column is not None}
    size_hw, rles, _ = (columns.pop(name) for name in ("size_hw", "rle", "point_id"))
    images = []
    for number, count in enumerate(counts.tolist()):
        rows = rng.integers(0, len(pool), count)
        drawn = {name: column[rows] for name, column in columns.items()}
        rle = [rles[row] for row in rows.tolist()]
        images.append(
            (f"train/IMG_{number:05d}", Instances(size_hw=size_hw, rle=rle, point_id=np.arange(count), **drawn))
        )
    return images


def write_store(path: Path, images: Sequence[tuple[str, Instances]]) -> None:
    """Write a mask store."""
    with MaskStore.create(path, Provenance("benchmark", 1)) as writer:
        for image_id, instances in images:
            writer.add(image_id, instances)


def write_json_files(folder: Path, images: Sequence[tuple[str, Instances]]) -> None:
    """Write the plain form: one COCO-like JSON file per image, with the same columns."""
    for image_id, rows in images:
        height, width = rows.size_hw
        annotations = [
            {
                "id": int(rows.point_id[k]),
                "category_id": int(rows.class_id[k]),
                "point": rows.points_xy[k].tolist(),
                "radius": float(rows.radius_px[k]),
                "bbox": rows.boxes_xywh[k].tolist(),
                "area": int(rows.area_px[k]),
                "segmentation": {"size": [height, width], "counts": rows.rle[k].decode("ascii")},
                "score": float(rows.score[k]),
                "pred_iou": float(rows.pred_iou[k]),
                "stability": float(rows.stability[k]),
                "leak_frac": float(rows.leak_frac[k]),
                "clipped_frac": float(rows.clipped_frac[k]),
                "source": str(rows.source[k]),
                "status": str(rows.status[k]),
            }
            for k in range(len(rows))
        ]
        path = folder / f"{image_id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"height": height, "width": width, "annotations": annotations}), encoding="utf-8")


def read_store_masks(path: Path, image_id: str) -> list[NDArray[np.bool_]]:
    """Open a store and decode one image's masks in their boxes."""
    rows = MaskStore.open(path).instances(image_id)
    return [rows.window(k).mask for k in range(len(rows))]


def read_json_masks(path: Path) -> list[NDArray[np.bool_]]:
    """Decode the masks of one JSON file in their boxes."""
    image = json.loads(path.read_text(encoding="utf-8"))
    size_hw = image["height"], image["width"]
    return [
        rle_to_window(one["segmentation"]["counts"].encode("ascii"), size_hw, one["bbox"])
        for one in image["annotations"]
    ]


def paint_full_frames(instances: Instances, rows: Sequence[int]) -> NDArray[np.int32]:
    """Paint a label map the plain way: decode each mask into a full frame and assign its label."""
    label_map = np.zeros(instances.size_hw, np.int32)
    for row in rows:
        frame = RLEMask.from_dict({"size": instances.size_hw, "counts": instances.rle[row]}).to_array()
        label_map[frame > 0] = row + 1
    return label_map


def forget(folder: Path) -> None:
    """Ask the system to drop a folder's files from its page cache, so that the next read goes to the disk."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(*, scale: float = 1.0) -> list[Row]:
    """Write a data set's masks, read images back, paint one large image; ``scale`` below 1 takes a part of each."""
    rng = np.random.default_rng(0)
    counts = crowd_counts(rng, max(2, int(IMAGES * scale)), max(2, int(POINTS * scale)))
    images = drawn_images(rng, counts, random_instances(rng, 2000, SIZE_HW))
    some = list(images[: 1 + int(np.searchsorted(np.cumsum(counts), min(JSON_ROWS, counts.sum())))])
    with tempfile.TemporaryDirectory() as temporary:
        store, files = Path(temporary) / "store", Path(temporary) / "files"
        return [
            _write_row(store, files, images, some),
            _cold_row(store, files, [image_id for image_id, rows in some if len(rows)]),
            _label_map_row(Path(temporary) / "large", rng, scale),
        ]


def _write_row(
    store: Path, files: Path, images: Sequence[tuple[str, Instances]], some: Sequence[tuple[str, Instances]]
) -> Row:
    total, part = (sum(len(rows) for _, rows in one) for one in (images, some))
    ours = seconds_of(lambda: write_store(store, images))
    plain = seconds_of(lambda: write_json_files(files, some)) * total / part
    name = "one JSON file per image" + (f" ({part:,} instances, extrapolated)" if part < total else "")
    return Row(
        "mask store, write", f"{total:,} encoded instances in {len(images):,} images", ours, name, plain,
        f"≥ {WRITE_REACH_PER_S:,} instances/s", met=total / ours >= WRITE_REACH_PER_S,
        notes={"instances_per_s": total / ours},
    )  # fmt: skip


def _cold_row(store: Path, files: Path, image_ids: Sequence[str]) -> Row:
    picks = [image_ids[k] for k in np.unique(np.linspace(0, len(image_ids) - 1, COLD_READS).round().astype(int))]
    ours, plain = [], []
    for image_id in picks:
        forget(store)
        ours.append(seconds_of(lambda: read_store_masks(store, image_id)))  # noqa: B023 - called at once
        forget(files)
        plain.append(seconds_of(lambda: read_json_masks(files / f"{image_id}.json")))  # noqa: B023
    median = statistics.median(ours)
    return Row(
        "mask store, one image cold", f"median of {len(picks)} images, index included, masks decoded", median,
        "the image's own JSON file", statistics.median(plain), f"≤ {1000 * COLD_REACH_S:.0f} ms",
        met=median <= COLD_REACH_S, notes={"slowest_s": max(ours)},
    )  # fmt: skip


def _label_map_row(store: Path, rng: np.random.Generator, scale: float) -> Row:
    height, width = (max(64, round(side * scale**0.5)) for side in LABEL_MAP_SIZE_HW)
    instances = random_instances(rng, max(2, int(LABEL_MAP_HEADS * scale)), (height, width))
    write_store(store, [("large", instances)])
    rows = np.unique(np.linspace(0, len(instances) - 1, FULL_FRAMES).round().astype(int)).tolist()
    ours, plain = best_seconds(
        lambda: MaskStore.open(store).label_map("large"), lambda: paint_full_frames(instances, rows)
    )
    return Row(
        "mask store, label map", f"{len(instances):,} heads, {height:,} × {width:,} px", ours,
        f"full frame per mask ({len(rows)} masks, extrapolated)", plain * len(instances) / len(rows),
        f"≤ {1000 * LABEL_MAP_REACH_S:.0f} ms", met=ours <= LABEL_MAP_REACH_S,
    )  # fmt: skip
