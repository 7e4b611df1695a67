import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from pipeline.datasets.flags import PointFlag
from pipeline.datasets.nwpu import NwpuReader
from pipeline.errors import PipelineError
from tests.datasets.fake_layouts import POINTS, write_json, write_nwpu


@pytest.mark.parametrize("home", ["", "NWPU-Crowd"])
def test_layout_and_the_hidden_split(tmp_path: Path, home: str) -> None:
    (tmp_path / home).mkdir(exist_ok=True)
    write_nwpu(tmp_path / home)
    entries = NwpuReader().scan(tmp_path)
    assert [(entry.image_id, entry.split, entry.fault) for entry in entries] == [
        ("images/0001", "train", ""),
        ("images/0002", "train", ""),
        ("images/0003", "train", ""),
        ("images/0004", "val", ""),
        ("images/0005", "hidden", ""),
    ]


def test_json_and_mat_give_the_same_points(tmp_path: Path) -> None:
    write_nwpu(tmp_path)
    reader = NwpuReader()
    images = [reader.read(entry) for entry in reader.scan(tmp_path)]
    assert [len(image.points_xy) for image in images] == [3, 3, 0, 3, 0]
    assert np.array_equal(images[0].points_xy, images[1].points_xy)
    assert images[0].boxes_wh_px is not None
    np.testing.assert_array_equal(images[0].boxes_wh_px, [[7, 8], [5, 5], [np.nan, np.nan]])
    assert images[0].point_flags is not None
    assert images[0].point_flags.tolist() == [0, 0, PointFlag.BAD_BOX]
    assert images[1].boxes_wh_px is None


def test_annotated_test_images_are_a_test_split(tmp_path: Path) -> None:
    write_nwpu(tmp_path)
    scipy.io.savemat(tmp_path / "mats/0005.mat", {"annPoints": POINTS})
    assert NwpuReader().scan(tmp_path)[4].split == "test"


def test_images_may_lie_in_the_folders_of_the_archives(tmp_path: Path) -> None:
    write_nwpu(tmp_path)
    (tmp_path / "images_part5").mkdir()
    (tmp_path / "images/0005.jpg").rename(tmp_path / "images_part5/0005.jpg")
    entry = NwpuReader().scan(tmp_path)[4]
    assert entry.fault == ""
    assert entry.image_id == "images/0005"


def test_faults_of_single_images(tmp_path: Path) -> None:
    write_nwpu(tmp_path)
    (tmp_path / "images/0001.jpg").unlink()
    (tmp_path / "mats/0002.mat").unlink()
    (tmp_path / "val.txt").write_text("0009\n")
    entries = {entry.image_id: entry.fault for entry in NwpuReader().scan(tmp_path) if entry.fault}
    assert sorted(entries) == ["images/0001", "images/0002", "images/0004", "images/0009"]
    assert "0001.json: annotation without image; expected" in entries["images/0001"]
    assert "0002.jpg: image without annotation; expected" in entries["images/0002"]
    assert "0004.jpg: stands in none of train.txt, val.txt and test.txt" in entries["images/0004"]
    assert "val.txt: 0009: annotation without image" in entries["images/0009"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"boxes": []}, "expected an object with the key 'points'"),
        ([], "expected an object with the key 'points'"),
        ({"points": [[1, 2], [3]]}, "points: expected N×2 numbers, got rows of different length"),
        ({"points": [[1, float("nan")]]}, "points: 1 rows hold NaN"),
        ({"points": [[1, 2]], "boxes": [[1, 2, 3]]}, "boxes: expected N×4 numbers"),
    ],
)
def test_a_bad_json_is_explained(tmp_path: Path, content: object, match: str) -> None:
    write_nwpu(tmp_path)
    write_json(tmp_path / "jsons/0001.json", content)
    reader = NwpuReader()
    with pytest.raises(PipelineError, match=rf"0001\.json: {match}"):
        reader.read(reader.scan(tmp_path)[0])


def test_oddities_are_noted(tmp_path: Path) -> None:
    write_nwpu(tmp_path)
    path = tmp_path / "jsons/0001.json"
    write_json(path, {**json.loads(path.read_text()), "human_num": 9, "boxes": [[0, 0, 1, 1]]})
    reader = NwpuReader()
    image = reader.read(reader.scan(tmp_path)[0])
    assert image.boxes_wh_px is None
    assert image.notes == (
        f"{path}: human_num says 9, points holds 3 points",
        f"{path}: 1 boxes do not fit 3 points; the boxes are left out",
    )


def test_faults_of_the_layout(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="expected the layout of NWPU-Crowd"):
        NwpuReader().scan(tmp_path)
    write_nwpu(tmp_path)
    (tmp_path / "val.txt").write_text("0001\n0004\n")
    with pytest.raises(PipelineError, match="0001: in train and val"):
        NwpuReader().scan(tmp_path)
    (tmp_path / "jsons/0001.json").write_text("{")
    (tmp_path / "val.txt").write_text("0004\n")
    reader = NwpuReader()
    with pytest.raises(PipelineError, match=r"0001\.json: not a readable JSON file"):
        reader.read(reader.scan(tmp_path)[0])
