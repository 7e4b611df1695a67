"""House rules that no linter knows: sizes, names, twins, floors."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 400
MAX_STAGE_LINES = 90
DRAWERS = {"util", "utils", "helper", "helpers", "core", "misc", "common"}
NO_TWIN = {"pipeline/errors.py"}


def sources(*folders: str) -> list[Path]:
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT) for path in found)


def commands() -> list[Path]:
    """The files of ``stages/`` that build a command; the others are what commands share."""
    return [path for path in sources("stages") if "= stage_app(" in (ROOT / path).read_text(encoding="utf-8")]


def line_count(path: Path) -> int:
    return len((ROOT / path).read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", sources("pipeline", "stages", "tests", "benchmarks"), ids=str)
def test_a_file_has_one_idea_and_a_name_of_its_own(path: Path) -> None:
    assert line_count(path) <= MAX_LINES
    assert not DRAWERS & {part.removesuffix(".py") for part in path.parts}


@pytest.mark.parametrize("path", commands(), ids=str)
def test_a_stage_holds_no_algorithm(path: Path) -> None:
    assert line_count(path) <= MAX_STAGE_LINES
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert not any(isinstance(node, ast.ClassDef | ast.While) for node in ast.walk(tree))


@pytest.mark.parametrize(
    "path", [one for one in sources("pipeline") if one.name != "__init__.py" and str(one) not in NO_TWIN], ids=str
)
def test_a_file_has_its_test(path: Path) -> None:
    twin = Path("tests", *path.parts[1:-1], f"test_{path.name}")
    whole = Path("tests", *path.parts[1:-2], f"test_{path.parts[-2]}.py")  # a package inside a package is one idea
    assert (ROOT / twin).is_file() or (len(path.parts) > 3 and (ROOT / whole).is_file()), f"{path} wants {twin}"


@pytest.mark.parametrize("path", commands(), ids=str)
def test_a_stage_has_its_test(path: Path) -> None:
    folder = ROOT / "tests" / path.parent
    twins = [
        folder / f"test_{path.name}",
        folder / f"test_{path.parent.name}_stages.py",
    ]
    assert any(twin.is_file() for twin in twins), f"{path} wants {twins[0].relative_to(ROOT)}"


def test_every_folder_of_the_library_is_a_package() -> None:
    folders = {path.parent for path in sources("pipeline", "stages")}
    assert [str(one) for one in sorted(folders) if not (ROOT / one / "__init__.py").is_file()] == []


def test_every_package_stands_on_a_floor() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    floors = {name.strip() for layer in layers for name in layer.split("|")}
    packages = {f"pipeline.{path.parts[1].removesuffix('.py')}" for path in sources("pipeline")} - {"pipeline.__init__"}
    assert packages <= floors
