"""Options of the training commands: devices, machines, precision."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.training.options import WarmupOptions
from stages.judge import app as judge_app
from stages.pseudo_label import app as pseudo_label_app
from stages.retrain import app as retrain_app
from stages.training_options import with_precision
from stages.warmup import app as warmup_app
from tests.stages.blob_stage import PARAMS, RUN, blob_home, put_params

ROOT = Path(__file__).parents[2]
ARGUMENTS = ["--dataset", "blobs", "--labeled-pct", "50", "--device", "cpu"]
runner = CliRunner()

home = pytest.fixture(blob_home)


def test_precision_takes_the_place_of_the_files():
    options = WarmupOptions()
    assert with_precision(options, None) is options
    changed = with_precision(options, "bf16-mixed")
    assert changed.loop.precision == "bf16-mixed"
    assert changed.count == options.count


def test_precision_is_recorded_with_the_model(home):
    assert runner.invoke(warmup_app, [*ARGUMENTS, "--precision", "bf16-mixed"]).exit_code == 0
    record = json.loads((RUN / "warmup" / "model.json").read_text())
    assert record["parameters"]["loop"]["precision"] == "bf16-mixed"
    bad = runner.invoke(warmup_app, [*ARGUMENTS, "--precision", "8-bit"])
    assert bad.exit_code == 2
    assert "32-true" in bad.output


def test_devices_that_cannot_share_a_batch_are_refused(home):
    result = runner.invoke(warmup_app, [*ARGUMENTS, "--devices", "3"])
    assert result.exit_code == 1
    assert "crops.batch: 2 crops cannot be divided among 3 processes" in result.output
    assert not (RUN / "warmup").exists()


def logged_figures(name):
    lines = Path("logs/blobs/labeled_50/seed_0", f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(home):
    """All three phases with both branches; normalisation frozen, since each process normalises by its own crops."""
    phase = {"steps": 2, "ramp_steps": 0, "learning_rate": 1e-4, "encoder_learning_rate": 1e-4}
    training = {"crops": {"size_px": 32, "batch": 2}, "count": phase, "mask": phase}
    training["loop"] = {**PARAMS["warmup"]["loop"], "frozen_norm": True}
    unlabeled = {"ramp_steps": 1, "point_prob": 0.25}
    put_params(
        home,
        model={**PARAMS["model"], "prior_prob": 0.6},  # heads from the first step on, so that masks are learnt
        warmup=training,
        retrain={**training, "constraint": phase, "unlabeled": unlabeled, "gate": PARAMS["retrain"]["gate"]},
    )
    for app in (warmup_app, pseudo_label_app, judge_app, retrain_app):
        result = runner.invoke(app, ARGUMENTS[:-2] if app is judge_app else ARGUMENTS)
        assert result.exit_code == 0, result.output
    one = logged_figures("retrain")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stages.retrain", *ARGUMENTS, "--devices", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "distributed_backend=gloo" in done.stderr
    assert done.stdout.count("blobs: student") == 1
    two = logged_figures("retrain")
    assert [list(row) for row in two] == [list(row) for row in one]
    assert {"count/unlabeled_loss", "mask/unlabeled_loss", "constraint/loss"} <= {key for row in one for key in row}
    for a, b in zip(one, two, strict=True):
        shared = [
            key for key in a if not key.endswith(("misplaced_share", "positives_error"))
        ]  # shares of a rank's heads
        assert [b[key] for key in shared] == pytest.approx([a[key] for key in shared], rel=2e-5)
    assert next(row["mask/loss"] for row in one if "mask/loss" in row) > 0
