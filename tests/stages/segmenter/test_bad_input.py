"""What the segmenter's commands say of odd and broken data: one clear error, or a row with its status."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline.datasets.prepared import Prepared
from pipeline.masks.store import MaskStore
from stages import annotate, nnec, prepare
from stages.paths import RunPaths
from stages.segmenter import evaluate, pseudo_label, retrain, warmup
from tests.datasets.fake_layouts import write_image
from tests.datasets.fake_masks import SQUARE, coco_annotation, coco_content, write_coco
from tests.stages.segmenter.test_segmenter_stages import SMALL

PATHS = RunPaths("coco", labeled_pct=50, seed=0)
FEW_STEPS = {**SMALL, "train": {**SMALL["train"], "steps": 2}, "loop": {"evaluate_every": 2}}
PARAMS: dict[str, Any] = {
    "system": "segmenter",
    "datasets": ["coco"],
    "prepare": {"sources": {"coco": {"reader": "coco"}}},
    "splits": {"lists": {"coco": {50: "strong.txt"}}},
    "annotate": {"method": "truth"},
    "warmup": FEW_STEPS,
    "retrain": {"learn": FEW_STEPS, "masks": "pseudo_label"},
    "evaluate": {"pictures": 0},
}
STRONG, WEAK, TEST = (1, 2, 3), (4, 5, 6), (7,)
PERSON, DOG, TOOTHBRUSH = 1, 18, 90


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    put()
    (tmp_path / "strong.txt").write_text("".join(f"{number:012d}\n" for number in STRONG), encoding="utf-8")
    return tmp_path


def put(**prepare_options: Any) -> None:
    changed = {**PARAMS, "prepare": {**PARAMS["prepare"], **prepare_options}}
    Path("params.yaml").write_text(json.dumps(changed), encoding="utf-8")


def write_raw(annotations: list[dict[str, Any]]) -> None:
    """Six training images with these annotations, and one to test on, which has a person."""
    train, test = (
        [{"id": k, "file_name": f"{k:012d}.jpg", "height": 24, "width": 32} for k in numbers]
        for numbers in ((*STRONG, *WEAK), TEST)
    )
    write_coco(
        PATHS.raw,
        coco_content(images=train, annotations=annotations),
        coco_content(images=test, annotations=[coco_annotation(900, 7, PERSON, SQUARE)]),
    )


def square(x: float, y: float, side: float = 8.0) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def run(stage: Any) -> str:
    options = [] if stage in (prepare, nnec) else ["--device", "cpu"]
    options += ["--workers", "1", "--cache", "cache"] if stage is annotate else []
    options += [] if stage in (prepare, nnec, annotate) else ["--labeled-pct", "50"]
    done = CliRunner().invoke(stage.app, ["--dataset", "coco", *options])
    assert done.exit_code == 0, f"{stage.__name__}: {done.output} {done.exception!r}"
    return " ".join(done.output.split())


def refused(stage: Any) -> str:
    done = CliRunner().invoke(stage.app, ["--dataset", "coco"])
    assert done.exit_code == 1, done.output
    assert done.output.count("error:") == 1
    assert isinstance(done.exception, SystemExit), "a message, not a traceback"
    return " ".join(done.output.split())


BROKEN = {
    "unknown category": (
        [coco_annotation(5, 1, 17, SQUARE)], "annotation 5: category_id 17 is none of the file's categories"
    ),
    "missing image": (
        [coco_annotation(5, 77, PERSON, SQUARE)],
        "1 annotations are of image 77, which the list images does not have; remove them, or add the image",
    ),
    "mask of another size": (
        [coco_annotation(5, 1, PERSON, {"size": [9, 9], "counts": [0, 81]})],
        "annotation 5: segmentation: its size is [9, 9]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_annotations_give_one_error_or_are_listed(home: Path, kind: str) -> None:
    annotations, message = BROKEN[kind]
    write_raw([coco_annotation(1, 1, PERSON, SQUARE), *annotations])
    told = refused(prepare)
    assert "instances_train2017.json" in told
    assert message in told
    assert not PATHS.prepared.exists()
    put(max_broken_frac=0.5)
    assert message in run(prepare)
    [reason] = pq.read_table(PATHS.prepared / "broken.parquet")["reason"].to_pylist()
    assert message in reason
    assert len(Prepared.open(PATHS.prepared).images) == (7 if kind == "missing image" else 6)


def test_images_that_are_missing_or_of_another_size_give_one_error(home: Path) -> None:
    write_raw([])
    (PATHS.raw / "train2017/000000000002.jpg").unlink()
    write_image(PATHS.raw / "train2017/000000000003.jpg", (24, 30))
    told = refused(prepare)
    assert "000000000002.jpg: annotation without image; expected data/coco/raw/train2017/" in told
    assert "is 30 × 24 pixels" in told
    assert "says 32 × 24" in told


def test_odd_rows_keep_their_place_with_a_status_through_the_whole_chain(home: Path) -> None:
    """Empty polygons, points outside, two points in a cell, a class in weak images alone, one in crowds alone."""
    write_raw([
        coco_annotation(1, 1, PERSON, SQUARE),
        coco_annotation(2, 1, PERSON, [], bbox=[12.0, 3.0, 8.0, 6.0]),
        coco_annotation(3, 1, PERSON, [[]], bbox=[100.0, 3.0, 8.0, 6.0]),
        coco_annotation(4, 2, PERSON, square(4, 4, 16), bbox=None),
        coco_annotation(5, 3, PERSON, square(8, 6, 12), bbox=None),
        coco_annotation(6, 4, PERSON, square(2, 2), bbox=None),
        coco_annotation(7, 4, PERSON, square(2, 3), bbox=None),
        coco_annotation(8, 5, TOOTHBRUSH, square(12, 8), bbox=None),
        coco_annotation(9, 5, DOG, square(0, 0), bbox=None, iscrowd=1),
        coco_annotation(10, 6, PERSON, [[]], bbox=[100.0, 3.0, 8.0, 6.0]),
    ])  # fmt: skip
    told = {stage: run(stage) for stage in (prepare, nnec, annotate, warmup, pseudo_label, retrain, evaluate)}
    data = Prepared.open(PATHS.prepared)
    assert (data.class_names, data.class_source_ids) == (("person", "dog", "toothbrush"), (PERSON, DOG, TOOTHBRUSH))
    images = {number: f"train2017/{number:012d}" for number in (*STRONG, *WEAK)}
    assert "1 region" in told[prepare]
    assert data.points(images[1]).flags == ("", "no_mask", "outside|no_mask")
    truth, pseudo = MaskStore.open(PATHS.annotate), MaskStore.open(PATHS.pseudo_label)
    assert truth.instances(images[1]).status.tolist() == ["ok", "empty", "empty"]
    assert sorted(pseudo.image_ids) == sorted(images[number] for number in WEAK)
    for number in WEAK:
        rows, points = pseudo.instances(images[number]), data.points(images[number])
        np.testing.assert_array_equal(rows.point_id, points.point_id)
        np.testing.assert_array_equal(rows.class_id, points.class_id)
    assert sorted(pseudo.instances(images[4]).status.tolist()) == ["collision", "ok"]
    assert pseudo.instances(images[5]).status.tolist() == ["ok"]
    assert pseudo.instances(images[6]).status.tolist() == ["empty"]
    assert pseudo.instances(images[6]).area_px.tolist() == [0]
    assert "warning: warmup: no strong image shows dog, toothbrush (2 of 3 classes): the network" in told[warmup]
    assert "warning: retrain: no strong image or pseudo-label shows dog (1 of 3 classes): the network" in told[retrain]
    unseen = [
        json.loads((folder / "metrics.json").read_text())["classes_unseen"] for folder in (PATHS.warmup, PATHS.retrain)
    ]
    assert unseen == [2, 1]
    assert "ap" in json.loads(PATHS.metrics.read_text())
