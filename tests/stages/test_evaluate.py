import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages.evaluate import app
from tests.training.blobs import write_blob_dataset
from tests.training.test_evaluate_crowd import write_net

PARAMS = """\
datasets: [blobs]
prepare: {sources: {blobs: {reader: folder}}}
model: {width: 8, mask_width: 8, embed_dim: 4, prior_prob: 0.4}
"""
RUN = Path("data/blobs/labeled_50/seed_0")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_blob_dataset(Path("data/blobs"), n_train=4, n_test=2)
    Path("params.yaml").write_text(PARAMS)
    return tmp_path


def run(code: int) -> str:
    arguments = ["--dataset", "blobs", "--labeled-pct", "50", "--device", "cpu"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def test_the_stage_writes_metrics_and_report(workplace: Path) -> None:
    write_net(RUN / "retrain" / "model.safetensors", 0)
    output = run(0)
    folder = RUN / "evaluate"
    assert "report: data/blobs/labeled_50/seed_0/evaluate/report.html" in output
    assert "matched_iou_annotator" in output
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["n_images"] == 2
    assert {path.name for path in folder.iterdir()} == {
        "metrics.json", "per_image.parquet", "plots", "overlays", "report.html",
    }  # fmt: skip


def test_calibration_reads_the_held_out_images_of_the_split(workplace: Path) -> None:
    Path("params.yaml").write_text(f"{PARAMS}evaluate: {{calibrate_count: true}}\n")
    write_net(RUN / "retrain" / "model.safetensors", 0)
    output = run(0)
    assert "Calibrated threshold" in output
    metrics = json.loads((RUN / "evaluate" / "metrics.json").read_text())
    assert metrics["n_held_out_images"] == 1
    assert {"mae", "mae_calibrated", "held_out_mae", "held_out_mae_calibrated"} <= set(metrics)
    assert "MAE, calibrated" in (RUN / "evaluate" / "report.html").read_text()


def test_without_a_student_one_message_says_so(workplace: Path) -> None:
    output = run(1)
    assert "error:" in output
    assert "model.safetensors: no such file" in output
    assert "Traceback" not in output
    assert not (RUN / "evaluate").exists()
