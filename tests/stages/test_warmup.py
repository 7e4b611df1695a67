import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages.warmup import app
from tests.stages.blob_stage import RUN, blob_home, put_params

runner = CliRunner()

home = pytest.fixture(blob_home)


def test_the_teacher_is_trained_and_its_figures_are_printed(home):
    result = runner.invoke(app, ["--dataset", "blobs", "--labeled-pct", "50", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "blobs: teacher" in result.output
    assert "held out mae" in result.output
    figures = json.loads((RUN / "warmup" / "metrics.json").read_text())
    assert figures["last_step"] == 3
    log = Path("logs/blobs/labeled_50/seed_0/warmup.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == 3
    assert not Path("resume/blobs/labeled_50/seed_0/warmup").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "nowhere"], "data/nowhere/prepared/images.parquet: no such file; run python -m stages.prepare"),
        (["--dataset", "blobs", "--device", "tpu"], "expected auto, cpu, cuda or cuda:N"),
        (["--dataset", "blobs", "--params", "none.yaml"], "none.yaml: no such file"),
    ],
)
def test_a_users_mistake_gives_one_message(home, arguments, message):
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output


def test_masks_must_have_been_made(home):
    (home / "data" / "blobs" / "annotate").unlink()
    result = runner.invoke(app, ["--dataset", "blobs", "--device", "cpu"])
    assert result.exit_code == 1
    assert "data/blobs/annotate: expected a mask store" in result.output


def test_a_model_that_does_not_exist_is_named(home):
    put_params(home, model={"backbone": "resnet10"})
    result = runner.invoke(app, ["--dataset", "blobs", "--labeled-pct", "50", "--device", "cpu"])
    assert result.exit_code == 1
    assert "error: backbone: " in result.output
    assert not RUN.exists()


def test_help_explains_itself():
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for word in ("--dataset", "--labeled-pct", "--seed", "--device", "--params", "percent"):
        assert word in result.output
