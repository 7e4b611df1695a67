"""The figures at the end of ``make demo``."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages.outcome import app

PARAMS = "prepare: {sources: {synthetic: {reader: synthetic}}}\nseeds: [0, 1]\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "params.yaml").write_text(PARAMS, encoding="utf-8")
    return tmp_path


def evaluated(seed: int, mae: float, further: str = "", **others: float) -> None:
    folder = Path(f"data/synthetic/labeled_10/seed_{seed}", further, "evaluate")
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"mae": mae, **others}), encoding="utf-8")


def test_it_prints_figures_and_report_of_every_run(folder: Path) -> None:
    evaluated(0, 3.25)
    evaluated(1, 4.5)
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 0, done.output
    for shown in ("3.25", "4.5", "seed 0", "seed 1", "data/synthetic/labeled_10/seed_1/evaluate/report.html"):
        assert shown in " ".join(done.output.split())


def test_it_names_every_run_that_is_missing(folder: Path) -> None:
    evaluated(0, 3.25)
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 1
    assert "seed_1/evaluate/metrics.json" in done.output
    assert "seed_0" not in done.output
    assert "dvc repro" in done.output


def test_further_rounds_are_printed_too(folder: Path) -> None:
    with (folder / "params.yaml").open("a", encoding="utf-8") as file:
        file.write("rounds: [{name: round_2, teacher: retrain}]\n")
    for seed in (0, 1):
        evaluated(seed, 3.25)
        evaluated(seed, 2.125, "round_2")
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 0, done.output
    for shown in ("2.12", "seed 1, round_2", "data/synthetic/labeled_10/seed_1/round_2/evaluate/report.html"):
        assert shown in " ".join(done.output.split())


def test_teacher_and_student_are_compared(folder: Path) -> None:
    evaluated(0, 3.25, teacher_mae=4.0)
    evaluated(1, 4.5, teacher_mae=4.0)
    shown = " ".join(CliRunner().invoke(app, []).output.split())
    assert "The student beats its teacher: better in MAE (3.25, teacher 4.00)." in shown
    assert "The student does not beat its teacher: no better in MAE (4.50, teacher 4.00)." in shown
