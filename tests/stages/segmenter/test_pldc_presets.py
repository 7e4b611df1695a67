"""params/coco_pldc.yaml and params/cityscapes_pldc.yaml: complete, as PL-DC has them, and fit for those layouts."""

import functools
import importlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.datasets.prepared import ImageRow
from pipeline.datasets.splits import Splits, split_images
from pipeline.masks.store import MaskStore
from pipeline.models.solov2 import build_solov2
from stages.params import load_segmenter_params
from stages.paths import RunPaths
from stages.segmenter.sections import SegmenterParams
from tests.datasets.fake_layouts import SIZE_HW
from tests.datasets.fake_masks import CATEGORIES, coco_annotation, coco_content, write_cityscapes, write_coco
from tests.stages.segmenter.test_segmenter_presets import ROOT, SMALL_LOOP, SMALL_NETWORK, preset, shown_commands
from tests.stages.test_params import leaves
from tests.stages.test_presets import merged

yaml = YAML(typ="safe", pure=True)

IMAGES = {"coco": 118_287, "cityscapes": 2975}
SHARES = {
    # share: labelled images, held-out ones
    "coco": {1: (1183, 119), 2: (2366, 119), 5: (5914, 119), 10: (11_829, 237)},
    "cityscapes": {5: (149, 15), 10: (298, 30), 20: (595, 60), 30: (893, 90)},
}
STUDENT_STEPS = {"coco": 90_000, "cityscapes": 40_000}
DATASETS = sorted(SHARES)
STAGES = re.findall(r"python -m (stages\.\S+)", (ROOT / "recipes" / "pldc" / "dvc.yaml").read_text(encoding="utf-8"))


def pldc(dataset: str) -> Path:
    return preset(f"{dataset}_pldc")


def test_there_are_presets_of_these_data_sets_alone() -> None:
    assert sorted((ROOT / "params").glob("*_pldc.yaml")) == [pldc(dataset) for dataset in DATASETS]


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_preset_gives_every_key_of_the_recipe_and_none_unknown(dataset: str) -> None:
    params = load_segmenter_params(pldc(dataset))
    assert (params.datasets, params.labeled_pct, params.annotate.method) == ((dataset,), (10,), "truth")
    text = pldc(dataset).read_text(encoding="utf-8")
    assert "Nobody has run this file here to its end" in text
    methods = ("annotate.edp_sam.", "annotate.superpixel.", "annotate.p2seg.")
    elsewhere = ("annotate.weights", *methods, "refiner.")  # no such stage here
    differing = leaves(SegmenterParams()).keys() ^ leaves(yaml.load(text)).keys()
    assert sorted(key for key in differing if not key.startswith(elsewhere)) == []
    assert not any("refine" in stage for stage in STAGES)


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_preset_has_the_values_of_the_paper(dataset: str) -> None:
    """Sections 1 to 4 and 6 of the specification."""
    params = load_segmenter_params(pldc(dataset))
    teacher, student, unlabeled = params.warmup, params.retrain.learn, params.retrain.unlabeled
    assert (teacher.train.steps, params.retrain.burn_in.steps, params.retrain.start) == (20_000, 0, "teacher")
    assert (student.train.steps, teacher.network, teacher.ranges_px) == (
        STUDENT_STEPS[dataset], student.network, student.ranges_px,
    )  # fmt: skip
    for learn in (teacher, student):
        assert learn.network.backbone.split(".")[0] == "resnet50"
        assert learn.network.pretrained
        assert (learn.train.optimizer, learn.train.learning_rate) == ("adam", 1e-4)
        assert (learn.train.encoder_rate_share, learn.loop.frozen_norm) == (0, True)
        assert (learn.loop.ema_decay, learn.loop.choose_from_frac, learn.loop.patience) == (0.9996, 1, 0)
        assert (learn.views.batch, learn.views.flip_prob, learn.early_fracs) == (8, 0.5, ())
    assert (unlabeled.batch, unlabeled.weight, unlabeled.pixel_weights) == (8, 1.0, "uncertainty")
    colors = unlabeled.strong.colors
    assert (colors.jitter_prob, colors.jitter, colors.jitter_hue, colors.gray_prob) == (0.8, 0.4, 0.1, 0.2)
    assert (colors.blur_prob, colors.blur_sigma_min, colors.blur_sigma_max, colors.noise_max) == (0.5, 0.1, 2.0, 0)
    assert unlabeled.strong.cut_out_max_frac > 0
    half = replace(colors, jitter_prob=0.4, gray_prob=0.1, blur_prob=0.25)
    assert teacher.views.colors == student.views.colors == half
    quality = params.judge.quality
    assert (quality.class_thr, quality.mask_thr, quality.margin) == (0.85, 0.9, 0.15)
    assert (quality.min_area_px, quality.alpha, quality.thresholds) == (5, 0.9996, "calibrated")
    assert (params.judge.correct, params.judge.progress, params.judge.masks) == (True, 0, "pseudo_label")
    assert (params.pseudo_label.method, params.pseudo_label.opinion) == ("detections", "prototypes")
    assert params.pseudo_label.detect == unlabeled.detect
    assert (unlabeled.detect.class_thr, unlabeled.detect.score_thr) == (0.05, 0)
    assert (params.retrain.masks, params.retrain.weak, unlabeled.online) == ("judged", True, False)
    assert params.evaluate == load_segmenter_params(preset("coco")).evaluate


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_shown_commands_set_what_differs_by_share(dataset: str, tmp_path: Path) -> None:
    commands = shown_commands(f"{dataset}_pldc", "pldc")
    assert list(commands) == list(SHARES[dataset])
    path = tmp_path / "params.yaml"
    shutil.copy(pldc(dataset), path)
    for pct in (*reversed(SHARES[dataset]), list(SHARES[dataset])[-1]):  # one after the other, in any order
        apply_overrides(path, commands[pct])
        check_share(dataset, pct, path)
    check_share(dataset, 10, pldc(dataset))


def check_share(dataset: str, pct: int, path: Path) -> None:
    params = load_segmenter_params(path)
    splits = split(IMAGES[dataset], pct, params.splits.held_out_frac)
    n_held_out = len(splits.labeled_val)
    assert params.labeled_pct == (pct,)
    assert (len(splits.labeled_train) + n_held_out, n_held_out) == SHARES[dataset][pct]
    passes = params.retrain.learn.train.steps * params.retrain.unlabeled.batch / len(splits.unlabeled)
    low, high = {"coco": (6, 7), "cityscapes": (113, 154)}[dataset]
    assert low <= round(passes) <= high


@functools.cache
def images_of(n_images: int) -> list[ImageRow]:
    """As many training images, and one to test on."""
    place = Path("x.jpg")
    images = [ImageRow(f"{number:06d}", place, "train", (1, 1), "", 0) for number in range(n_images)]
    return [*images, ImageRow("x", place, "test", (1, 1), "", 0)]


@functools.cache
def split(n_images: int, pct: int, held_out_frac: float) -> Splits:
    return split_images(images_of(n_images), labeled_pct=pct, seed=0, held_out_frac=held_out_frac)


@pytest.mark.parametrize(("dataset", "n_classes", "millions"), [("coco", 80, 47), ("cityscapes", 8, 46)])
def test_the_networks_can_be_built_at_their_own_size(dataset: str, n_classes: int, millions: int) -> None:
    """On a device without memory; millions of parameters."""
    network = load_segmenter_params(pldc(dataset)).warmup.network
    with torch.device("meta"):
        net = build_solov2(replace(network, pretrained=False), n_classes)
    assert round(sum(values.numel() for values in net.parameters()) / 1e6) == millions


SMALL_TRAINING: dict[str, Any] = {
    "network": {**SMALL_NETWORK, "tower_width": 16, "fpn_width": 16},
    "ranges_px": [[1, 24], [16, 32], [24, 48], [32, 64], [48, 128]],
    "train": {"steps": 120, "optimizer": "muon", "learning_rate": 0.002, "encoder_rate_share": 1.0, "ramp_steps": 0},
    "views": {"batch": 2, "short_side_min_px": 48, "short_side_max_px": 64, "long_side_px": 96,
              "test_short_side_px": 64},
    "loop": {**SMALL_LOOP, "evaluate_every": 100, "ema_decay": 0.9},
}  # fmt: skip
SMALL: dict[str, Any] = {
    "warmup": SMALL_TRAINING,
    "judge": {"quality": {"class_wanted": 0.2, "mask_wanted": 0.3}},
    "retrain": {
        "learn": {**SMALL_TRAINING, "train": {**SMALL_TRAINING["train"], "steps": 3}},
        "unlabeled": {"batch": 2},
    },
}
"""Long enough for the teacher to see something: thresholds are calibrated by rows that meet a true mask."""


def write_some_coco(raw: Path) -> None:
    """Eight training images and one to test on, an object of each class in every one."""
    boxes = {1: (2, 2, 14, 22), 18: (17, 2, 30, 11), 90: (17, 13, 30, 22)}
    assert boxes.keys() == CATEGORIES.keys()

    def content(numbers: range) -> dict[str, Any]:
        images = [{"id": k, "file_name": f"{k:012d}.jpg", "height": SIZE_HW[0], "width": SIZE_HW[1]} for k in numbers]
        annotations = [
            coco_annotation(100 * k + category, k, category, [[x0, y0, x1, y0, x1, y1, x0, y1]], bbox=None)
            for k in numbers
            for category, (x0, y0, x1, y1) in boxes.items()
        ]
        return coco_content(images=images, annotations=annotations)

    write_coco(raw, content(range(8)), content(range(8, 9)))


def write_some_cityscapes(raw: Path) -> None:
    """Eight training images and one to test on, an object of each class in every one."""
    ids = np.full(SIZE_HW, 7, np.uint16)
    for place, number in enumerate((24, 25, 26, 27, 28, 31, 32, 33)):
        y, x = 12 * (place // 4), 8 * (place % 4)
        ids[y + 1 : y + 11, x + 1 : x + 7] = 1000 * number
    write_cityscapes(raw, train=8, ids=ids)


LAYOUTS = {"coco": write_some_coco, "cityscapes": write_some_cityscapes}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", DATASETS)
def test_a_preset_runs_on_files_in_its_layout(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage of the recipe, on files in the data set's layout; only lengths, rates, widths and sides are small."""
    monkeypatch.chdir(tmp_path)
    paths = RunPaths(dataset, labeled_pct=50, seed=0)
    paths.raw.parent.mkdir(parents=True)
    LAYOUTS[dataset](paths.raw)
    written = yaml.load(pldc(dataset).read_text(encoding="utf-8"))
    Path("params.yaml").write_text(json.dumps(merged(written, SMALL)))
    assert len(STAGES) == 8
    told = {}
    for name in STAGES:
        options = [] if name in ("stages.prepare", "stages.nnec", "stages.segmenter.judge") else ["--device", "cpu"]
        options += ["--workers", "1", "--cache", "cache"] if name == "stages.annotate" else []
        options += ["--labeled-pct", "50"] if name.startswith("stages.segmenter.") else []
        done = CliRunner().invoke(importlib.import_module(name).app, ["--dataset", dataset, *options])
        assert done.exit_code == 0, f"{name}: {done.output} {done.exception!r}"
        told[name] = done.output
    assert "detections, unfiltered" in told["stages.segmenter.pseudo_label"]
    student = json.loads((paths.retrain / "metrics.json").read_text())
    assert (student["last_step"], student["n_strong"], student["n_weak"], student["classes_unseen"]) == (3, 3, 4, 0)
    thresholds = json.loads((paths.judged / "thresholds.json").read_text())
    assert len(thresholds["limits"]["class_thr"]) == {"coco": 3, "cityscapes": 8}[dataset]
    n_seen, judged = len(rows_of(MaskStore.open(paths.pseudo_label))), rows_of(MaskStore.open(paths.judged / "masks"))
    n_kept = judged.count("ok")
    assert 0 < n_kept < n_seen
    figures = json.loads(paths.metrics.read_text())
    for key in ("ap", "ap_50", "ap_75", "teacher_ap"):
        assert 0 <= figures[key] <= 1, key


def rows_of(store: MaskStore) -> list[str]:
    """Status of every row."""
    return [status for image_id in store.image_ids for status in store.instances(image_id).status.tolist()]
