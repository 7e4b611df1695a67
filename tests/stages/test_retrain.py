import json

import pytest
from typer.testing import CliRunner

from pipeline.compute.files import digest_file
from pipeline.masks.store import MaskStore
from stages.judge import app as judge_app
from stages.pseudo_label import app as pseudo_label_app
from stages.retrain import app
from stages.warmup import app as warmup_app
from tests.stages.blob_stage import RUN, blob_home, put_params

runner = CliRunner()
RUN_ARGUMENTS = ["--dataset", "blobs", "--labeled-pct", "50"]
ARGUMENTS = [*RUN_ARGUMENTS, "--device", "cpu"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = blob_home(tmp_path, monkeypatch)
    for teacher in (warmup_app, pseudo_label_app):
        assert runner.invoke(teacher, ARGUMENTS).exit_code == 0
    assert runner.invoke(judge_app, RUN_ARGUMENTS).exit_code == 0
    return folder


def test_the_student_is_trained_and_its_figures_are_printed(home):
    result = runner.invoke(app, ARGUMENTS)
    assert result.exit_code == 0, result.output
    assert "blobs: student" in result.output
    figures = json.loads((RUN / "retrain" / "metrics.json").read_text())
    assert figures["last_step"] == 4
    assert "teacher_mae" in figures


def test_a_teacher_that_cannot_count_is_stopped_with_the_figures(home):
    put_params(home, retrain={"gate": {"max_error_ratio": 1e-6, "min_count_ratio": 100.0, "max_count_ratio": 101.0}})
    result = runner.invoke(app, ARGUMENTS)
    assert result.exit_code == 1
    assert "the teacher is not fit to teach, so retrain does not start (2 found)" in result.output
    assert "retrain.gate.max_error_ratio" in result.output
    assert "retrain.gate.min_count_ratio" in result.output
    assert not (RUN / "retrain").exists()


def test_the_student_teaches_a_further_round_in_its_own_folder(home):
    assert runner.invoke(app, ARGUMENTS).exit_code == 0
    first = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    further = [*ARGUMENTS, "--round", "round_2"]
    judging = [*RUN_ARGUMENTS, "--round", "round_2"]
    for stage, arguments in ((pseudo_label_app, further), (judge_app, judging), (app, further)):
        result = runner.invoke(stage, arguments)
        assert result.exit_code == 0, result.output
    assert {path: path.read_bytes() for path in first} == first
    store = MaskStore.open(RUN / "round_2" / "pseudo_label")
    assert store.provenance.weights_sha256 == digest_file(RUN / "retrain" / "model.safetensors")
    rounds = [store.instances(image_id).round for image_id in store.image_ids]
    assert all((each == 1).all() for each in rounds)
    assert sum(map(len, rounds)) > 0
    student = (RUN / "round_2" / "retrain" / "model.safetensors").read_bytes()
    assert student != (RUN / "retrain" / "model.safetensors").read_bytes()
    mixed = runner.invoke(app, [*further, "--teacher", "warmup"])
    assert mixed.exit_code == 1
    assert "round_2/judged/masks: was made with another teacher" in mixed.output
