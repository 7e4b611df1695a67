"""recipes/: their lists agree with the code, and their parameter files hold what a stage reads and nothing else."""

import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.training.options import RESULT_FREE_OPTIONS
from stages.params import load_segmenter_params
from tests.code_reading import ROOT, imported_files, read_params

RECIPES = sorted(path.parent for path in (ROOT / "recipes").glob("*/dvc.yaml"))
UP = "../../"
yaml = YAML(typ="safe", pure=True)


def stages_of(recipe: str) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.load((ROOT / "recipes" / recipe / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return stages


ALL = [(recipe.name, stage) for recipe in RECIPES for stage in stages_of(recipe.name)]


def file_of(definition: dict[str, Any]) -> str:
    """The file that a stage's command runs."""
    found = re.match(r"python -m ([\w.]+) ", definition["cmd"])
    assert found, definition["cmd"]
    return found[1].replace(".", "/") + ".py"


def code_deps(definition: dict[str, Any]) -> list[str]:
    return [dep.removeprefix(UP) for dep in definition["deps"] if dep.startswith(UP)]


def test_there_are_recipes() -> None:
    assert "pointwssis" in [recipe.name for recipe in RECIPES]


@pytest.mark.parametrize(("recipe", "stage"), ALL)
def test_deps_name_what_the_stage_imports_and_nothing_else(recipe: str, stage: str) -> None:
    definition = stages_of(recipe)[stage]
    imported, deps = imported_files(file_of(definition)), code_deps(definition)
    assert all((ROOT / dep).exists() for dep in deps)
    covered = {dep: {file for file in imported if file == dep or file.startswith(f"{dep}/")} for dep in deps}
    missing = imported - set().union(*covered.values())
    assert sorted(missing) == [], f"recipes/{recipe}/dvc.yaml: add these to the deps of {stage}"
    idle = [dep for dep, files in covered.items() if not files]
    assert idle == [], f"recipes/{recipe}/dvc.yaml: take these out of the deps of {stage}"


@pytest.mark.parametrize(("recipe", "stage"), ALL)
def test_params_name_what_the_stage_reads_and_nothing_else(recipe: str, stage: str) -> None:
    definition = stages_of(recipe)[stage]
    listed, read = definition["params"], read_params(file_of(definition))
    assert read
    missing = [key for key in read if not any(f"{key}.".startswith(f"{one}.") for one in listed)]
    assert missing == [], f"recipes/{recipe}/dvc.yaml: add these to the params of {stage}"
    idle = [one for one in listed if not any(f"{key}.".startswith(f"{one}.") for key in read)]
    assert idle == [], f"recipes/{recipe}/dvc.yaml: take these out of the params of {stage}"


@pytest.mark.parametrize(("recipe", "stage"), ALL)
def test_a_command_names_every_axis(recipe: str, stage: str) -> None:
    definition = stages_of(recipe)[stage]
    options = {
        "dataset": "--dataset ${item.dataset}",
        "labeled_pct": "--labeled-pct ${item.labeled_pct}",
        "seed": "--seed ${item.seed}",
    }
    wanted = " ".join(options[axis] for axis in definition["matrix"])
    assert definition["cmd"] == f"python -m {file_of(definition)[:-3].replace('/', '.')} {wanted}"
    assert definition["desc"]


@pytest.mark.parametrize("recipe", [recipe.name for recipe in RECIPES])
def test_every_output_of_a_stage_before_is_a_dependency_of_some_stage(recipe: str) -> None:
    stages = stages_of(recipe)
    made = {out for definition in stages.values() for out in definition["outs"] if "/evaluate/" not in out}
    used = {dep for definition in stages.values() for dep in definition["deps"]}
    for_people = {out for out in made if out.endswith(("/rough", "/quality.html", "/corrections.parquet"))}
    assert sorted(made - used - for_people) == []
    sources = {dep for dep in used if dep.startswith("data/")} - made
    assert sources == {"data/${item.dataset}/raw"}


@pytest.mark.parametrize("recipe", [recipe.name for recipe in RECIPES])
def test_the_parameter_file_is_sound_and_every_value_in_it_changes_results(recipe: str) -> None:
    """DVC watches whole sections of it, so what changes no result must be left to its default."""
    path = ROOT / "recipes" / recipe / "params.yaml"
    settings = load_segmenter_params(path)
    for dataset in settings.datasets:
        settings.prepare.reader(dataset)
        assert (path.parent / "data" / dataset / "raw").is_dir()

    def keys(section: dict[str, Any]) -> set[str]:
        below = (keys(value) for value in section.values() if isinstance(value, dict))
        return set(section).union(*below)

    assert not keys(yaml.load(path.read_text(encoding="utf-8"))) & set(RESULT_FREE_OPTIONS)
