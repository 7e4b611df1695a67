from pathlib import Path

import numpy as np
import pytest
import scipy.io

from pipeline.datasets.ucf_qnrf import UcfQnrfReader
from pipeline.errors import PipelineError
from tests.datasets.fake_layouts import POINTS, write_qnrf


@pytest.mark.parametrize("home", ["", "UCF-QNRF_ECCV18"])
def test_layout(tmp_path: Path, home: str) -> None:
    write_qnrf(tmp_path / home)
    reader = UcfQnrfReader()
    entries = reader.scan(tmp_path)
    assert [(entry.image_id, entry.split, entry.fault) for entry in entries] == [
        ("Train/img_0001", "train", ""),
        ("Train/img_0002", "train", ""),
        ("Test/img_0001", "test", ""),
    ]
    assert np.array_equal(reader.read(entries[0]).points_xy, POINTS)


def test_missing_partners_are_faults(tmp_path: Path) -> None:
    write_qnrf(tmp_path)
    (tmp_path / "Train/img_0001_ann.mat").unlink()
    (tmp_path / "Test/img_0001.jpg").unlink()
    faults = [entry.fault for entry in UcfQnrfReader().scan(tmp_path) if entry.fault]
    assert faults == [
        f"{tmp_path}/Train/img_0001.jpg: image without annotation; expected {tmp_path}/Train/img_0001_ann.mat",
        f"{tmp_path}/Test/img_0001_ann.mat: annotation without image; expected {tmp_path}/Test/img_0001.jpg",
    ]


def test_a_wrong_variable_is_explained(tmp_path: Path) -> None:
    write_qnrf(tmp_path)
    scipy.io.savemat(tmp_path / "Train/img_0001_ann.mat", {"points": POINTS})
    reader = UcfQnrfReader()
    with pytest.raises(
        PipelineError, match=r"img_0001_ann\.mat: expected the variable 'annPoints', the file has points"
    ):
        reader.read(reader.scan(tmp_path)[0])


def test_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"expected the layout of UCF-QNRF: Train/img_0001\.jpg"):
        UcfQnrfReader().scan(tmp_path)
