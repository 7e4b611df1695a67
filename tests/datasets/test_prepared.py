from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets.base import DatasetReader
from pipeline.datasets.jhu_crowd import JhuCrowdReader
from pipeline.datasets.prepare import prepare_dataset
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.shanghaitech import ShanghaiTechBReader
from pipeline.errors import PipelineError
from tests.datasets.fake_layouts import POINTS, SIZE_HW, write_jhu, write_shanghaitech


def make(root: Path, reader: DatasetReader) -> Path:
    prepare_dataset(reader, root / "raw", root / "prepared", root, workers=1)
    return root / "prepared"


@pytest.fixture
def jhu(tmp_path: Path) -> Path:
    write_jhu(tmp_path / "raw")
    return make(tmp_path, JhuCrowdReader())


def test_images(jhu: Path) -> None:
    prepared = Prepared.open(jhu)
    assert [row.image_id for row in prepared.images] == sorted(row.image_id for row in prepared.images)
    row = prepared.image("val/images/0001")
    assert (row.split, row.size_hw, row.n_points) == ("val", SIZE_HW, 3)
    assert row.path == jhu.parent / "raw/val/images/0001.jpg"
    assert len(row.digest) == 64
    assert row.attributes["scene"] == "stadium"
    assert [row.image_id for row in prepared.of_split("test")] == ["test/images/0001", "test/images/0002"]
    assert prepared.truth is None


def test_points(jhu: Path) -> None:
    prepared = Prepared.open(jhu)
    for split in ("train", "val", "test"):
        points = prepared.points(f"{split}/images/0001")
        assert np.array_equal(points.points_xy, POINTS)
        assert points.point_id.tolist() == [0, 1, 2]
        assert points.class_id.tolist() == [0, 0, 0]
        assert points.flags == ("", "partly_occluded|blurred", "fully_occluded|bad_box")
        assert points.box_wh_px is not None
        np.testing.assert_array_equal(points.box_wh_px, [[6, 8], [5, 5], [np.nan, np.nan]])
        empty = prepared.points(f"{split}/images/0002")
        assert len(empty) == 0
        assert empty.points_xy.shape == (0, 2)
        assert empty.flags == ()


def test_a_data_set_without_any_point(tmp_path: Path) -> None:
    write_shanghaitech(tmp_path / "raw", points={"train": [np.zeros((0, 2))], "test": [np.zeros((0, 2))]})
    prepared = Prepared.open(make(tmp_path, ShanghaiTechBReader()))
    assert [len(prepared.points(row.image_id)) for row in prepared.images] == [0, 0]


def test_points_without_boxes(tmp_path: Path) -> None:
    write_shanghaitech(tmp_path / "raw")
    prepared = Prepared.open(make(tmp_path, ShanghaiTechBReader()))
    assert prepared.points("train_data/images/IMG_1").box_wh_px is None
    assert pq.read_table(prepared.folder / "points.parquet")["box_w_px"].null_count == 9


def test_more_points_than_a_row_group(tmp_path: Path) -> None:
    many = [np.random.default_rng(k).uniform(0, 24, (50_000, 2)) for k in range(2)]
    write_shanghaitech(tmp_path / "raw", points={"train": many, "test": [POINTS]})
    prepared = Prepared.open(make(tmp_path, ShanghaiTechBReader()))
    for k in range(2):
        assert np.array_equal(prepared.points(f"train_data/images/IMG_{k + 1}").points_xy, many[k])
    assert prepared.points("test_data/images/IMG_1").flags == ("", "", "")


def test_a_missing_image_is_named(jhu: Path) -> None:
    prepared = Prepared.open(jhu)
    with pytest.raises(PipelineError, match=r"images\.parquet: has no image 'x/1'"):
        prepared.image("x/1")
    with pytest.raises(PipelineError, match=r"images\.parquet: has no image 'x/1'"):
        prepared.points("x/1")


def test_images_of_another_split_are_refused_by_name(jhu: Path) -> None:
    prepared = Prepared.open(jhu)
    train, test = ([row.image_id for row in prepared.of_split(split)] for split in ("train", "test"))
    prepared.require_split(train, ("train",), "masks")
    with pytest.raises(PipelineError, match=rf"masks are for training images only, but {test[1]} are in .*prepare"):
        prepared.require_split([*train, test[1]], ("train", "val"), "masks")
    with pytest.raises(PipelineError, match=r"0001 and 2 more are"):
        prepared.require_split(test * 3 + train + test[:1], ("train",), "masks")
    with pytest.raises(PipelineError, match=r"has no image 'nowhere'"):
        prepared.require_split(["nowhere"], ("train",), "masks")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("images.parquet", None, r"images\.parquet: no such file; run python -m stages\.prepare first"),
        ("images.parquet", b"PAR1", r"images\.parquet: not a readable Parquet file"),
        ("images.parquet", pa.table({"image_id": ["a"]}), r"images\.parquet: expected the columns image_id, path"),
        ("points.parquet", None, r"points\.parquet: no such file"),
        ("points.parquet", "short", r"points\.parquet: expected 9 points as counted in images\.parquet, got 1"),
        ("source.json", b"{", r"source\.json: cannot be read .*; run python -m stages\.prepare again"),
    ],
)
def test_damaged_outputs_are_explained(jhu: Path, name: str, content: object, match: str) -> None:
    path = jhu / name
    table = pq.read_table(path) if path.suffix == ".parquet" else None
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, pa.Table):
        pq.write_table(content, path)
    elif content == "short":
        assert table is not None
        pq.write_table(table.slice(0, 1), path)
    with pytest.raises(PipelineError, match=match):
        Prepared.open(jhu).points("train/images/0001")
