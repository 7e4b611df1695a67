import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.datasets.prepared import Prepared
from stages.prepare import app
from tests.datasets.fake_layouts import tree_digest, write_jhu, write_nwpu, write_shanghaitech

STREET_PEOPLE = Path(__file__).parents[3] / "shared" / "data" / "street_people"
PARAMS = """
datasets: [street]
prepare:
  sources: {street: {reader: shb}, rain: {reader: jhu}, city: {reader: nwpu}}
"""
runner = CliRunner()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS)
    return tmp_path


def test_counts_and_differences_are_printed(home: Path) -> None:
    write_shanghaitech(home / "data/street/raw")
    result = runner.invoke(app, ["--dataset", "street", "--workers", "1"])
    assert result.exit_code == 0, result.output
    table = [re.sub(r"\W+", " ", line).strip() for line in result.output.splitlines()]
    assert "train 2 6 3 0 3" in table
    assert "total 3 9 3 0 3" in table
    assert "the counts differ from the published ones" in result.output
    assert "train: 2 images, published are 400" in result.output
    prepared = Prepared.open(Path("data/street/prepared"))
    assert prepared.images[0].path == Path("data/street/raw/part_B/test_data/images/IMG_1.jpg")
    assert prepared.images[0].path.is_file()


def test_flags_and_the_hidden_split_are_printed(home: Path) -> None:
    write_jhu(home / "data/rain/raw")
    result = runner.invoke(app, ["--dataset", "rain"])
    assert result.exit_code == 0, result.output
    assert "3 partly_occluded, 3 fully_occluded, 3 blurred, 3 bad_box" in " ".join(result.output.split())
    (home / "data/city/raw").mkdir(parents=True)
    write_nwpu(home / "data/city/raw")
    result = runner.invoke(app, ["--dataset", "city"])
    assert result.exit_code == 0, result.output
    assert "split 'hidden': its points are not public" in " ".join(result.output.split())


def test_broken_files_give_one_message_and_nothing_else(home: Path) -> None:
    raw = write_shanghaitech(home / "data/street/raw")
    (raw / "part_B/train_data/images/IMG_1.jpg").write_text("no image")
    (raw / "part_B/test_data/images/IMG_1.jpg").unlink()
    before = tree_digest(home)
    result = runner.invoke(app, ["--dataset", "street"])
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert "data/street/raw/part_B/train_data/images/IMG_1.jpg: not a readable image" in result.output
    assert "annotation without image" in result.output
    assert tree_digest(home) == before


def test_accepted_broken_files_are_told(home: Path) -> None:
    Path("params.yaml").write_text(PARAMS + "  max_broken_frac: 0.5\n")
    raw = write_shanghaitech(home / "data/street/raw")
    (raw / "part_B/train_data/images/IMG_1.jpg").write_text("no image")
    result = runner.invoke(app, ["--dataset", "street"])
    assert result.exit_code == 0, result.output
    assert "broken and left out" in result.output
    assert (home / "data/street/prepared/broken.parquet").is_file()


@pytest.mark.parametrize(
    ("dataset", "match"), [("street", "data/street/raw: is missing; put or link"), ("other", "data set 'other'")]
)
def test_a_users_mistake_gives_one_message(home: Path, dataset: str, match: str) -> None:
    result = runner.invoke(app, ["--dataset", dataset])
    assert result.exit_code == 1
    assert match in result.output
    assert "Traceback" not in result.output
    assert not (home / "data").exists()


def test_help_explains_itself() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "data/DATASET/prepared" in result.output
    assert "--workers" in result.output


@pytest.mark.skipif(not STREET_PEOPLE.is_dir(), reason="the photographs are not here")
def test_real_photographs(home: Path) -> None:
    (home / "data/street").mkdir(parents=True)
    (home / "data/street/raw").symlink_to(STREET_PEOPLE)
    result = runner.invoke(app, ["--dataset", "street", "--workers", "1"])
    assert result.exit_code == 0, result.output
    images = Prepared.open(Path("data/street/prepared")).images
    assert len(images) == 27
    assert {row.size_hw for row in images} == {(768, 1024)}
