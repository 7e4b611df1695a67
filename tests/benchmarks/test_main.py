import json

import pytest
from typer.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import report


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    return tmp_path


def test_one_table_and_a_file_for_each(results) -> None:
    result = CliRunner().invoke(command.app, ["--only", "nnec", "--only", "mask_store", "--scale", "0.001"])
    assert result.exit_code == 0, result.output
    assert result.output.count("reference") == 1
    for text in ("bare KD-tree calls", "one JSON file per image", "NNEC radii", "label map"):
        assert text in result.output
    for name, rows in (("nnec", 1), ("mask_store", 3)):
        written = json.loads((results / f"{name}.json").read_text())
        assert written["scale"] == 0.001
        assert len(written["rows"]) == rows
        assert all(row["ratio"] == pytest.approx(row["ours"] / row["theirs"]) for row in written["rows"])
        assert written["machine"]["cores"] >= 1


def test_an_unknown_benchmark_is_refused() -> None:
    result = CliRunner().invoke(command.app, ["--only", "speed"])
    assert result.exit_code == 2
    assert "nnec" in result.output
