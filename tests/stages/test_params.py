"""params.yaml: what is refused, in which words, and that the committed file is complete."""

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from ruamel.yaml import YAML

from pipeline.errors import PipelineError
from stages.params import check, load_params, load_segmenter_params, source_reader
from stages.segmenter.sections import SegmenterParams

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Phase:
    steps: int = 10
    rate: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps must be at least 0, got {self.steps}")


@dataclass(frozen=True)
class Section:
    first: Phase = field(default_factory=Phase)
    method: Literal["disc", "truth"] = "disc"
    name: str = "a"
    on: bool = False
    sides_px: tuple[int, ...] = (1,)
    phases: Mapping[str, Phase] = field(default_factory=dict)
    at_most: float | None = None
    thr: float | tuple[float, ...] = 0.5


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"first": {"stepps": 1}}, "section.first.stepps: unknown key; did you mean 'steps'?"),
        ({"qqq": 1}, "section.qqq: unknown key; known here: first, method, name, on, sides_px, phases, at_most, thr"),
        ({"phases": {"a": {"rte": 1}}}, "section.phases.a.rte: unknown key; did you mean 'rate'?"),
        ({"first": {"steps": "3"}}, 'section.first.steps: expected a whole number, got "3"; write it without quotes'),
        ({"first": {"steps": 3.5}}, "section.first.steps: expected a whole number, got 3.5"),
        ({"first": {"steps": True}}, "section.first.steps: expected a whole number, got true"),
        ({"first": {"rate": "fast"}}, 'section.first.rate: expected a number, got "fast"'),
        ({"first": {"rate": float("nan")}}, "section.first.rate: expected a finite number, got NaN"),
        ({"first": {"rate": None}}, "section.first.rate: expected a number, got null; give a value, or remove the key"),
        ({"first": 3}, "section.first: expected a mapping (keys below it), got 3"),
        ({"first": {"steps": -1}}, "section.first: steps must be at least 0, got -1"),
        ({"method": "disk"}, "section.method: expected one of disc, truth, got \"disk\"; did you mean 'disc'?"),
        ({"name": 3}, "section.name: expected text, got 3; quote it"),
        ({"on": "true"}, 'section.on: expected true or false, got "true"; write it without quotes'),
        ({"on": 1}, "section.on: expected true or false, got 1"),
        ({"sides_px": 3}, "section.sides_px: expected a list, got 3; write [3]"),
        ({"sides_px": [3, "4"]}, 'section.sides_px.1: expected a whole number, got "4"'),
        ({"at_most": "x"}, 'section.at_most: expected a number, got "x"'),
        ({"thr": "high"}, 'section.thr: expected a number or a list, got "high"'),
        ({"thr": "0.5"}, 'section.thr: expected a number or a list, got "0.5"; write it without quotes'),
        ({"thr": [0.5, "high"]}, 'section.thr.1: expected a number, got "high"'),
        ({"thr": None}, "section.thr: expected a number or a list, got null; give a value, or remove the key"),
    ],
)
def test_each_fault_names_key_expectation_value_and_remedy(given: dict[str, Any], fault: str) -> None:
    checked, faults = check(Section, given, at=("section",))
    assert checked is None
    assert len(faults) == 1
    assert faults[0].startswith(fault)


def test_all_faults_come_at_once() -> None:
    given = {"first": {"steps": "3", "rat": 1}, "on": 1, "unknown": 2}
    assert len(check(Section, given, at=())[1]) == 4


def test_sound_values_become_the_plain_dataclasses_and_the_rest_its_defaults() -> None:
    given = {"first": {"steps": 3, "rate": 1}, "sides_px": [3, 4], "phases": {"b": {}}, "at_most": None}
    checked, faults = check(Section, given, at=())
    assert faults == []
    assert checked == Section(first=Phase(3, 1.0), sides_px=(3, 4), phases={"b": Phase()})
    assert type(checked.first) is Phase


@dataclass(frozen=True)
class Whole:
    """Holds sections whose defaults are not those of their classes."""

    section: Section = field(
        default_factory=lambda: Section(
            first=Phase(7, 0.7), name="b", sides_px=(2, 3), phases={"c": Phase(8)}, at_most=2.0
        )
    )
    maybe: Phase | None = None
    perhaps: Phase | None = field(default_factory=lambda: Phase(9, 0.9))
    either: Phase | Section = field(default_factory=lambda: Phase(9, 0.9))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Whole()),
        ({"section": {}}, Whole()),
        ({"section": {"on": True}}, Whole(section=dataclasses.replace(Whole().section, on=True))),
        (
            {"section": {"first": {"steps": 3}}},
            Whole(section=dataclasses.replace(Whole().section, first=Phase(3, 0.7))),
        ),
        ({"section": {"phases": {}}}, Whole(section=dataclasses.replace(Whole().section, phases={}))),
        (
            {"section": {"phases": {"d": {"steps": 4}}}},
            Whole(section=dataclasses.replace(Whole().section, phases={"d": Phase(4)})),
        ),
        ({"section": {"sides_px": [5]}}, Whole(section=dataclasses.replace(Whole().section, sides_px=(5,)))),
        ({"section": {"at_most": None}}, Whole(section=dataclasses.replace(Whole().section, at_most=None))),
        ({"maybe": {"steps": 3}}, Whole(maybe=Phase(3))),
        ({"perhaps": {"steps": 3}}, Whole(perhaps=Phase(3, 0.9))),
        ({"perhaps": None}, Whole(perhaps=None)),
        ({"either": {"name": "d"}}, Whole(either=Section(name="d"))),
    ],
)
def test_a_key_left_out_of_a_section_takes_what_stands_where_the_section_does(
    given: dict[str, Any], expected: Whole
) -> None:
    assert check(Whole, given, at=()) == (expected, [])


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"section": {"first": {"rat": 1}}}, "section.first.rat: unknown key; did you mean 'rate'?"),
        ({"section": {"first": {"steps": -1}}}, "section.first: steps must be at least 0, got -1"),
        ({"section": None}, "section: expected a mapping (keys below it), got null"),
        ({"section": [1]}, "section: expected a mapping (keys below it), got [1]"),
    ],
)
def test_faults_in_such_sections_are_named_where_they_stand(given: dict[str, Any], fault: str) -> None:
    checked, faults = check(Whole, given, at=())
    assert checked is None
    assert [one[: len(fault)] for one in faults] == [fault]


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ({"reader": "shc"}, r'prepare\.sources\.mine\.reader: unknown reader "shc"; did you mean'),
        ({"readr": "shb"}, r"prepare\.sources\.mine: expected a mapping such as {reader: folder}"),
        (None, r"prepare\.sources\.mine: expected a mapping"),
        ({"reader": "shb", "nonsense_zz": 1}, r"prepare\.sources\.mine\.nonsense_zz: unknown key"),
    ],
)
def test_a_source_is_checked_against_its_reader(source: object, fault: str) -> None:
    reader, faults = source_reader("mine", source)
    assert reader is None
    with pytest.raises(PipelineError, match=fault):
        raise PipelineError("\n".join(faults))


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nnec: {min_radius_px: 3", r"params\.yaml:\d+:\d+: not valid YAML"),
        ("nnec: {}\nnnec: {}\n", r"params\.yaml:2:1: not valid YAML: found duplicate key"),
        ("- 1\n", r"the file: expected a mapping"),
        ("nnecc: {}\n", r"nnecc: unknown key; did you mean 'nnec'\?"),
        ("nnec: {min_radius_px: -1}\n", r"nnec: min_radius_px must be"),
        ("warmup: {count: {steps: '3'}}\n", r"warmup\.count\.steps: expected a whole number"),
        ("annotate: {method: sam}\n", r"annotate\.method: expected one of edp_sam, superpixel"),
        ("datasets: [mine]\n", r"datasets: 'mine' has no entry in prepare\.sources"),
        ("labeled_pct: [0]\n", r"labeled_pct: expected 1 to 100 percent, got 0"),
        ("seeds: []\n", r"seeds: expected at least one value"),
        ("seeds: [1, 1]\n", r"seeds: .* each once"),
        ("rounds: [{name: two, teacher: retrain}]\n", r"rounds: expected the names round_2, .* each once, got 'two'"),
        (
            "rounds: [{name: round_2, teacher: student}]\n",
            r"rounds: round_2's teacher: expected one of warmup, retrain, ",
        ),
        ("rounds: [{name: round_2}]\n", r"rounds\.0\.teacher"),
        ("judge: {quality: {class_thr: 1.5}}\n", r"judge\.quality: class_thr: expected a number from 0 to 1, got 1\.5"),
        (
            "judge: {quality: {mask_thr: [0.5, -1]}}\n",
            r"judge\.quality: mask_thr: expected a number from 0 to 1, got -1",
        ),
        ("judge: {quality: {thresholds: best}}\n", r"judge\.quality\.thresholds: expected one of off, single"),
        ("judge: {density_edges_px: [9.0, 5.0]}\n", r"judge: density_edges_px: expected ascending numbers above 0"),
        (
            "judge: {quality: {thresholds: fixed}}\nretrain: {teacher: ema}\n",
            r"judge\.quality\.thresholds: fixed judges stored pseudo-labels, and retrain\.teacher: ema",
        ),
        (
            "judge: {quality: {thresholds: fixed}}\nretrain: {unlabeled: {match_count: true}}\n",
            r"judge\.quality\.thresholds: fixed and retrain\.unlabeled\.match_count both say",
        ),
        (
            "retrain: {unlabeled: {pixel_weights: uncertainty}}\n",
            r"retrain\.unlabeled\.pixel_weights: uncertainty reads soft masks; set pseudo_label\.keep_prob: true",
        ),
        (
            "retrain: {teacher: ema, unlabeled: {pixel_weights: uncertainty}}\n",
            r"retrain: unlabeled\.pixel_weights: uncertainty reads stored soft masks, and teacher: ema",
        ),
        ("splits: {lists: {mine: {ten: x.txt}}}\n", r"splits\.lists\.mine\.ten.*: expected a whole number"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=rf"(?s)params\.yaml.*{message}|{message}"):
        load_params(write(tmp_path, text))


def test_faults_of_all_sections_and_sources_come_in_one_message(tmp_path: Path) -> None:
    path = write(tmp_path, "nnec: {min: 1}\nretrain: {w_fg: x}\nprepare: {sources: {synthetic: {reader: no}}}\n")
    with pytest.raises(PipelineError, match=r"\(3 found\)") as caught:
        load_params(path)
    assert "nnec.min:" in str(caught.value)
    assert "retrain.w_fg:" in str(caught.value)
    assert "prepare.sources.synthetic.reader:" in str(caught.value)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"nowhere\.yaml: no such file; .* --params"):
        load_params(tmp_path / "nowhere.yaml")


def test_yaml_12_numbers_are_numbers_as_in_dvc(tmp_path: Path) -> None:
    text = "prepare: {sources: {synthetic: {reader: synthetic}}}\nwarmup: {count: {learning_rate: 1e-5}}\n"
    assert load_params(write(tmp_path, text)).warmup.count.learning_rate == 1e-5


def test_sections_of_a_recipe_may_be_given_in_part(tmp_path: Path) -> None:
    text = (
        "system: segmenter\nprepare: {sources: {synthetic: {reader: synthetic}}}\nwarmup: {dice_weight: 2}\n"
        "refiner: {train: {steps: 5}}\nretrain: {learn: {dice_weight: 2}}\n"
        "evaluate: {detect: {max_detections: 50}}\n"
    )
    params, whole = load_segmenter_params(write(tmp_path, text)), SegmenterParams()
    assert params.warmup == dataclasses.replace(whole.warmup, dice_weight=2)
    assert params.refiner.train == dataclasses.replace(whole.refiner.train, steps=5)
    assert params.retrain.learn == dataclasses.replace(whole.retrain.learn, dice_weight=2)
    assert params.evaluate.detect == dataclasses.replace(whole.evaluate.detect, max_detections=50)
    assert params.warmup.ranges_px != params.retrain.learn.ranges_px, "or the four lines above show little"


def test_list_files_are_found_by_dataset_and_share(tmp_path: Path) -> None:
    text = "prepare: {sources: {synthetic: {reader: synthetic}}}\nsplits: {lists: {sha: {10: a.txt, '40': b.txt}}}\n"
    splits = load_params(write(tmp_path, text)).splits
    assert splits.list_file("sha", 10) == Path("a.txt")
    assert splits.list_file("sha", 40) == Path("b.txt")
    assert splits.list_file("sha", 5) is None
    assert splits.list_file("shb", 10) is None


def test_a_data_set_without_source_is_named(tmp_path: Path) -> None:
    params = load_params(write(tmp_path, "prepare: {sources: {synthetic: {reader: synthetic}}}\n"))
    with pytest.raises(PipelineError, match=r"data set 'mine' has no entry; known: synthetic"):
        params.prepare.reader("mine")
    assert params.prepare.reader("synthetic").name == "synthetic"


def leaves(value: object, at: str = "") -> dict[str, object]:
    """Key path → value of all plain values below a dataclass or a mapping of YAML."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping) and at not in ("prepare.sources", "splits.lists"):
        return {
            leaf: one for key, below in value.items() for leaf, one in leaves(below, f"{at}.{key}".lstrip(".")).items()
        }
    return {at: list(value) if isinstance(value, tuple) else value}


def test_the_committed_file_gives_every_key_with_its_default() -> None:
    from stages.sections import Params

    written = leaves(YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8")))
    defaults = leaves(Params())
    del written["prepare.sources"], defaults["prepare.sources"]
    assert {key: defaults.get(key, "no such key") for key in written} == written
    assert sorted(defaults.keys() - written.keys()) == []


def test_the_committed_file_is_sound() -> None:
    load_params(ROOT / "params.yaml")


def test_importing_params_loads_neither_networks_nor_pydantic() -> None:
    code = "import sys, stages.params, stages.command; print([m for m in ('torch', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
