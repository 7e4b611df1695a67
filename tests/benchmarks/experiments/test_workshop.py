"""The workshop: each distinct output once, shared by the runs that begin alike; a failed stage stops its run alone."""

import json
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest
import yaml

from benchmarks.experiments import workshop as workshop_module
from benchmarks.experiments.study import Run, Step, Study, Variant
from benchmarks.experiments.workshop import Workshop
from pipeline.errors import PipelineError

WEAK = Variant("weak", "weak", "t", {"retrain.w_bg": 0.0})
PLAIN = Variant("plain", "plain", "t")
STUDY = Study(
    name="tiny",
    params="params.yaml",
    reader="synthetic",
    scenes={"seed": 1, "splits": {}},
    changes={"warmup.count.steps": 7},
    steps=(
        Step("prepare", ("prepare",), per_run=False, output="prepared"),
        Step("annotate", ("annotate",), per_run=False, options=("--cache", "{cache}")),
        Step("warmup", ("warmup",)),
        Step("retrain", ("retrain",)),
    ),
    rows=(PLAIN, WEAK),
    figures={"mae": "MAE"},
)


@pytest.fixture
def calls(monkeypatch):
    """The stages that were called; they only leave a trace: what they saw in their folder."""
    made = []

    def call(self, step, run, params, folder):
        made.append(step.stage)
        place = self._place(folder, step, run)
        place.mkdir(parents=True)
        data = folder / "data" / "tiny"
        seen = sorted(str(path.relative_to(data)) for path in data.rglob("trace"))
        (place / "trace").touch()
        (place / "metrics.json").write_text(json.dumps({"mae": params["retrain"].get("w_bg"), "seen": seen}))

    monkeypatch.setattr(Workshop, "_call", call)
    return made


@pytest.fixture
def workshop(tmp_path, calls):
    return Workshop(tmp_path / "shop", STUDY)


def test_runs_that_begin_alike_share_what_they_share(workshop, calls):
    for variant in (PLAIN, WEAK):
        workshop.do(Run(variant, 10, 0))
    assert calls == ["prepare", "annotate", "warmup", "retrain", "retrain"]
    plain, weak = (workshop.figures(Run(variant, 10, 0)) for variant in (PLAIN, WEAK))
    assert weak["mae"] == 0.0 != plain["mae"]
    assert plain["seen"] == []  # rglob follows no links: nothing of an earlier step was copied
    workshop.do(Run(PLAIN, 5, 0))
    workshop.do(Run(PLAIN, 5, 1))
    assert calls[5:] == ["warmup", "retrain"] * 2


def test_every_step_sees_what_the_earlier_ones_wrote(workshop):
    workshop.do(Run(PLAIN, 10, 0))
    [folder] = (workshop.root / "retrain").iterdir()
    data = folder / "data" / "tiny"
    assert (data / "prepared" / "trace").is_file()
    assert (data / "annotate" / "trace").is_file()
    assert (data / "labeled_10" / "seed_0" / "warmup" / "trace").is_file()
    assert yaml.safe_load((data / "raw" / "scenes.yaml").read_text()) == STUDY.scenes


def test_what_is_done_is_not_done_again(workshop, calls):
    run = Run(PLAIN, 10, 0)
    assert workshop.figures(run) is None
    workshop.do(run)
    before = list(calls)
    workshop.do(run)
    workshop.figures_file(run).unlink()
    workshop.do(run)
    assert calls == before
    assert workshop.figures(run) is not None


def test_a_row_leaves_out_steps_that_it_does_not_need(workshop, calls):
    short = Variant("short", "short", "t", leaves_out=("warmup",))
    workshop.do(Run(short, 10, 0))
    assert calls == ["prepare", "annotate", "retrain"]
    workshop.do(Run(PLAIN, 10, 0))
    assert calls[3:] == ["warmup", "retrain"]


def test_other_scenes_are_other_folders(workshop, calls):
    workshop.do(Run(PLAIN, 10, 0))
    workshop.study = replace(STUDY, scenes={"seed": 2, "splits": {}})
    workshop.do(Run(PLAIN, 10, 0))
    assert calls == ["prepare", "annotate", "warmup", "retrain"] * 2


def test_other_parameters_are_another_run(workshop, calls):
    run = Run(PLAIN, 10, 0)
    workshop.do(run)
    workshop.study = replace(STUDY, changes={**STUDY.changes, "retrain.w_bg": 0.5})
    assert workshop.figures(run) is None  # those of the old parameters are not its own
    workshop.do(run)
    assert calls[4:] == ["retrain"]
    assert workshop.figures(run) is not None
    workshop.study = STUDY
    assert workshop.figures(run) is not None


def test_parameters_are_the_files_with_the_changes_of_study_and_row(workshop):
    params = workshop.parameters(Run(WEAK, 10, 0))
    assert params["warmup"]["count"]["steps"] == 7
    assert params["retrain"]["w_bg"] == 0.0
    assert params["datasets"] == ["tiny"]
    assert params["prepare"]["sources"] == {"tiny": {"reader": "synthetic"}}


def test_a_stage_that_fails_is_named_with_its_log(tmp_path):
    study = replace(STUDY, steps=(Step("prepare", ("prepare",), per_run=False, output="prepared"),))
    workshop = Workshop(tmp_path / "shop", study)
    with pytest.raises(PipelineError, match=r"plain/labeled_10/seed_0: the stage prepare failed; its output stands in"):
        workshop.do(Run(PLAIN, 10, 0))
    [folder] = (tmp_path / "shop" / "prepare").iterdir()
    assert "splits" in (folder / "prepare.log").read_text()
    assert not (folder / "done").exists()


def test_two_processes_cannot_work_in_one_folder(workshop):
    other = Workshop(workshop.root, STUDY)
    message = "another process makes experiments there"
    with workshop.alone(), pytest.raises(PipelineError, match=message), other.alone():
        pass
    with other.alone():
        pass


@pytest.fixture
def timed(workshop, monkeypatch):
    """The steps from annotate on are timed; a clock that goes on by 15 s at each look."""
    clock = SimpleNamespace(monotonic=count(0, 15).__next__)
    monkeypatch.setattr(workshop_module, "time", clock)
    workshop.study = replace(STUDY, steps=tuple(replace(step, timed=step.stage != "prepare") for step in STUDY.steps))
    return workshop


def test_minutes_are_those_of_the_timed_steps_shared_ones_included(timed):
    for variant in (PLAIN, WEAK):
        timed.do(Run(variant, 10, 0))
        assert timed.figures(Run(variant, 10, 0))["minutes"] == pytest.approx(3 * 15 / 60)


def test_a_step_that_was_broken_off_has_no_time(timed, monkeypatch):
    whole = Workshop._call

    def fails(self, step, run, params, folder):
        if step.stage == "retrain":
            raise PipelineError("broken off")

    monkeypatch.setattr(Workshop, "_call", fails)
    with pytest.raises(PipelineError, match="broken off"):
        timed.do(Run(PLAIN, 10, 0))
    monkeypatch.setattr(Workshop, "_call", whole)
    for folder in (timed.root / "annotate").iterdir():
        (folder / "data" / "tiny" / "annotate").mkdir(exist_ok=True)
    timed.do(Run(PLAIN, 10, 0))
    assert "minutes" not in timed.figures(Run(PLAIN, 10, 0))


def test_a_row_may_have_its_own_file_and_steps_and_shares_the_first(workshop, calls):
    own = Variant(
        "own", "own", "t", {"retrain.w_bg": 0.5}, params="recipes/compare/params/xmask.yaml",
        steps=(*STUDY.steps[:1], STUDY.steps[3]),
    )  # fmt: skip
    with pytest.raises(KeyError, match=r"retrain\.w_bg: no such parameter"):
        workshop.parameters(Run(own, 10, 0))
    own = replace(own, changes={"retrain.gate.min_count_ratio": 0.5})
    workshop.study = replace(STUDY, changes={"warmup.count.steps": 9})
    params = workshop.parameters(Run(own, 10, 0))
    assert params["retrain"]["gate"] == {"max_error_ratio": 100.0, "min_count_ratio": 0.5}
    assert params["warmup"]["crops"] == {"size_px": 96, "batch": 4}
    assert [step.stage for step in workshop.study.steps_of(own)] == ["prepare", "retrain"]


def test_a_section_that_a_file_lacks_takes_its_defaults(workshop, calls):
    lacking = Variant(
        "lacking", "lacking", "t", params="recipes/compare/params/solov2.yaml",
        steps=(*STUDY.steps[:2], Step("refine", ("refiner",))),
    )  # fmt: skip
    workshop.study = replace(STUDY, changes={}, figures={})
    assert "refiner" not in workshop.parameters(Run(lacking, 10, 0))
    workshop.do(Run(lacking, 10, 0))
    assert calls == ["prepare", "annotate", "refine"]


def test_a_study_may_measure_more_of_each_run(workshop):
    def measure(run, data_set, params):
        return {"share": run.labeled_pct, "there": (data_set / "annotate").is_dir(), "w": params["retrain"]["w_bg"]}

    workshop.study = replace(STUDY, measure=measure)
    workshop.do(Run(WEAK, 10, 0))
    figures = workshop.figures(Run(WEAK, 10, 0))
    assert (figures["share"], figures["there"], figures["w"], figures["mae"]) == (10, True, 0.0, 0.0)
