"""Images of overlapping ellipses of several classes and sizes, true and detected, in two mask stores."""

from pathlib import Path

import numpy as np

from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore


def ellipse(size_hw, x, y, half_w, half_h):
    """A window with an ellipse, cut at the image's edge; a pixel at least."""
    height, width = size_hw
    x, y = float(np.clip(x, 0, width - 1)), float(np.clip(y, 0, height - 1))
    x0, y0 = max(0, int(x - half_w)), max(0, int(y - half_h))
    x1, y1 = min(width, int(x + half_w) + 2), min(height, int(y + half_h) + 2)
    rows, columns = np.mgrid[y0:y1, x0:x1]
    mask = ((columns - x) / half_w) ** 2 + ((rows - y) / half_h) ** 2 <= 1
    mask[min(round(y), y1 - 1) - y0, min(round(x), x1 - 1) - x0] = True
    return Window(mask, x0, y0)


def instances(size_hw, boxes, class_id, *, score=None, status="ok"):
    """Rows with an ellipse for each (x, y, half width, half height)."""
    n = len(boxes)
    return Instances.from_windows(
        size_hw, [ellipse(size_hw, *box) for box in boxes], point_id=np.arange(n),
        points_xy=np.array([box[:2] for box in boxes], dtype=float).reshape(n, 2), radius_px=np.ones(n),
        class_id=class_id, score=score, source="truth", status=status,
    )  # fmt: skip


def random_image(rng, *, size_hw=(180, 220), n_true=30, n_detections=130, n_classes=4, crowd_frac=0.15):
    """One image, true and detected: jittered copies, wrong classes, equal scores, false alarms."""
    height, width = size_hw
    half = np.exp(rng.uniform(np.log(3), np.log(80), (n_true, 1))) * rng.uniform(0.7, 1.4, (n_true, 2))
    boxes = np.concatenate([rng.uniform(0, 1, (n_true, 2)) * (width, height), half], axis=1)
    class_id = rng.integers(0, n_classes, n_true)
    status = np.where(rng.random(n_true) < crowd_frac, "ambiguous", "ok")
    if not n_true:
        return instances(size_hw, boxes, class_id), instances(size_hw, boxes, class_id, score=[])
    source = rng.integers(0, n_true, n_detections)
    jitter = rng.normal(0, 0.12, (n_detections, 4))
    found = boxes[source].copy()
    found[:, :2] += jitter[:, :2] * found[:, 2:]
    found[:, 2:] *= np.exp(jitter[:, 2:])
    found_class = np.where(rng.random(n_detections) < 0.15, rng.integers(0, n_classes, n_detections), class_id[source])
    score = np.round(np.clip(1 - np.abs(jitter).mean(axis=1) * 3 + rng.normal(0, 0.1, n_detections), 0.01, 1), 2)
    return (
        instances(size_hw, boxes.tolist(), class_id, status=status),
        instances(size_hw, found.tolist(), found_class, score=score),
    )


def write_stores(folder: Path, images):
    """Write image_id -> (true, detected) as two stores, and open them: detections, truth."""
    for name, place in (("truth", 0), ("found", 1)):
        with MaskStore.create(folder / name, Provenance(name, 1)) as writer:
            for image_id, pair in images.items():
                writer.add(image_id, pair[place])
    return MaskStore.open(folder / "found"), MaskStore.open(folder / "truth")


def coco_json(detections: MaskStore, truth: MaskStore, n_classes: int):
    """The same as plain COCO JSON: the truth's file, and the list of results; rows without pixels are left out."""
    data = {
        "info": {},
        "images": [],
        "annotations": [],
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(n_classes)],
    }
    results = []
    for number, image_id in enumerate(truth.image_ids, start=1):
        height, width = truth.size_hw(image_id)
        data["images"].append({"id": number, "height": height, "width": width, "file_name": image_id})
        for store, rows in ((truth, truth.instances(image_id)), (detections, detections.instances(image_id))):
            for k in np.flatnonzero(rows.area_px > 0).tolist():
                entry = {
                    "image_id": number,
                    "category_id": int(rows.class_id[k]) + 1,
                    "segmentation": {"size": [height, width], "counts": rows.rle[k].decode("ascii")},
                }
                if store is truth:
                    more = {"iscrowd": int(rows.status[k] == "ambiguous"), "area": int(rows.area_px[k])}
                    box, number_of_it = rows.boxes_xywh[k].tolist(), len(data["annotations"]) + 1
                    data["annotations"].append({**entry, **more, "bbox": box, "id": number_of_it})
                else:  # with a box, the evaluators would take the box's area for the mask's
                    results.append({**entry, "score": float(rows.score[k])})
    return data, results
