"""A data set of two images with an evaluation of it, for the report's tests."""

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from pipeline.compute.files import write_json, write_table
from pipeline.datasets.prepared import IMAGES_SCHEMA, POINTS_SCHEMA, Prepared
from pipeline.evaluation.instance_iou import matched_mean_iou
from pipeline.evaluation.localization import LocalizationCounts
from pipeline.evaluation.results import Evaluation, ImageResult
from pipeline.masks.instances import Instances
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore

SIZE_HW = (40, 60)


def squares(shift: int, n: int = 3) -> Instances:
    label_map = np.zeros(SIZE_HW, dtype=np.int32)
    points_xy = np.array([[8.0 + 18 * k + shift, 15.0] for k in range(n)]).reshape(n, 2)
    for k, (x, y) in enumerate(points_xy.astype(int)):
        label_map[y - 4 : y + 5, x - 4 : x + 5] = k + 1
    return Instances.from_label_map(
        label_map, point_id=range(n), points_xy=points_xy, radius_px=np.full(n, 6.0), source="energy", status="ok"
    )


def write_scene_dataset(root: Path) -> tuple[Prepared, MaskStore]:
    """Write root/prepared with the images test/a (three heads) and test/b (none), and root/annotate."""
    folder = root / "prepared"
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE_HW, 3), dtype=np.uint8)
    (root / "raw").mkdir(parents=True)
    for name in "ab":
        cv2.imwrite(str(root / "raw" / f"{name}.png"), pixels)
    truth = {"test/a": squares(0), "test/b": Instances.empty(SIZE_HW)}
    images = [
        {"image_id": image_id, "path": f"raw/{image_id[-1]}.png", "split": "test", "height_px": SIZE_HW[0],
         "width_px": SIZE_HW[1], "digest": "", "n_points": len(rows), "attributes": "{}"}
        for image_id, rows in truth.items()
    ]  # fmt: skip
    points = [
        {"image_id": image_id, "point_id": k, "x_px": x, "y_px": y, "class_id": 0, "box_w_px": None, "box_h_px": None,
         "flags": ""}
        for image_id, rows in truth.items() for k, (x, y) in enumerate(rows.points_xy.tolist())
    ]  # fmt: skip
    write_table(pa.Table.from_pylist(images, schema=IMAGES_SCHEMA), folder / "images.parquet")
    plain = pa.schema(
        [pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in POINTS_SCHEMA]
    )
    write_table(pa.Table.from_pylist(points, schema=plain).cast(POINTS_SCHEMA), folder / "points.parquet")
    write_json(folder / "source.json", {"reader": "scenes"})
    with MaskStore.create(root / "annotate", Provenance("disc", 1)) as writer:
        for image_id, rows in truth.items():
            writer.add(image_id, rows)
    return Prepared.open(folder), MaskStore.open(root / "annotate")


def evaluation_of(store: MaskStore) -> Evaluation:
    results = []
    for image_id, predicted in (("test/a", squares(3)), ("test/b", squares(1, n=1))):
        true = store.label_map(image_id)
        match = matched_mean_iou(predicted.label_map(), true)
        n_true = store.n_instances(image_id)
        points = LocalizationCounts(min(n_true, len(predicted)), len(predicted), n_true)
        results.append(
            ImageResult(
                image_id=image_id,
                count_true=n_true,
                count_predicted=len(predicted),
                count_last=len(predicted) + 1,
                predicted=predicted,
                match=match,
                match_disc=match,
                match_half_disc=match,
                localization={"4px": points},
            )
        )
    return Evaluation(results, "annotator", mean_count=5.0)
