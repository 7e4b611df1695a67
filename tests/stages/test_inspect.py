import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from stages.inspect import app
from tests.report.scenes import write_scene_dataset


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return re.sub(r"\s+", " ", result.output)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_scene_dataset(tmp_path)
    return tmp_path / "annotate"


def test_summary_prints_counts_and_statuses(store: Path) -> None:
    output = run("summary", str(store))
    assert "disc version 1" in output
    assert "3 instances in 2 images (1 without any, at most 3 in one)" in output
    assert "energy" in output
    assert "100.0%" in output
    assert "radius_px" in output


def test_show_draws_the_photo_found_beside_the_store(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "look" / "a.png"
    output = run("show", str(store), "test/a", "--out", str(out))
    assert "a.png: 3 instances" in output
    assert "grey" not in output
    with Image.open(out) as picture:
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 500, "a photo of noise has many colours"


def test_show_without_a_photo_draws_on_grey(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = tmp_path / "elsewhere" / "store"
    alone.parent.mkdir()
    store.rename(alone)
    (tmp_path / "prepared").rename(tmp_path / "renamed")
    monkeypatch.chdir(tmp_path)
    assert "drawing on grey" in run("show", str(alone), "test/b")
    assert (tmp_path / "test_b.png").is_file()
    assert "grey" not in run("show", str(alone), "test/a", "--prepared", "renamed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("summary", "nowhere"), "error: nowhere: expected a mask store, but the folder does not exist"),
        (("show", "nowhere", "x"), "error: nowhere: expected a mask store"),
    ],
)
def test_mistakes_give_one_message(arguments: tuple[str, ...], message: str) -> None:
    assert message in run(*arguments, code=1)


def test_an_unknown_image_is_named(store: Path) -> None:
    assert "has no image 'test/z'; it lists 2 images" in run("show", str(store), "test/z", code=1)


@pytest.mark.parametrize("command", [[], ["summary"], ["show"]])
def test_help_explains(command: list[str]) -> None:
    assert "mask store" in run(*command, "--help")
