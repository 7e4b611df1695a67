"""dvc.yaml: its lists agree with the code, and a change reruns what it must and nothing more."""

import copy
import json
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from dvc.repo import Repo
from networkx import descendants
from ruamel.yaml import YAML

from pipeline.training.options import RESULT_FREE_OPTIONS
from stages.data_sections import AnnotateParams
from stages.params import load_params
from tests.code_reading import ROOT, imported_files, read_params

STAGES = ("prepare", "nnec", "annotate", "warmup", "pseudo_label", "judge", "retrain", "evaluate")
FILES = {stage: stage for stage in STAGES} | {f"{stage}_round": stage for stage in STAGES[-4:]}
"""Stage of dvc.yaml → its file; further rounds run the commands of the first one."""
yaml = YAML(typ="safe", pure=True)
PIPELINE = yaml.load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PARAMS: dict[str, Any] = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def code_deps(stage: str) -> list[str]:
    return [dep for dep in PIPELINE[stage]["deps"] if dep.startswith(("pipeline/", "stages/"))]


def test_the_stages_are_the_seven_of_the_design_with_judge_and_further_rounds() -> None:
    assert tuple(PIPELINE) == tuple(FILES)
    assert [stage for stage in PIPELINE if not stage.endswith("_round")] == list(STAGES)


@pytest.mark.parametrize("stage", FILES)
def test_deps_name_every_file_that_the_stage_imports(stage: str) -> None:
    imported = imported_files(f"stages/{FILES[stage]}.py")
    deps = code_deps(stage)
    covered = {file for file in imported for dep in deps if file == dep or file.startswith(f"{dep}/")}
    assert sorted(imported - covered) == [], f"dvc.yaml: add these to the deps of {stage}"


@pytest.mark.parametrize("stage", FILES)
def test_deps_name_nothing_that_the_stage_does_not_import(stage: str) -> None:
    imported = imported_files(f"stages/{FILES[stage]}.py")
    code = [dep for dep in code_deps(stage) if (ROOT / dep).is_dir() or dep.endswith(".py")]
    idle = [dep for dep in code if not any(file == dep or file.startswith(f"{dep}/") for file in imported)]
    assert idle == [], f"dvc.yaml: take these out of the deps of {stage}"


def pattern_of(listed: str) -> str:
    """Regular expression of a listed key, in which a template stands for the values that it can take."""
    if listed == CHOSEN_METHOD:
        return rf"annotate\.(?:{'|'.join(METHODS)})"
    parts = re.split(r"(\$\{[^}]+\})", listed)
    return "".join(r"[^.]+" if part.startswith("${") else re.escape(part) for part in parts)


METHODS = get_args(get_type_hints(AnnotateParams)["method"])
CHOSEN_METHOD = "annotate.${annotate.method}"


def is_watched(key: str, listed: list[str]) -> bool:
    """Whether DVC sees a change of a key: it is listed itself, or a section that holds it is."""
    return any(re.match(rf"{pattern_of(one)}(\.|$)", key) for one in listed)


def leaves_below(read: str) -> list[str]:
    """Every key of params.yaml below a key that a stage reads whole."""
    if read == CHOSEN_METHOD:
        return [leaf for method in METHODS for leaf in leaves_below(f"annotate.{method}")]
    section = PARAMS
    for part in read.split("."):
        section = section[part]
    if not isinstance(section, dict) or not section:
        return [read]
    return [leaf for key in section for leaf in leaves_below(f"{read}.{key}")]


@pytest.mark.parametrize("stage", FILES)
def test_every_parameter_that_a_stage_reads_is_watched(stage: str) -> None:
    listed = PIPELINE[stage]["params"]
    read = {leaf for key in read_params(f"stages/{FILES[stage]}.py") for leaf in leaves_below(key)}
    assert read
    missing = [key for key in sorted(read) if not is_watched(key, listed)]
    assert [key for key in missing if key.split(".")[-1] not in RESULT_FREE_OPTIONS] == []


@pytest.mark.parametrize("stage", FILES)
def test_no_parameter_is_watched_that_the_stage_does_not_read(stage: str) -> None:
    read = read_params(f"stages/{FILES[stage]}.py")
    idle = [one for one in PIPELINE[stage]["params"] if not any(
        one == key or one.startswith(f"{key}.") or key.startswith(f"{one}.") for key in read
    )]  # fmt: skip
    assert idle == [], f"dvc.yaml: take these out of the params of {stage}"


@pytest.mark.parametrize("stage", FILES)
def test_no_parameter_is_watched_that_changes_no_result(stage: str) -> None:
    watched = [
        key for key in leaves_below("warmup") + leaves_below("retrain") if is_watched(key, PIPELINE[stage]["params"])
    ]
    assert [key for key in watched if key.split(".")[-1] in RESULT_FREE_OPTIONS] == []


def test_the_shipped_weights_are_watched() -> None:
    assert "pipeline/models/weights/compact.safetensors" in PIPELINE["annotate"]["deps"]


@pytest.mark.parametrize("stage", FILES)
def test_a_command_names_its_stage_and_every_axis(stage: str) -> None:
    definition = PIPELINE[stage]
    options = {
        "dataset": "--dataset ${item.dataset}",
        "labeled_pct": "--labeled-pct ${item.labeled_pct}",
        "seed": "--seed ${item.seed}",
        "round": "--round ${item.round.name} --teacher ${item.round.teacher}",
    }
    wanted = " ".join(options[axis] for axis in definition["matrix"])
    assert definition["cmd"] == f"python -m stages.{FILES[stage]} {wanted}"
    assert definition["desc"]


class Sandbox:
    """A copy of the pipeline in which every stage has run, as far as DVC can tell: its outputs are tiny files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("pipeline", "stages"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
        for name in ("dvc.yaml", ".dvcignore"):
            shutil.copy(ROOT / name, folder / name)
        self.params = copy.deepcopy(PARAMS)
        self.params["datasets"] = ["one", "two"]
        self.params["prepare"]["sources"] = {"one": {"reader": "synthetic"}, "two": {"reader": "shb"}}
        self.write(self.params)
        with Repo.init(str(folder), no_scm=True) as repo:
            outs = {Path(out.fs_path) for stage in repo.index.stages for out in stage.outs}
            deps = {Path(dep.fs_path) for stage in repo.index.stages for dep in stage.deps if dep.protocol != "params"}
            for path in sorted(outs | {dep for dep in deps if "/data/" in str(dep) or dep.suffix == ".safetensors"}):
                if not any(path.is_relative_to(other) for other in outs if other != path):
                    self._fill(path)
            repo.commit(force=True)
            graph = repo.index.graph
            self.upstream = {one.addressing: {each.addressing for each in descendants(graph, one)} for one in graph}
        assert self.changed() == set()

    @staticmethod
    def _fill(path: Path) -> None:
        file = path if path.suffix else path / "content"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(path), encoding="utf-8")

    def write(self, params: dict[str, Any]) -> None:
        with (self.folder / "params.yaml").open("w", encoding="utf-8") as file:
            yaml.dump(params, file)

    def changed(self) -> set[str]:
        """Names of the stages that a change starts, and of those that may follow from them."""
        with Repo(str(self.folder)) as repo:
            started = set(repo.status())
        return {name for name, above in self.upstream.items() if started & {name, *above}}


@cache
def parsed(text: str) -> str:
    """YAML as JSON; DVC reads params.yaml once for every stage, which takes it seconds."""
    return json.dumps(yaml.load(text))


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("site")))
        patch.setenv("DVC_NO_ANALYTICS", "1")
        patch.setattr("dvc.utils.serialize._yaml.parse_yaml", lambda text, path, typ="safe": json.loads(parsed(text)))
        patch.chdir(tmp_path_factory.mktemp("sandbox"))
        yield Sandbox(Path.cwd())


def all_names(stage: str, *datasets: str) -> set[str]:
    suffix = "" if stage in ("prepare", "nnec", "annotate") else "-10-0"
    return {f"{stage}@{dataset}{suffix}" for dataset in datasets}


ONWARD = {stage: STAGES[STAGES.index(stage) :] for stage in STAGES}
FROM_WARMUP = ONWARD["warmup"]


@pytest.mark.parametrize(
    ("key", "value", "stages", "datasets"),
    [
        ("evaluate.energy.tau", 0.9, ("evaluate",), "both"),
        ("pseudo_label.energy.tau", 0.9, ONWARD["pseudo_label"], "both"),
        ("judge.quality.class_thr", 0.6, ONWARD["judge"], "both"),
        ("judge.density_edges_px", [10.0], ONWARD["judge"], "both"),
        ("retrain.w_fg", 0.001, ONWARD["retrain"], "both"),
        ("warmup.count.steps", 7, FROM_WARMUP, "both"),
        ("model.width", 8, FROM_WARMUP, "both"),
        ("splits.held_out_frac", 0.3, FROM_WARMUP, "both"),
        ("annotate.method", "superpixel", ONWARD["annotate"], "both"),
        ("annotate.edp_sam.exclusion.kappa", 0.9, ONWARD["annotate"], "both"),
        ("annotate.superpixel.radius_px", 13.0, (), "both"),
        ("nnec.min_radius_px", 4.0, ONWARD["nnec"], "both"),
        ("prepare.max_broken_frac", 0.1, STAGES, "both"),
        ("prepare.sources.two.reader", "sha", STAGES, "two"),
        ("seeds", [0], (), "both"),
    ],
)
def test_a_change_reruns_what_reads_it(
    sandbox: Sandbox, key: str, value: object, stages: tuple[str, ...], datasets: str
) -> None:
    *way, last = key.split(".")
    section = sandbox.params
    for part in way:
        section = section[part]
    before = section[last]
    section[last] = value
    sandbox.write(sandbox.params)
    try:
        changed = sandbox.changed()
    finally:
        section[last] = before
        sandbox.write(sandbox.params)
    names = ("one", "two") if datasets == "both" else (datasets,)
    assert changed == set().union(*(all_names(stage, *names) for stage in stages)) if stages else changed == set()


def test_a_change_of_code_reruns_the_stages_that_import_it(sandbox: Sandbox) -> None:
    file = sandbox.folder / "pipeline/losses/mask_constraint.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(f"{text}\n# changed\n", encoding="utf-8")
    try:
        changed = sandbox.changed()
    finally:
        file.write_text(text, encoding="utf-8")
    assert "retrain@one-10-0" in changed
    assert not any(name.startswith(("prepare", "nnec", "annotate")) for name in changed)


@pytest.mark.parametrize("file", ["pipeline/models/crowd_net.py", "pipeline/pseudo_labels/energy.py"])
def test_judging_does_not_import_the_network(file: str) -> None:
    assert file not in imported_files("stages/judge.py")


def test_a_change_of_judging_makes_no_masks_anew() -> None:
    judging = {file for file in imported_files("stages/judge.py") if file.startswith("pipeline/pseudo_labels/")}
    assert len(judging) > 3
    assert not judging & imported_files("stages/pseudo_label.py")


def test_another_seed_adds_stages_and_leaves_the_others(sandbox: Sandbox) -> None:
    sandbox.write({**sandbox.params, "seeds": [0, 1]})
    try:
        with Repo(str(sandbox.folder)) as repo:
            started = set(repo.status())
    finally:
        sandbox.write(sandbox.params)
    assert started
    assert all(name.endswith("-1") for name in started)


def test_a_further_round_adds_its_own_stages_each_after_the_round_before(sandbox: Sandbox) -> None:
    assert not any("_round@" in name for name in sandbox.upstream)
    rounds = [{"name": "round_2", "teacher": "retrain"}, {"name": "round_3", "teacher": "round_2/retrain"}]
    sandbox.write({**sandbox.params, "datasets": ["one"], "rounds": rounds})
    try:
        with Repo(str(sandbox.folder)) as repo:
            started = set(repo.status())
            graph = repo.index.graph
            above = {one.addressing: {each.addressing for each in descendants(graph, one)} for one in graph}
    finally:
        sandbox.write(sandbox.params)
    names = [f"{stage}_round@one-10-0-round{k}" for k in (0, 1) for stage in STAGES[-4:]]
    assert started == set(names)
    assert {"retrain@one-10-0", "pseudo_label_round@one-10-0-round0"} <= above["retrain_round@one-10-0-round0"]
    assert "retrain_round@one-10-0-round0" in above["pseudo_label_round@one-10-0-round1"]
    assert not above["retrain_round@one-10-0-round0"] & {"retrain_round@one-10-0-round1", "evaluate@one-10-0"}


def test_the_defaults_are_the_embedded_data_set() -> None:
    params = load_params(ROOT / "params.yaml")
    assert (params.datasets, params.labeled_pct, params.seeds) == (("synthetic",), (10,), (0,))


def test_dvc_sends_nothing_home_and_stages_nothing() -> None:
    config = (ROOT / ".dvc" / "config").read_text(encoding="utf-8")
    assert "analytics = false" in config
    assert "autostage = false" in config


def test_dvc_ignores_files_that_change_by_themselves() -> None:
    assert "__pycache__/" in (ROOT / ".dvcignore").read_text(encoding="utf-8").splitlines()
