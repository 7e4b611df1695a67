"""The command, and that every row of every study is a parameter file that the stages take."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.experiments import __main__ as command
from benchmarks.experiments.study import Run
from benchmarks.experiments.workshop import Workshop
from pipeline.errors import PipelineError
from stages.params import load_data_params
from tests.code_reading import read_params

runner = CliRunner()


@pytest.mark.parametrize("study", command.STUDIES.values(), ids=command.STUDIES)
def test_every_row_is_a_sound_parameter_file(study, tmp_path):
    workshop = Workshop(tmp_path, study)
    keys = [row.key for row in study.rows]
    assert len(set(keys)) == len(keys)
    for row in study.rows:
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(workshop.parameters(Run(row, 10, 0))))
        load_data_params(path)


@pytest.mark.parametrize("study", command.STUDIES.values(), ids=command.STUDIES)
def test_every_step_names_the_sections_that_its_stage_reads(study):
    """Runs share a step's output by these sections: one that is not named would be shared though it differs."""
    for row in study.rows:
        named = set()
        for step in study.steps_of(row):
            named |= set(step.sections)
            read = {key.split(".")[0] for key in read_params(f"stages/{step.stage.replace('.', '/')}.py")}
            assert read
            assert read <= named, f"{study.name}, {row.key}: {step.stage}"


@pytest.fixture
def fake_runs(monkeypatch):
    def do(self, run):
        self.figures_file(run).parent.mkdir(parents=True, exist_ok=True)
        figures = {"mae": run.labeled_pct, "rmse": 2, "matched_iou_truth": 0.5, "mae_mean_count": 3}
        self.figures_file(run).write_text(json.dumps(figures))

    monkeypatch.setattr(Workshop, "do", do)


def test_it_prints_and_writes_the_tables(fake_runs, tmp_path):
    result = runner.invoke(command.app, ["crowd", "--out", str(tmp_path), "--only", "supervised", "--seeds", "1"])
    assert result.exit_code == 0, result.output
    assert "supervised/labeled_40/seed_0: done" in result.output
    text = (tmp_path / "crowd" / "tables.md").read_text()
    assert "| labels alone | 5 % | 1 | 5.00 |" in text
    assert text.strip() in result.output


def test_it_writes_what_a_study_draws(monkeypatch, tmp_path):
    def do(self, run):
        self.figures_file(run).parent.mkdir(parents=True, exist_ok=True)
        figures = {"annotation_hours": 3.0, "ap": 0.25, "matched_iou_truth": 0.5, "minutes": None}
        self.figures_file(run).write_text(json.dumps(figures))

    monkeypatch.setattr(Workshop, "do", do)
    options = ["--out", str(tmp_path), "--only", "pointwssis", "--only", "p2seg", "--seeds", "2"]
    result = runner.invoke(command.app, ["compare", *options])
    assert result.exit_code == 0, result.output
    line = "| PointWSSIS | masks on 5 %, points on 95 % | 2 | 3.00 ± 0.00 | 0.250 ± 0.000 | – | 0.500 ± 0.000 | – | – |"
    assert line in (tmp_path / "compare" / "tables.md").read_text()
    svg = (tmp_path / "compare" / "compare.svg").read_text()
    assert "PointWSSIS, 5 %" in svg
    assert "P2Seg → SOLOv2" in svg


def test_a_short_run_leaves_the_long_ones_rows_in_the_tables(fake_runs, tmp_path):
    for only, seeds in (("supervised", "2"), ("full", "1")):
        runner.invoke(command.app, ["crowd", "--out", str(tmp_path), "--only", only, "--seeds", seeds])
    text = (tmp_path / "crowd" / "tables.md").read_text()
    assert "| labels alone | 5 % | 2 | 5.00 " in text
    assert "| + mask constraint: all of XMask | 5 % | 1 | 5.00 |" in text


def test_a_run_that_fails_costs_itself_alone(fake_runs, monkeypatch, tmp_path):
    done = Workshop.do

    def do(self, run):
        if run.labeled_pct == 5:
            raise PipelineError(f"{run}: the stage warmup failed")
        done(self, run)

    def do_or_fail_at_seed_1(self, run):
        do(self, run if run.seed == 0 else Run(run.variant, 5, run.seed))

    monkeypatch.setattr(Workshop, "do", do_or_fail_at_seed_1)
    result = runner.invoke(command.app, ["crowd", "--out", str(tmp_path), "--only", "supervised", "--seeds", "2"])
    assert result.exit_code == 1
    assert "error: supervised/labeled_5/seed_0: the stage warmup failed" in result.output
    assert "4 of 6 runs failed, see above: supervised/labeled_10/seed_1, supervised/labeled_40/seed_1" in result.output
    text = (tmp_path / "crowd" / "tables.md").read_text()
    assert "| labels alone | 40 % | 1 | 40.00 |" in text  # one seed, not two
    assert "| labels alone | 5 % |" not in text


def test_unknown_names_are_refused(tmp_path):
    result = runner.invoke(command.app, ["crowds"])
    assert result.exit_code == 1
    assert "study: expected one of crowd, shapes" in result.output
    result = runner.invoke(command.app, ["crowd", "--only", "nothing"])
    assert result.exit_code == 1
    assert "--only: expected some of supervised, points" in result.output
