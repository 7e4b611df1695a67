from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.datasets.jhu_crowd import JhuCrowdReader
from pipeline.datasets.prepare import prepare_dataset
from pipeline.datasets.radii import read_radii
from pipeline.geometry.nnec import nnec_radii
from stages.nnec import app
from tests.datasets.fake_layouts import POINTS, SIZE_HW, write_jhu

runner = CliRunner()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        "datasets: [rain]\nprepare: {sources: {rain: {reader: jhu}}}\nnnec: {max_radius_frac: 0.5, radius_scale: 0.5}\n"
    )
    return tmp_path


def test_radii_of_every_point(home: Path) -> None:
    root = Path("data/rain")
    write_jhu(root / "raw")
    prepare_dataset(JhuCrowdReader(), root / "raw", root / "prepared", root, workers=1)
    result = runner.invoke(app, ["--dataset", "rain"])
    assert result.exit_code == 0, result.output
    radii = read_radii(root / "nnec/radii.parquet")
    expected = nnec_radii(POINTS, size_hw=SIZE_HW, max_radius_frac=0.5, radius_scale=0.5)
    assert np.array_equal(radii.of("val/images/0001"), expected.radius_px)
    assert len(radii.of("val/images/0002")) == 0
    assert "median radius" in " ".join(result.output.split())
    first = (root / "nnec/radii.parquet").read_bytes()
    runner.invoke(app, ["--dataset", "rain"])
    assert (root / "nnec/radii.parquet").read_bytes() == first


def test_prepare_must_have_run(home: Path) -> None:
    result = runner.invoke(app, ["--dataset", "rain"])
    assert result.exit_code == 1
    assert "data/rain/prepared/images.parquet: no such file; run python -m stages.prepare first" in result.output
    assert "Traceback" not in result.output
    assert not (home / "data").exists()
