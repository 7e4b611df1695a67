import shutil

import pytest
from typer.testing import CliRunner

from pipeline.masks.store import MaskStore
from stages.judge import app
from stages.pseudo_label import app as pseudo_label_app
from stages.retrain import app as retrain_app
from stages.warmup import app as warmup_app
from tests.stages.blob_stage import RUN, blob_home, put_params
from tests.training.conftest import folder_bytes

runner = CliRunner()
ARGUMENTS = ["--dataset", "blobs", "--labeled-pct", "50"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A run with a teacher and its masks, to copy."""
    folder = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patch:
        blob_home(folder, patch)
        for teacher in (warmup_app, pseudo_label_app):
            assert runner.invoke(teacher, [*ARGUMENTS, "--device", "cpu"]).exit_code == 0
    return folder / RUN


@pytest.fixture
def home(tmp_path, monkeypatch, taught):
    folder = blob_home(tmp_path, monkeypatch)
    shutil.copytree(taught, folder / RUN)
    return folder


def statuses() -> list[str]:
    store = MaskStore.open(RUN / "judged" / "masks")
    return [status for image_id in store.image_ids for status in store.instances(image_id).status.tolist()]


def test_thresholds_are_tried_in_turn_without_the_network(home):
    stored = folder_bytes(RUN / "pseudo_label")
    n_held_out = len(MaskStore.open(RUN / "held_out"))
    assert n_held_out == 1
    (RUN / "warmup" / "model.safetensors").unlink()
    yields = {}
    for thr in (0.0, 0.45, 1.0):
        quality = {"thresholds": "fixed", "class_thr": thr, "mask_thr": 0.0, "margin": 0.1}
        put_params(home, judge={"quality": quality, "density_edges_px": []})
        result = runner.invoke(app, ARGUMENTS)
        assert result.exit_code == 0, result.output
        assert f"≥ {thr:.3f}" in result.output
        yields[thr] = statuses().count("ok")
        written = folder_bytes(RUN / "judged")
        assert {"thresholds.json", "quality.html", "yield.csv"} <= set(written)
        again = runner.invoke(pseudo_label_app, [*ARGUMENTS, "--refilter"])
        assert again.exit_code == 0, again.output
        assert folder_bytes(RUN / "judged") == written
    assert yields[0.0] > yields[1.0] == 0
    assert folder_bytes(RUN / "pseudo_label") == stored


@pytest.mark.parametrize("thresholds", ["off", "single", "adaptive", "calibrated"])
def test_every_way_to_judge_gives_a_store_to_train_on(home, thresholds):
    quality = {
        "thresholds": thresholds,
        "calibration_rows": 1,
        "score_thr": 0.2,
        "class_wanted": 0.0,
        "mask_wanted": 0.0,
    }
    put_params(home, judge={"quality": quality, "density_edges_px": []})
    result = runner.invoke(app, ARGUMENTS)
    assert result.exit_code == 0, result.output
    assert f"thresholds {thresholds}" in result.output
    judged, stored = MaskStore.open(RUN / "judged" / "masks"), MaskStore.open(RUN / "pseudo_label")
    assert judged.image_ids == stored.image_ids
    assert judged.provenance.params["quality"]["thresholds"] == thresholds
    if thresholds == "adaptive":
        trained = runner.invoke(retrain_app, [*ARGUMENTS, "--device", "cpu"])
        assert trained.exit_code == 0, trained.output


def test_uncertain_cells_from_the_parameter_file_to_the_student(home):
    unlabeled = {"pixel_weights": "uncertainty", "ramp_steps": 1}
    put_params(home, pseudo_label={"keep_prob": True}, retrain={"unlabeled": unlabeled})
    assert runner.invoke(app, ARGUMENTS).exit_code == 0
    refused = runner.invoke(retrain_app, [*ARGUMENTS, "--device", "cpu"])
    assert refused.exit_code == 1
    assert "have no soft mask, as retrain.unlabeled.pixel_weights: uncertainty needs" in refused.output
    for stage, device in ((pseudo_label_app, ["--device", "cpu"]), (app, []), (retrain_app, ["--device", "cpu"])):
        result = runner.invoke(stage, [*ARGUMENTS, *device])
        assert result.exit_code == 0, result.output


def test_masks_must_have_been_made(home):
    for name in ("pseudo_label", "held_out"):
        (RUN / name).rename(RUN / "away")
        for stage, option in ((app, []), (pseudo_label_app, ["--refilter"])):
            result = runner.invoke(stage, [*ARGUMENTS, *option])
            assert result.exit_code == 1
            assert f"{name}: expected a mask store, but the folder does not exist; run the stage" in result.output
        (RUN / "away").rename(RUN / name)
    assert not (RUN / "judged").exists()


def test_the_student_wants_judged_masks(home):
    result = runner.invoke(retrain_app, [*ARGUMENTS, "--device", "cpu"])
    assert result.exit_code == 1
    assert "judged/masks: expected a mask store, but the folder does not exist; run the stage" in result.output
