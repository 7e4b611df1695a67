import re
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from pipeline.datasets.base import RawEntry
from pipeline.datasets.shanghaitech import ShanghaiTechAReader, ShanghaiTechBReader
from pipeline.errors import PipelineError
from tests.datasets.fake_layouts import POINTS, write_shanghaitech, write_shanghaitech_mat

STREET_PEOPLE = Path(__file__).parents[3] / "shared" / "data" / "street_people"


@pytest.mark.parametrize("part", ["part_A", "part_A_final", "ShanghaiTech/part_A", "shanghaitech/Part_A_Final"])
@pytest.mark.parametrize("annotations", ["ground-truth", "ground_truth"])
def test_folder_variants(tmp_path: Path, part: str, annotations: str) -> None:
    write_shanghaitech(tmp_path, part=part, annotations=annotations)
    entries = ShanghaiTechAReader().scan(tmp_path)
    assert [(entry.image_id, entry.split) for entry in entries] == [
        ("train_data/images/IMG_1", "train"),
        ("train_data/images/IMG_2", "train"),
        ("test_data/images/IMG_1", "test"),
    ]
    assert all(not entry.fault for entry in entries)


def test_root_may_be_the_part_itself(tmp_path: Path) -> None:
    write_shanghaitech(tmp_path, part="anything")
    entries = ShanghaiTechBReader().scan(tmp_path / "anything")
    assert len(entries) == 3


def test_points_are_the_files(tmp_path: Path) -> None:
    write_shanghaitech(tmp_path)
    reader = ShanghaiTechBReader()
    entry = reader.scan(tmp_path)[1]
    image = reader.read(entry)
    assert np.array_equal(image.points_xy, POINTS - 0.5)
    assert image.class_id.tolist() == [0, 0, 0]
    assert image.path == tmp_path / "part_B/train_data/images/IMG_2.jpg"
    assert image.notes == ()


def test_no_heads(tmp_path: Path) -> None:
    path = tmp_path / "GT_IMG_1.mat"
    for empty in (np.zeros((0, 2)), np.zeros((0, 0))):
        write_shanghaitech_mat(path, empty)
        image = ShanghaiTechBReader().read(RawEntry("a", "train", tmp_path / "a.jpg", path))
        assert image.points_xy.shape == (0, 2)


def test_a_number_that_does_not_fit_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "GT_IMG_1.mat"
    write_shanghaitech_mat(path, POINTS, number=7)
    image = ShanghaiTechBReader().read(RawEntry("a", "train", tmp_path / "a.jpg", path))
    assert image.notes == (f"{path}: the field number says 7, location holds 3 points",)


@pytest.mark.parametrize(
    ("variables", "match"),
    [
        ({"annPoints": POINTS}, "expected the variable 'image_info', the file has annPoints"),
        ({"image_info": POINTS}, "expected image_info{1,1} to be a struct with the fields location and number"),
        ({"image_info": "text"}, "expected image_info{1,1} to be a struct"),
        ({"image_info": {"other": POINTS}}, "expected image_info{1,1} to be a struct"),
        ({"image_info": np.zeros((0, 0))}, "expected image_info{1,1} to be a struct"),
    ],
)
def test_a_wrong_mat_file_is_explained(tmp_path: Path, variables: dict[str, object], match: str) -> None:
    path = tmp_path / "GT_IMG_1.mat"
    scipy.io.savemat(path, variables)
    with pytest.raises(PipelineError, match=re.escape(f"GT_IMG_1.mat: {match}")):
        ShanghaiTechBReader().read(RawEntry("a", "train", tmp_path / "a.jpg", path))


def test_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="expected the layout of ShanghaiTech part B: part_B/train_data/images"):
        ShanghaiTechBReader().scan(tmp_path)
    (tmp_path / "part_B/train_data/images").mkdir(parents=True)
    with pytest.raises(PipelineError, match=r"train_data: expected a folder ground-truth \(or ground_truth\)"):
        ShanghaiTechBReader().scan(tmp_path)


@pytest.mark.skipif(not STREET_PEOPLE.is_dir(), reason="the photographs are not here")
def test_real_photographs() -> None:
    reader = ShanghaiTechBReader()
    entries = reader.scan(STREET_PEOPLE)
    counts = [len(reader.read(entry).points_xy) for entry in entries]
    assert len(entries) == 27
    assert (min(counts), max(counts)) == (3, 28)
    assert {entry.split for entry in entries} == {"train", "test"}
