from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.flags import PointFlag, flag_names
from pipeline.datasets.jhu_crowd import JhuCrowdReader
from pipeline.errors import PipelineError
from tests.datasets.fake_layouts import POINTS, write_jhu


@pytest.mark.parametrize("home", ["", "jhu_crowd_v2.0"])
def test_layout(tmp_path: Path, home: str) -> None:
    write_jhu(tmp_path / home)
    entries = JhuCrowdReader().scan(tmp_path)
    assert [entry.split for entry in entries] == ["train", "train", "val", "val", "test", "test"]
    assert entries[0].image_id == "train/images/0001"


def test_boxes_occlusion_blur_and_labels(tmp_path: Path) -> None:
    reader = JhuCrowdReader()
    image = reader.read(reader.scan(write_jhu(tmp_path))[0])
    assert np.array_equal(image.points_xy, POINTS)
    assert image.boxes_wh_px is not None
    np.testing.assert_array_equal(image.boxes_wh_px, [[6, 8], [5, 5], [np.nan, np.nan]])
    assert image.point_flags is not None
    flags = [flag_names(int(value), PointFlag) for value in image.point_flags]
    assert flags == ["", "partly_occluded|blurred", "fully_occluded|bad_box"]
    assert image.attributes == {"count": "3", "scene": "stadium", "weather": "0", "distractor": "0"}


def test_an_empty_file_is_an_image_without_heads(tmp_path: Path) -> None:
    reader = JhuCrowdReader()
    image = reader.read(reader.scan(write_jhu(tmp_path))[1])
    assert image.points_xy.shape == (0, 2)
    assert image.attributes["weather"] == "2"


def test_labels_are_optional(tmp_path: Path) -> None:
    write_jhu(tmp_path)
    (tmp_path / "train/image_labels.txt").unlink()
    reader = JhuCrowdReader()
    assert reader.read(reader.scan(tmp_path)[0]).attributes == {}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1 2 3 4 1\n", "line 1: 5 numbers instead of six"),
        ("1 2 3 4 1 0\n1 2 x 4 1 0\n", "line 2: '1 2 x 4 1 0' is not six numbers"),
        ("1 nan 3 4 1 0\n", "line 1: NaN or infinity"),
        ("1 2 3 4 4 0\n", "line 1: occlusion 4 is not 1, 2 or 3"),
        ("1 2 3 4 1 2\n", "line 1: blur 2 is not 0 or 1"),
        ("1\n2\n3\n4\n5\n", "line 1: .*; line 2: .*; line 3: .*; and 2 more"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, match: str) -> None:
    write_jhu(tmp_path)
    (tmp_path / "train/gt/0001.txt").write_text(text)
    reader = JhuCrowdReader()
    with pytest.raises(PipelineError, match=rf"0001\.txt: expected lines of 'x y w h o b': {match}"):
        reader.read(reader.scan(tmp_path)[0])


def test_faults_of_the_layout_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"expected the layout of JHU-CROWD\+\+"):
        JhuCrowdReader().scan(tmp_path)
    write_jhu(tmp_path)
    (tmp_path / "train/image_labels.txt").write_text("0001,3\n0002,0,street,2\n")
    (tmp_path / "val/gt").rename(tmp_path / "val/labels")
    with pytest.raises(
        PipelineError, match=r"\(3 found\)(?s:.*)line 1: expected(?s:.*)line 2(?s:.*)folders images and gt"
    ):
        JhuCrowdReader().scan(tmp_path)
