from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets.base import RawImage
from pipeline.datasets.folder import FolderReader
from pipeline.errors import PipelineError
from tests.datasets.fake_layouts import write_folder, write_image

TABLE = "image,x,y\na.jpg,1,2\nb.png,3.5,4\na.jpg,5,6\n"


def read_all(reader: FolderReader, root: Path) -> dict[str, RawImage]:
    entries = reader.scan(root)
    assert [entry.fault for entry in entries if entry.fault] == []
    return {entry.image_id: reader.read(entry) for entry in entries}


def faults(reader: FolderReader, root: Path) -> list[str]:
    return [entry.fault for entry in reader.scan(root) if entry.fault]


@pytest.mark.parametrize(
    "table",
    [
        TABLE,
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        TABLE.replace("\n", "\r\n"),
        "\ufeff" + TABLE,
        TABLE.replace("image,x,y", " Image , X,Y"),
        TABLE.replace(".jpg", "").replace(".png", ""),
        TABLE.replace("a.jpg", '"./a.jpg"'),
        TABLE.replace("a.jpg", "elsewhere\\a.jpg"),
    ],
)
def test_tables_as_people_write_them(tmp_path: Path, table: str) -> None:
    images = read_all(FolderReader(), write_folder(tmp_path, table))
    assert images["a"].points_xy.tolist() == [[1, 2], [5, 6]]
    assert images["b"].points_xy.tolist() == [[3.5, 4]]
    assert images["a"].class_id.tolist() == [0, 0]


def test_parquet(tmp_path: Path) -> None:
    write_folder(tmp_path, "")
    (tmp_path / "points.csv").unlink()
    table = pa.table(
        {"x": [1.5, None], "y": [2.0, None], "image": ["a.jpg", "b.png"], "class": [3, None], "more": [0, 0]}
    )
    pq.write_table(table, tmp_path / "points.parquet")
    images = read_all(FolderReader(), tmp_path)
    assert images["a"].points_xy.tolist() == [[1.5, 2]]
    assert images["a"].class_id.tolist() == [3]
    assert images["b"].points_xy.shape == (0, 2)


def test_named_classes_get_ids_in_the_order_of_their_names(tmp_path: Path) -> None:
    root = write_folder(tmp_path, "image,x,y,class\na.jpg,1,2,tree\nb.png,3,4,car\na.jpg,5,6,car\n")
    images = read_all(FolderReader(), root)
    assert images["a"].class_id.tolist() == [1, 0]
    assert {image.class_names for image in images.values()} == {("car", "tree")}


def test_whole_numbers_stay_class_ids(tmp_path: Path) -> None:
    images = read_all(FolderReader(), write_folder(tmp_path, "image,x,y,class\na.jpg,1,2,7\nb.png,3,4,\n"))
    assert images["a"].class_id.tolist() == [7]
    assert images["b"].class_id.tolist() == [0]
    assert images["a"].class_names == ()


def test_empty_coordinates_say_no_heads(tmp_path: Path) -> None:
    images = read_all(FolderReader(), write_folder(tmp_path, "image,x,y\na.jpg,,\nb.png,1,2\n"))
    assert images["a"].points_xy.shape == (0, 2)


def test_splits_of_a_column(tmp_path: Path) -> None:
    root = write_folder(tmp_path, "image,x,y,split\na.jpg,1,2,test\nb.png,3,4,train\n")
    assert {key: image.split for key, image in read_all(FolderReader(), root).items()} == {"a": "test", "b": "train"}


def test_splits_of_folders(tmp_path: Path) -> None:
    names = ("train/a.jpg", "Valid/a.jpg", "deep/test/a.jpg", "rest.jpg")
    root = write_folder(tmp_path, "image,x,y\n" + "".join(f"{name},1,2\n" for name in names), names)
    splits = {key: image.split for key, image in read_all(FolderReader(), root).items()}
    assert splits == {"train/a": "train", "Valid/a": "val", "deep/test/a": "test", "rest": "train"}


@pytest.mark.parametrize(("frac", "n_test"), [(0.0, 0), (0.2, 2), (0.25, 3), (0.9, 9)])
def test_splits_by_digest(tmp_path: Path, frac: float, n_test: int) -> None:
    names = [f"{number}.png" for number in range(10)]
    root = write_folder(tmp_path, "image,x,y\n" + "".join(f"{name},1,2\n" for name in names), names)
    images = read_all(FolderReader(test_frac=frac), root)
    tests = {key for key, image in images.items() if image.split == "test"}
    assert len(tests) == n_test
    again = {key for key, image in read_all(FolderReader(test_frac=frac), root).items() if image.split == "test"}
    assert again == tests


@pytest.mark.parametrize(("unlisted", "ids"), [("empty", ["a", "b", "c"]), ("skip", ["a", "b"])])
def test_unlisted_images(tmp_path: Path, unlisted: str, ids: list[str]) -> None:
    root = write_folder(tmp_path, TABLE)
    write_image(root / "c.png")
    (fault,) = faults(FolderReader(), root)
    assert fault.startswith(f"{root / 'c.png'}: image without annotation; expected rows in points.csv")
    images = read_all(FolderReader(unlisted=unlisted), root)  # type: ignore[arg-type]
    assert sorted(images) == ids


def test_bad_rows_are_told_per_image(tmp_path: Path) -> None:
    table = "image,x,y\na.jpg,1,2\na.jpg,nan,2\na.jpg,1,two\na.jpg,1,\nb.png,1,2\ngone.jpg,1,2\ngone.jpg,3,4\n"
    found = faults(FolderReader(), write_folder(tmp_path, table))
    assert found == [
        f"{tmp_path}/a.jpg: line 3: x nan and y 2 must be finite; line 4: x '1' and y 'two' are not both numbers; "
        "line 5: x '1' and y '' are not both numbers",
        f"{tmp_path}/points.csv: line 7: annotation without image; no image 'gone.jpg' below {tmp_path}",
    ]


def test_splits_that_contradict_are_faults(tmp_path: Path) -> None:
    root = write_folder(tmp_path, "image,x,y,split\na.jpg,1,2,test\na.jpg,1,3,train\nb.png,3,4,dev\n")
    first, second = faults(FolderReader(), root)
    assert "stands in the splits test, train of points.csv" in first
    assert "line 4: split 'dev' is none of train, val, test" in second


def test_a_name_that_fits_two_images_is_a_fault(tmp_path: Path) -> None:
    root = write_folder(tmp_path, "image,x,y\na.jpg,1,2\nx/a.jpg,1,2\ny/a.jpg,1,2\n", ("x/a.jpg", "y/a.jpg"))
    assert "no image 'a.jpg'" in faults(FolderReader(), root)[0]


@pytest.mark.parametrize(
    ("prepare", "options", "match"),
    [
        (lambda root: (root / "points.csv").unlink(), {}, "expected one .csv or .parquet table .* found none"),
        (lambda root: (root / "b.csv").touch(), {}, r"found b\.csv, points\.csv; name it by the option table"),
        (lambda root: None, {"table": "heads.csv"}, r"heads\.csv: expected a \.csv or \.parquet table"),
        (lambda root: (root / "points.csv").write_text("image,u,v\n"), {}, "x, y missing"),
        (lambda root: (root / "points.csv").write_text(""), {}, "got none; image, x, y missing"),
        (lambda root: (root / "a.png").touch(), {}, r"a\.png: differs from a\.jpg in its extension only"),
        (lambda root: [(root / n).unlink() for n in ("a.jpg", "b.png")], {}, "holds no images"),
    ],
)
def test_faults_of_the_layout(tmp_path: Path, prepare: object, options: dict[str, str], match: str) -> None:
    write_folder(tmp_path, TABLE)
    prepare(tmp_path)  # type: ignore[operator]
    with pytest.raises(PipelineError, match=match):
        FolderReader(**options).scan(tmp_path)  # type: ignore[arg-type]


def test_a_damaged_parquet_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, "")
    (tmp_path / "points.csv").rename(tmp_path / "points.parquet")
    with pytest.raises(PipelineError, match=r"points\.parquet: not a readable Parquet file"):
        FolderReader().scan(tmp_path)


def test_points_are_arrays_of_the_right_kind(tmp_path: Path) -> None:
    image = read_all(FolderReader(), write_folder(tmp_path, TABLE))["a"]
    assert image.points_xy.dtype == np.float64
    assert image.class_id.dtype == np.int64
