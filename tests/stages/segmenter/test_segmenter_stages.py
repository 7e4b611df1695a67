"""The segmenter's stages, one after the other, as a recipe calls them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.masks.store import MaskStore
from stages import annotate, nnec, prepare
from stages import warmup as crowd_warmup
from stages.paths import RunPaths
from stages.segmenter import evaluate, pseudo_label, refine, refiner, retrain, warmup
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
