"""COCO AP streamed from mask stores, against the whole of both stores as plain COCO JSON in memory."""

import dataclasses
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.mask_store import drawn_images, random_instances, write_store
from benchmarks.measure import Row
from benchmarks.one_core import added_memory_mib, core_seconds, on_one_core
from pipeline.evaluation.average_precision import average_precision
from pipeline.masks.instances import Instances
from pipeline.masks.store import MaskStore

SIZE_HW = (480, 640)
IMAGES, MASKS, CLASSES = 5000, 100, 80
JSON_IMAGES = 100
FOUND_FRAC = 0.7
"""Share of the detections that are true masks; the others lie anywhere."""
REACH_MIB = 4096.0


def write_stores(folder: Path, n_images: int) -> tuple[MaskStore, MaskStore]:
    """Write detections and truth: every image has as many of both, of all classes."""
    rng = np.random.default_rng(0)
    counts = np.full(n_images, MASKS)
    pool = random_instances(rng, min(2000, MASKS * n_images), SIZE_HW)
    found = []
    true = [(image_id, _with_classes(rows, rng)) for image_id, rows in drawn_images(rng, counts, pool)]
    for (image_id, rows), (_, others) in zip(true, drawn_images(rng, counts, pool), strict=True):
        right = rng.random(MASKS) < FOUND_FRAC
        rle = [one if hit else other for one, other, hit in zip(rows.rle, others.rle, right, strict=True)]
        columns = {
            name: np.where(right.reshape(-1, *[1] * (getattr(rows, name).ndim - 1)), getattr(rows, name),
                           getattr(others, name))
            for name in ("boxes_xywh", "area_px")
        }  # fmt: skip
        found.append((image_id, dataclasses.replace(rows, rle=rle, score=rng.random(MASKS), **columns)))
    write_store(folder / "truth", true)
    write_store(folder / "found", found)
    return MaskStore.open(folder / "found"), MaskStore.open(folder / "truth")


def _with_classes(rows: Instances, rng: np.random.Generator) -> Instances:
    return dataclasses.replace(rows, class_id=rng.integers(0, CLASSES, len(rows)))


def streamed_ap(detections: MaskStore, truth: MaskStore, n_images: int) -> float:
    """Give AP as this project computes it."""
    names = [f"class {k}" for k in range(CLASSES)]
    return average_precision(detections, truth, truth.image_ids[:n_images], class_names=names).ap


def json_ap(detections: MaskStore, truth: MaskStore, n_images: int) -> float:
    """Give AP the plain way: everything as COCO JSON, then the evaluator of the library."""
    from faster_coco_eval import COCO, COCOeval_faster

    data: dict[str, list[dict[str, object]]] = {
        "images": [], "annotations": [], "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(CLASSES)],
    }  # fmt: skip
    results = []
    for number, image_id in enumerate(truth.image_ids[:n_images], start=1):
        height, width = truth.size_hw(image_id)
        data["images"].append({"id": number, "height": height, "width": width})
        for store in (truth, detections):
            rows = store.instances(image_id)
            for k in range(len(rows)):
                one = {
                    "image_id": number,
                    "category_id": int(rows.class_id[k]) + 1,
                    "segmentation": {"size": [height, width], "counts": rows.rle[k].decode("ascii")},
                }
                if store is truth:
                    more = {"id": len(data["annotations"]) + 1, "area": int(rows.area_px[k]), "iscrowd": 0}
                    data["annotations"].append({**one, **more, "bbox": rows.boxes_xywh[k].tolist()})
                else:
                    results.append({**one, "score": float(rows.score[k])})
    truth_json = COCO({"info": {}, **data})
    evaluator = COCOeval_faster(truth_json, truth_json.loadRes(results), iouType="segm")
    evaluator.params.maxDets = [MASKS]
    evaluator.evaluate()
    evaluator.accumulate()
    precision = evaluator.eval["precision"][..., 0, :]
    return float(precision[precision > -1].mean())


def measure(*, scale: float = 1.0) -> list[Row]:
    """Evaluate images of 100 masks each; ``scale`` below 1 takes a part of the images."""
    with tempfile.TemporaryDirectory() as folder:
        write_stores(Path(folder), max(2, round(IMAGES * scale)))  # here: its memory is not to be counted
        return on_one_core(partial(one_core_rows, Path(folder)), scale)


def one_core_rows(folder: Path, _: float) -> list[Row]:
    """Measure the stores of a folder in this process."""
    found, truth = MaskStore.open(folder / "found"), MaskStore.open(folder / "truth")
    n_images = len(truth)
    n_json = max(1, min(n_images // 5, JSON_IMAGES))  # the smaller form comes first
    streamed_ap(found, truth, 1)  # what is loaded once
    their_mib = added_memory_mib(lambda: json_ap(found, truth, n_json))
    our_mib = added_memory_mib(lambda: streamed_ap(found, truth, n_images))
    our_s, their_s = core_seconds(
        lambda: streamed_ap(found, truth, n_images), lambda: json_ap(found, truth, n_json), rounds=1
    )
    whole_mib = our_mib * IMAGES / n_images
    name = f"COCO JSON in memory ({n_json:,} images, extrapolated)"
    work = f"{n_images:,} images of {MASKS} masks, {CLASSES} classes, one core"
    reach = f"≤ {REACH_MIB:,.0f} MiB for {IMAGES:,} images"
    return [
        Row("COCO AP", work, our_s, name, their_s * n_images / n_json, "", met=None),
        Row(
            "COCO AP, memory", work, our_mib, name, their_mib * n_images / n_json, reach, met=whole_mib <= REACH_MIB,
            unit="MiB", notes={"extrapolated_mib": whole_mib},
        ),
    ]  # fmt: skip
