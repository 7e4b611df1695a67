import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.io
from PIL import Image

from pipeline.datasets.base import DatasetReader, RawEntry, get_reader
from pipeline.datasets.folder import FolderReader
from pipeline.datasets.prepare import PrepareReport, SplitCount, prepare_dataset, published_differences
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.shanghaitech import ShanghaiTechBReader
from pipeline.errors import PipelineError
from tests.datasets.fake_layouts import (
    POINTS,
    pixels,
    tree_digest,
    write_folder,
    write_jhu,
    write_nwpu,
    write_qnrf,
    write_shanghaitech,
    write_shanghaitech_mat,
)
from tests.datasets.fake_reader import RenderingReader

Spoil = Callable[[Path], object]
TRAIN = Path("part_B/train_data")
IMAGE = TRAIN / "images/IMG_1.jpg"
MAT = TRAIN / "ground-truth/GT_IMG_1.mat"


def prepare(root: Path, reader: DatasetReader, **options: object) -> PrepareReport:
    return prepare_dataset(reader, root / "raw", root / "prepared", root, **{"workers": 1, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "write", "counts"),
    [
        ("shb", write_shanghaitech, {"train": (2, 6), "test": (1, 3)}),
        ("qnrf", write_qnrf, {"train": (2, 6), "test": (1, 3)}),
        ("jhu", write_jhu, {"train": (2, 3), "val": (2, 3), "test": (2, 3)}),
        ("nwpu", write_nwpu, {"train": (3, 6), "val": (1, 3), "hidden": (1, 0)}),
        ("folder", lambda root: write_folder(root, "image,x,y\na,1,2\nb,3,4\n"), {"train": (1, 1), "test": (1, 1)}),
    ],
)
def test_every_layout(
    tmp_path: Path, name: str, write: Callable[[Path], Path], counts: dict[str, tuple[int, int]]
) -> None:
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw")
    before = tree_digest(tmp_path / "raw")
    report = prepare(tmp_path, get_reader(name))
    assert {split: (c.images, c.points) for split, c in report.counts.items()} == counts
    assert report.total.images == sum(images for images, _ in counts.values())
    assert tree_digest(tmp_path / "raw") == before
    prepared = Prepared.open(tmp_path / "prepared")
    assert len(prepared.images) == report.total.images
    assert all(row.path.is_file() for row in prepared.images)
    assert sum(len(prepared.points(row.image_id)) for row in prepared.images) == report.total.points
    assert prepared.source["reader"] == name
    assert bool(report.differences) == (name != "folder")


def save_as(mode: str) -> Spoil:
    return lambda raw: Image.fromarray(pixels()).convert(mode).save(raw / IMAGE, "PNG" if mode == "RGBA" else None)


def save_rotated(raw: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels()).save(raw / IMAGE, exif=exif)


def save_16_bit(raw: Path) -> None:
    (raw / IMAGE).write_bytes(cv2.imencode(".png", pixels().astype(np.uint16) * 257)[1].tobytes())


ACCEPTED: list[tuple[str, Spoil, str | None, tuple[int, int]]] = [
    ("grey", save_as("L"), None, (24, 32)),
    ("CMYK", save_as("CMYK"), None, (24, 32)),
    ("alpha", save_as("RGBA"), None, (24, 32)),
    ("16 bit", save_16_bit, None, (24, 32)),
    ("rotated", save_rotated, None, (32, 24)),
    ("one pixel", lambda raw: Image.new("RGB", (1, 1)).save(raw / IMAGE), "outside", (1, 1)),
    ("no heads", lambda raw: write_shanghaitech_mat(raw / MAT, np.zeros((0, 2))), None, (24, 32)),
    ("outside", lambda raw: write_shanghaitech_mat(raw / MAT, POINTS + 100), "outside", (24, 32)),
    ("duplicates", lambda raw: write_shanghaitech_mat(raw / MAT, POINTS[[0, 0, 1]]), "duplicate", (24, 32)),
]


@pytest.mark.parametrize(("spoil", "flag", "size_hw"), [row[1:] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED])
def test_unusual_input_is_used_and_flagged(
    tmp_path: Path, spoil: Spoil, flag: str | None, size_hw: tuple[int, int]
) -> None:
    spoil(write_shanghaitech(tmp_path / "raw"))
    report = prepare(tmp_path, ShanghaiTechBReader())
    assert report.broken == ()
    prepared = Prepared.open(tmp_path / "prepared")
    row = prepared.image("train_data/images/IMG_1")
    assert row.size_hw == size_hw
    flags = prepared.points(row.image_id).flags
    if flag is None:
        assert set(flags) <= {""} | ({"outside"} if size_hw[0] > size_hw[1] else set())
    else:
        assert flag in flags
        assert report.flagged[flag] == flags.count(flag)


def delete_tree(path: Path) -> None:
    for child in sorted(path.rglob("*"), reverse=True):
        child.unlink() if child.is_file() else child.rmdir()
    path.rmdir()


REFUSED: list[tuple[str, Spoil, str]] = [
    ("no folder", lambda raw: delete_tree(raw), r"raw: is missing; put or link the raw data of the reader 'shb' there"),
    ("no split", lambda raw: delete_tree(raw / "part_B"), "expected the layout of ShanghaiTech part B"),
    ("no images", lambda raw: delete_tree(raw / TRAIN / "images"), "train_data: expected a folder images"),
    ("no mats", lambda raw: delete_tree(raw / TRAIN / "ground-truth"), "train_data: expected a folder ground-truth"),
    (
        "image alone",
        lambda raw: (raw / MAT).unlink(),
        r"IMG_1\.jpg: image without annotation; expected .*GT_IMG_1\.mat",
    ),
    (
        "mat alone",
        lambda raw: (raw / IMAGE).unlink(),
        r"GT_IMG_1\.mat: annotation without image; expected .*IMG_1\.jpg",
    ),
    (
        "truncated",
        lambda raw: (raw / IMAGE).write_bytes((raw / IMAGE).read_bytes()[:-300]),
        r"IMG_1\.jpg: not a readable image \(.*truncated.*; get the file again",
    ),
    ("no image", lambda raw: (raw / IMAGE).write_text("<html>"), r"IMG_1\.jpg: not a readable image \(unknown format"),
    (
        "wrong field",
        lambda raw: scipy.io.savemat(raw / MAT, {"annPoints": POINTS}),
        r"GT_IMG_1\.mat: expected the variable 'image_info', the file has annPoints",
    ),
    (
        "NaN",
        lambda raw: write_shanghaitech_mat(raw / MAT, np.array([[1, 2], [np.nan, 3]])),
        r"GT_IMG_1\.mat: image_info location: 1 rows hold NaN or infinity \(rows from 0: 1\)",
    ),
]


@pytest.mark.parametrize(("spoil", "match"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_bad_input_is_told_and_leaves_nothing(tmp_path: Path, spoil: Spoil, match: str) -> None:
    spoil(write_shanghaitech(tmp_path / "raw"))
    before = tree_digest(tmp_path)
    with pytest.raises(PipelineError, match=match):
        prepare(tmp_path, ShanghaiTechBReader())
    assert tree_digest(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"raw"}


def spoil_three(raw: Path) -> None:
    (raw / IMAGE).write_text("no image")
    (raw / TRAIN / "ground-truth/GT_IMG_2.mat").unlink()
    scipy.io.savemat(raw / "part_B/test_data/ground-truth/GT_IMG_1.mat", {"x": 1})


def test_all_broken_files_are_told_at_once(tmp_path: Path) -> None:
    points = {"train": [POINTS] * 4, "test": [POINTS] * 2}
    spoil_three(write_shanghaitech(tmp_path / "raw", points=points))
    with pytest.raises(PipelineError) as caught:
        prepare(tmp_path, ShanghaiTechBReader(), max_broken_frac=0.4)
    message = str(caught.value)
    for name in ("IMG_1.jpg: not a readable image", "IMG_2.jpg: image without", "test_data/ground-truth/GT_IMG_1.mat"):
        assert name in message
    assert "3 of 6 images or annotations are broken" in message
    assert "prepare.max_broken_frac (now 0.4)" in message


def test_a_user_may_accept_broken_files(tmp_path: Path) -> None:
    points = {"train": [POINTS] * 4, "test": [POINTS] * 2}
    spoil_three(write_shanghaitech(tmp_path / "raw", points=points))
    report = prepare(tmp_path, ShanghaiTechBReader(), max_broken_frac=0.5)
    assert report.total.images == 3
    assert len(report.broken) == 3
    table = pq.read_table(tmp_path / "prepared/broken.parquet").to_pylist()
    assert [row["image_id"] for row in table] == [
        "test_data/images/IMG_1",
        "train_data/images/IMG_1",
        "train_data/images/IMG_2",
    ]
    assert all(str(tmp_path) not in row["reason"] and "raw/part_B" in row["reason"] for row in table)


def test_an_older_output_survives_a_failure(tmp_path: Path) -> None:
    write_shanghaitech(tmp_path / "raw")
    prepare(tmp_path, ShanghaiTechBReader())
    before = tree_digest(tmp_path / "prepared")
    (tmp_path / "raw" / IMAGE).unlink()
    with pytest.raises(PipelineError, match="annotation without image"):
        prepare(tmp_path, ShanghaiTechBReader())
    assert tree_digest(tmp_path / "prepared") == before


def test_the_same_input_gives_the_same_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("again", 1), ("two", 2)):
        (tmp_path / name / "raw").mkdir(parents=True)
        prepare(tmp_path / name, RenderingReader(count=9), workers=workers)
    one, again, two = (tree_digest(tmp_path / name) for name in ("one", "again", "two"))
    assert one == again
    assert one == two
    assert "prepared/images/train/0000.png" in one


def test_rendered_images_and_truth(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    report = prepare(tmp_path, RenderingReader(count=4))
    assert report.has_truth
    prepared = Prepared.open(tmp_path / "prepared")
    assert prepared.class_names == ("person",)
    assert prepared.truth is not None
    assert prepared.truth.image_ids == [row.image_id for row in prepared.images]
    row = prepared.image("train/0003")
    assert row.path == tmp_path / "prepared/images/train/0003.png"
    assert row.path.is_file()
    assert row.attributes == {"scene": "3"}
    points = prepared.points(row.image_id)
    instances = prepared.truth.instances(row.image_id)
    assert np.array_equal(instances.points_xy, points.points_xy)
    assert prepared.truth.label_map("test/0002").max() == 2
    source = json.loads((tmp_path / "prepared/source.json").read_text())
    assert source["options"] == {"count": 4, "broken": False}
    assert source["reader_version"] == 4


def test_a_broken_rendering_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(PipelineError, match="scene 1: cannot be drawn"):
        prepare(tmp_path, RenderingReader(count=4, broken=True))
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_linked_raw_folder(tmp_path: Path) -> None:
    write_shanghaitech(tmp_path / "elsewhere")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/raw").symlink_to(tmp_path / "elsewhere")
    prepare(tmp_path / "data", ShanghaiTechBReader())
    table = pq.read_table(tmp_path / "data/prepared/images.parquet")
    assert table["path"].to_pylist()[0] == "raw/part_B/test_data/images/IMG_1.jpg"


class NamingReader(FolderReader):
    """Gives whatever ids it is told."""

    ids: tuple[str, ...] = ()

    def scan(self, root: Path) -> list[RawEntry]:
        return [RawEntry(image_id, "train") for image_id in self.ids]


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (("a", "a"), "'a' stands twice"),
        (("../a",), r"'\.\./a' is no path below the data set"),
        (("/a",), "'/a' is no path below the data set"),
        (("",), "'' is no path below the data set"),
        ((), "the data set has no images"),
    ],
)
def test_bad_ids_are_refused(tmp_path: Path, ids: tuple[str, ...], match: str) -> None:
    (tmp_path / "raw").mkdir()
    reader = NamingReader()
    object.__setattr__(reader, "ids", ids)
    with pytest.raises(PipelineError, match=match):
        prepare(tmp_path, reader)


def test_outputs_inside_raw_are_refused(tmp_path: Path) -> None:
    raw = write_shanghaitech(tmp_path / "raw")
    with pytest.raises(PipelineError, match="lies inside the raw data"):
        prepare_dataset(ShanghaiTechBReader(), raw, raw / "prepared", tmp_path, workers=1)
    with pytest.raises(PipelineError, match="expected a file below"):
        prepare_dataset(ShanghaiTechBReader(), raw, tmp_path / "d/prepared", tmp_path / "d", workers=1)


@pytest.mark.parametrize(
    ("counts", "lines"),
    [
        ({"train": SplitCount(400, 1, 1), "test": SplitCount(316, 88_487, 1)}, ()),
        (
            {"train": SplitCount(399, 0, 0), "test": SplitCount(317, 88_488, 9)},
            ("train: 399 images", "test: 317 images"),
        ),
        (
            {"train": SplitCount(400, 9, 9)},
            ("test: 0 images, published are 316", "total: 400 images, published are 716", "total: 9 points"),
        ),
        (
            {"train": SplitCount(400, 88_488, 9), "val": SplitCount(0, 0, 0), "test": SplitCount(316, 1, 1)},
            ("total: 88,489 points, published are 88,488",),
        ),
    ],
)
def test_differences_from_published_counts(counts: dict[str, SplitCount], lines: tuple[str, ...]) -> None:
    found = published_differences(ShanghaiTechBReader.published, counts)
    assert len(found) == len(lines)
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=True))
    assert published_differences({}, counts) == ()
