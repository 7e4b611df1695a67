"""A tiny data set of bright blobs on noise, prepared and annotated with their true masks, made in a moment."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from pipeline.compute.files import digest_file, write_json, write_table
from pipeline.datasets.prepared import IMAGES_FILE, IMAGES_SCHEMA, POINTS_FILE, POINTS_SCHEMA, SOURCE_FILE
from pipeline.masks.instances import Instances
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore

RADIUS_PX = 5


def draw_blobs(rng, size_hw, n_blobs):
    """Draw an image: uint8 RGB pixels, centres xy, label map."""
    height, width = size_hw
    pixels = rng.integers(0, 90, size=(height, width, 3)).astype(np.uint8)
    label_map = np.zeros(size_hw, dtype=np.int32)
    points_xy = np.stack([rng.uniform(0, width - 1, n_blobs), rng.uniform(0, height - 1, n_blobs)], axis=1)
    for k, (x, y) in enumerate(points_xy):
        center = (round(x), round(y))
        color = tuple(int(value) for value in rng.integers(150, 255, 3))
        cv2.circle(pixels, center, RADIUS_PX, color, -1)
        cv2.circle(label_map, center, RADIUS_PX, k + 1, -1)
    return pixels, points_xy, label_map


def write_blob_dataset(root: Path, *, n_train=8, n_test=2, size_hw=(64, 64), blobs=(3, 9), seed=0):
    """Write root/prepared and root/annotate."""
    rng = np.random.default_rng(seed)
    images, points, instances = [], [], {}
    (root / "raw").mkdir(parents=True, exist_ok=True)
    for split, number in [("test", n) for n in range(n_test)] + [("train", n) for n in range(n_train)]:
        image_id = f"{split}/{number:02d}"
        n_blobs = int(rng.integers(*blobs))
        pixels, points_xy, label_map = draw_blobs(rng, size_hw, n_blobs)
        path = root / "raw" / f"{split}_{number:02d}.png"
        cv2.imwrite(str(path), pixels[:, :, ::-1])
        images.append((image_id, f"raw/{path.name}", split, *size_hw, digest_file(path), n_blobs, "{}"))
        points += [(image_id, k, x, y, 0, None, None, "") for k, (x, y) in enumerate(points_xy)]
        instances[image_id] = Instances.from_label_map(
            label_map,
            point_id=np.arange(n_blobs),
            points_xy=points_xy,
            radius_px=np.full(n_blobs, float(RADIUS_PX)),
            source="truth",
            status="ok",
        )
    write_tables(root / "prepared", images, points)
    write_masks(root / "annotate", instances)


def write_tables(folder: Path, images, points):
    """Write images.parquet, points.parquet and source.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema, rows in ((IMAGES_FILE, IMAGES_SCHEMA, images), (POINTS_FILE, POINTS_SCHEMA, points)):
        columns = zip(*rows, strict=True) if rows else [[] for _ in schema]
        arrays = [pa.array(list(column)).cast(field.type) for column, field in zip(columns, schema, strict=True)]
        write_table(pa.table(arrays, schema=schema), folder / name)
    write_json(folder / SOURCE_FILE, {"reader": "blobs"})


def write_masks(path: Path, instances):
    """Write a mask store."""
    with MaskStore.create(path, Provenance("truth", 1, {}, None)) as writer:
        for image_id, rows in instances.items():
            writer.add(image_id, rows)
