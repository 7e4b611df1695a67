"""The segmenter's stages, one after the other, as a recipe calls them."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.datasets.prepared import Prepared
from pipeline.masks.store import MaskStore
from stages import annotate, nnec, prepare
from stages import warmup as crowd_warmup
from stages.paths import RunPaths
from stages.segmenter import evaluate, judge, pseudo_label, refine, refiner, retrain, warmup
from tests.training.shapes_home import SCENES

runner = CliRunner()
RUN = ["--dataset", "shapes", "--labeled-pct", "50", "--device", "cpu"]
SMALL_NETWORK = {
    "fpn_width": 8, "tower_width": 8, "tower_depth": 1, "kernel_dim": 8, "mask_width": 8, "grids": [6, 5, 4, 3, 2],
}  # fmt: skip
SMALL = {
    "network": SMALL_NETWORK,
    "ranges_px": [[1, 8], [8, 12], [12, 16], [16, 24], [24, 64]],
    "train": {"steps": 40, "optimizer": "muon", "learning_rate": 0.002, "ramp_steps": 0},
    "views": {"batch": 4, "short_side_min_px": 40, "short_side_max_px": 56, "long_side_px": 96,
              "test_short_side_px": 48},
    "loop": {"evaluate_every": 20},
}  # fmt: skip
PARAMS = {
    "system": "segmenter",
    "datasets": ["shapes"],
    "prepare": {"sources": {"shapes": {"reader": "synthetic_shapes"}}},
    "annotate": {"method": "truth"},
    "warmup": {**SMALL, "early_fracs": [0.5]},
    "refiner": {"crops": {"batch": 4, "size_px": 32}, "train": {"steps": 4, "optimizer": "adam"}},
    "retrain": {"learn": {**SMALL, "train": {**SMALL["train"], "steps": 4}}},
    "evaluate": {"pictures": 1},
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "shapes" / "raw").mkdir(parents=True)
    scenes = SCENES.replace("images: 6", "images: 10")
    (tmp_path / "data" / "shapes" / "raw" / "scenes.yaml").write_text(scenes, encoding="utf-8")
    put(tmp_path)
    for stage in (prepare, nnec, annotate):
        options = ["--device", "cpu", "--workers", "1", "--cache", "cache"] if stage is annotate else []
        run(stage, ["--dataset", "shapes", *options])
    return tmp_path


def put(folder: Path, **changes):
    (folder / "params.yaml").write_text(json.dumps({**PARAMS, **changes}), encoding="utf-8")


def run(stage, arguments=RUN):
    done = runner.invoke(stage.app, arguments)
    assert done.exit_code == 0, f"{stage.__name__}: {done.output} {done.exception!r}"
    return done.output


def test_strong_images_have_whole_masks_whatever_the_circles_say(home):
    paths = RunPaths("shapes")
    truth, whole = Prepared.open(paths.prepared).truth, MaskStore.open(paths.annotate)
    for image_id in whole.image_ids:
        assert whole.instances(image_id).rle == truth.instances(image_id).rle
    put(home, annotate={"method": "truth", "truth": {"clip": True}})
    run(annotate, ["--dataset", "shapes", "--device", "cpu", "--workers", "1", "--cache", "cache"])
    clipped = MaskStore.open(paths.annotate)
    areas = np.array(
        [[store.instances(each).area_px.sum() for store in (clipped, truth)] for each in truth.image_ids]
    ).sum(axis=0)
    assert 0 < areas[0] < areas[1]  # some do not fit their circles


def test_the_chain_of_the_recipe(home):
    said = {stage: run(stage) for stage in (warmup, pseudo_label, refiner, refine, retrain, evaluate)}
    assert "shapes: teacher" in said[warmup]
    assert "weak images" in said[pseudo_label]
    assert "masks refined" in said[refine]
    paths = RunPaths("shapes", labeled_pct=50, seed=0)
    rough, refined = MaskStore.open(paths.rough / "early_1"), MaskStore.open(paths.refined)
    assert not set(rough.image_ids) & set(refined.image_ids)
    assert set(refined.image_ids) == set(MaskStore.open(paths.pseudo_label).image_ids)
    figures = json.loads(paths.metrics.read_text())
    assert {"ap", "ap_50", "teacher_ap", "pseudo_label_mean_iou"} <= set(figures)
    assert "ap_50" in said[evaluate]


def test_the_student_learns_from_the_masks_it_is_told_to(home):
    for stage in (warmup, pseudo_label, refiner, refine, retrain):
        run(stage)
    student = RunPaths("shapes", labeled_pct=50).retrain / "last.safetensors"
    refined = student.read_bytes()
    put(home, retrain={**PARAMS["retrain"], "masks": "pseudo_label"})
    run(retrain)
    plain = student.read_bytes()
    put(home, retrain={**PARAMS["retrain"], "weak": False})
    run(retrain)
    assert len({refined, plain, student.read_bytes()}) == 3


def test_the_strong_images_alone_need_no_pseudo_labels(home):
    put(home, retrain={**PARAMS["retrain"], "weak": False})
    for stage in (warmup, retrain, evaluate):
        run(stage)
    figures = json.loads(RunPaths("shapes", labeled_pct=50).metrics.read_text())
    assert "ap" in figures
    assert "pseudo_label_mean_iou" not in figures
    put(home)
    done = runner.invoke(retrain.app, RUN)
    assert done.exit_code == 1
    assert "refined" in done.output


def test_without_early_weights_there_is_nothing_to_refine_from(home):
    put(home, warmup={**SMALL, "early_fracs": []})
    run(warmup)
    done = runner.invoke(refiner.app, RUN)
    assert done.exit_code == 1
    assert "has no early weights" in done.output
    assert "retrain.masks: pseudo_label" in done.output


def test_files_of_one_system_are_refused_by_the_stages_of_the_other(home):
    done = runner.invoke(crowd_warmup.app, RUN)
    assert done.exit_code == 1
    assert "params.yaml: is for the system segmenter; expected one for crowd" in done.output
    (home / "params.yaml").write_text("system: crowd\ndatasets: [shapes]\nprepare: {sources: {shapes: {reader: "
                                      "synthetic_shapes}}}\n", encoding="utf-8")  # fmt: skip
    done = runner.invoke(warmup.app, RUN)
    assert done.exit_code == 1
    assert "is for the system crowd; expected one for segmenter: run python -m stages.<stage> instead" in done.output
    put(home, system="crowds")
    done = runner.invoke(warmup.app, RUN)
    assert 'system: expected one of crowd, segmenter, got "crowds"' in done.output


UNLABELED = {
    "pseudo_label": {"method": "detections", "opinion": "prototypes"},
    "judge": {"quality": {"thresholds": "fixed", "class_thr": 0.1, "mask_thr": 0.5}, "correct": True},
    "retrain": {
        "learn": {**SMALL, "train": {**SMALL["train"], "steps": 4}}, "masks": "judged", "start": "teacher",
        "unlabeled": {"batch": 2, "pixel_weights": "uncertainty"},
    },
}  # fmt: skip


def test_the_chain_without_points(home):
    put(home, **UNLABELED)
    said = {stage: run(stage) for stage in (warmup, pseudo_label)}
    assert "detections, unfiltered" in said[pseudo_label]
    said[judge] = run(judge, RUN[:4])
    assert "kept" in said[judge]
    paths = RunPaths("shapes", labeled_pct=50, seed=0)
    judged = MaskStore.open(paths.judged / "masks")
    assert judged.image_ids == MaskStore.open(paths.pseudo_label).image_ids
    run(retrain)
    run(evaluate)
    figures = json.loads(paths.metrics.read_text())
    assert {"ap", "pseudo_label_precision", "pseudo_label_recall"} <= set(figures)
    assert "pseudo_label_mean_iou" not in figures  # no row is a point's
    online = {**UNLABELED["retrain"], "unlabeled": {"batch": 2, "online": True}}
    stored = (paths.retrain / "last.safetensors").read_bytes()
    put(home, **{**UNLABELED, "retrain": online})
    run(retrain)
    assert (paths.retrain / "last.safetensors").read_bytes() != stored


def test_judging_again_needs_no_network(home):
    put(home, **UNLABELED)
    run(warmup)
    run(pseudo_label)
    paths = RunPaths("shapes", labeled_pct=50, seed=0)
    run(judge, RUN[:4])
    before = MaskStore.open(paths.judged / "masks")
    count = sum(before.n_instances(one) for one in before.image_ids)
    (paths.warmup / "model.safetensors").unlink()
    put(home, **{**UNLABELED, "judge": {"quality": {"thresholds": "single", "score_thr": 0.9}}})
    assert "kept" in run(pseudo_label, [*RUN, "--refilter"])
    after = MaskStore.open(paths.judged / "masks")
    assert sum(after.n_instances(one) for one in after.image_ids) < count


def test_points_can_be_judged_too(home):
    put(home, pseudo_label={"keep_prob": True}, judge={"quality": {"thresholds": "fixed"}, "dropped": "ignore"})
    run(warmup)
    run(pseudo_label)
    run(judge, RUN[:4])
    paths = RunPaths("shapes", labeled_pct=50, seed=0)
    store, judged = MaskStore.open(paths.pseudo_label), MaskStore.open(paths.judged / "masks")
    for image_id in store.image_ids:
        assert judged.instances(image_id).point_id.tolist() == store.instances(image_id).point_id.tolist()
    put(home, pseudo_label={"keep_prob": True}, retrain={
        **PARAMS["retrain"], "masks": "judged", "unlabeled": {"pixel_weights": "uncertainty"},
    })  # fmt: skip
    run(retrain)


def test_a_threshold_out_of_range_is_named(home):
    put(home, judge={"quality": {"class_thr": 1.5}})
    done = runner.invoke(judge.app, RUN[:4])
    assert done.exit_code == 1
    assert "judge.quality" in done.output
    assert "class_thr: expected a number from 0 to 1, got 1.5" in " ".join(done.output.split())


def test_judging_comes_before_learning_from_it(home):
    put(home, **UNLABELED)
    run(warmup)
    run(pseudo_label)
    done = runner.invoke(retrain.app, RUN)
    assert done.exit_code == 1
    assert "judged" in done.output


@pytest.mark.parametrize("method", ["points", "detections"])
def test_validation_images_are_held_out_where_there_are_any(home, method):
    scenes = home / "data" / "shapes" / "raw" / "scenes.yaml"
    scenes.write_text(SCENES + "  val: {images: 2, height_px: 48, width_px: 64, objects: [1, 4], size_px: [10, 30]}\n")
    put(home, pseudo_label={"method": method})
    for stage in (prepare, nnec, annotate):
        options = ["--device", "cpu", "--workers", "1", "--cache", "cache"] if stage is annotate else []
        run(stage, ["--dataset", "shapes", *options])
    run(warmup)
    run(pseudo_label)
    paths = RunPaths("shapes", labeled_pct=50, seed=0)
    assert [one.split("/")[0] for one in MaskStore.open(paths.held_out).image_ids] == ["val", "val"]
    run(judge, RUN[:4])
