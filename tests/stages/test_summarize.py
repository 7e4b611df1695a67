"""The table over seeds."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.report.output import METRICS_FILE
from pipeline.training.checkpoint import MODEL_FILE
from stages.paths import RunPaths
from stages.summarize import app


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def evaluated(dataset: str, pct: int, seed: int, mae: float, *, steps: int | None = 100) -> None:
    paths = RunPaths(dataset, labeled_pct=pct, seed=seed)
    files = {paths.metrics: {"mae": mae, "rmse": 2 * mae, "n_images": 3, "n_heads": 9}}
    if steps is not None:
        record = {"architecture": {}, "parameters": {"seed": seed, "count": {"steps": steps}}}
        files |= dict.fromkeys(paths.records, record)
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")


def call(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "80"})
    assert done.exit_code == code, done.output
    return done.output


def test_the_table_has_a_row_for_each_data_set_and_share(tmp_path: Path) -> None:
    for seed, mae in enumerate((10.0, 12.0, 14.0)):
        evaluated("sha", 10, seed, mae)
    evaluated("sha", 40, 0, 5.0)
    evaluated("jhu", 10, 0, 50.0)
    Path("data/sha/labeled_x/seed_0/evaluate").mkdir(parents=True)
    Path("data/sha/labeled_x/seed_0/evaluate/metrics.json").write_text("not ours")
    output = call("--out", "tables/seeds.md")
    assert "| sha | 10 | 3 (0, 1, 2) | 12.0 ± 2.0 | 24.0 ± 4.0 |\n" in output, "unbroken on a narrow terminal"
    assert output.index("| jhu | 10") < output.index("| sha | 10") < output.index("| sha | 40 | 1 (0) | 5.00 | 10.0 |")
    assert "note:" not in output
    assert Path("tables/seeds.md").read_text(encoding="utf-8") in output


def test_runs_and_columns_can_be_chosen() -> None:
    for pct, seed in ((5, 0), (5, 1), (10, 0), (40, 0)):
        evaluated("sha", pct, seed, 10.0 + seed)
    evaluated("jhu", 5, 0, 50.0)
    output = call("--dataset", "sha", "--labeled-pct", "5", "--labeled-pct", "10", "--seed", "0", "--figure", "rmse")
    rows = [line for line in output.splitlines() if line.startswith("|")]
    assert rows[0] == "| data set | labelled % | seeds | RMSE |"
    assert rows[2:] == ["| sha | 5 | 1 (0) | 20.0 |", "| sha | 10 | 1 (0) | 20.0 |"]


def test_runs_of_different_parameters_are_not_mixed() -> None:
    evaluated("sha", 10, 0, 10.0, steps=100)
    evaluated("sha", 10, 1, 10.0, steps=200)
    output = call(code=1)
    assert "error:" in output
    assert "warmup.parameters.count.steps 100 and 200" in output
    assert "Traceback" not in output


def test_that_parameters_are_unknown_is_said() -> None:
    evaluated("sha", 10, 0, 10.0)
    evaluated("sha", 10, 1, 12.0, steps=None)
    output = call()
    assert "note: sha, 10 %: whether its runs had equal parameters is not known" in output
    assert "11.0 ± 1.4" in output


def test_nothing_to_summarize_is_one_clear_error() -> None:
    output = call(code=1)
    assert "data/DATASET/labeled_PCT/seed_SEED/evaluate/metrics.json; make them with dvc repro" in output
    evaluated("sha", 10, 0, 10.0)
    assert "there are: data/sha/labeled_10/seed_0; make" in call("--dataset", "jhu", code=1)


def test_the_names_of_files_are_those_that_the_stages_write() -> None:
    paths = RunPaths("sha")
    assert paths.metrics == paths.evaluate / METRICS_FILE
    assert paths.records == tuple(
        (folder / MODEL_FILE).with_suffix(".json") for folder in (paths.warmup, paths.retrain)
    )
