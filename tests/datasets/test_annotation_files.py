from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from pipeline.datasets.annotation_files import (
    as_points_xy,
    files_by_stem,
    find_folder,
    load_mat,
    mat_variable,
    pair_entries,
    read_lines,
)
from pipeline.errors import PipelineError

PATH = Path("gt.mat")


@pytest.mark.parametrize("values", [[], np.zeros((0, 2)), np.zeros((0, 0)), np.zeros((1, 0)), [[]]])
def test_nothing_is_no_points(values: Any) -> None:
    assert as_points_xy(values, PATH, "points").shape == (0, 2)


def test_whole_numbers_become_floats() -> None:
    points_xy = as_points_xy(np.array([[1, 2]], np.uint16), PATH, "points")
    assert points_xy.dtype == np.float64
    assert points_xy.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([[1, 2, 3]], r"gt\.mat: points: expected N×2 numbers, got an array of shape \(1, 3\)"),
        ([1, 2], r"gt\.mat: points: expected N×2 numbers, got an array of shape \(2,\)"),
        ([[1, 2], [3]], r"gt\.mat: points: expected N×2 numbers, got rows of different length"),
        ([["a", "b"]], r"gt\.mat: points: expected N×2 numbers, got <U1"),
        ([[1, None]], r"gt\.mat: points: expected N×2 numbers, got object"),
        ([[1, 2j]], r"gt\.mat: points: expected N×2 numbers, got complex128"),
        ([[0, 0], [np.nan, 1], [2, np.inf]], r"gt\.mat: points: 2 rows hold NaN or infinity \(rows from 0: 1, 2\)"),
    ],
)
def test_what_is_no_list_of_points_is_refused(values: Any, match: str) -> None:
    with pytest.raises(PipelineError, match=match):
        as_points_xy(values, PATH, "points")


def test_a_mat_file_without_the_variable_lists_those_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"annPoints": np.zeros((1, 2))})
    with pytest.raises(PipelineError, match=r"a\.mat: expected the variable 'image_info', the file has annPoints"):
        mat_variable(path, load_mat(path), "image_info")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "not a readable .mat file"),
        (b"not a mat file at all" * 20, "not a readable .mat file"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x00" * 400, r"is a v7\.3 \.mat file"),
    ],
)
def test_a_damaged_mat_file_is_named(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(data)
    with pytest.raises(PipelineError, match=rf"a\.mat: {match}"):
        load_mat(path)


def test_every_truncation_of_a_mat_file_is_clear(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"annPoints": np.arange(40.0).reshape(-1, 2)}, do_compression=True)
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(PipelineError, match=r"a\.mat: "):
            mat_variable(path, load_mat(path), "annPoints")


def test_folders_are_found_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "Home" / "Train").mkdir(parents=True)
    assert find_folder(tmp_path, ["train", "home/train"]) == tmp_path / "Home" / "Train"
    assert find_folder(tmp_path, [""]) == tmp_path
    assert find_folder(tmp_path, ["test"]) is None
    assert find_folder(tmp_path / "missing", ["test"]) is None


def test_files_that_differ_in_extension_only_are_refused(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.jpg", ".hidden.jpg", "c.txt"):
        (tmp_path / name).touch()
    assert list(files_by_stem(tmp_path, [".jpg"])) == ["a", "b"]
    (tmp_path / "a.png").touch()
    with pytest.raises(PipelineError, match=r"a\.png: differs from a\.jpg in its extension only"):
        files_by_stem(tmp_path, [".jpg", ".png"])


def test_files_without_partner_become_faults() -> None:
    entries = pair_entries(
        {"1": Path("1.jpg"), "2": Path("2.jpg")},
        {"2": Path("2.mat"), "3": Path("3.mat")},
        split="train", id_prefix="images/", expected="gt/{key}.mat", lonely="images/{key}.jpg", payloads={"2": "x"},
    )  # fmt: skip
    assert [entry.image_id for entry in entries] == ["images/1", "images/2", "images/3"]
    assert [entry.fault for entry in entries] == [
        "1.jpg: image without annotation; expected gt/1.mat",
        "",
        "3.mat: annotation without image; expected images/3.jpg",
    ]
    assert entries[1].payload == "x"


def test_lines_of_any_platform(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffeins\r\nzwei\n".encode())
    assert read_lines(path) == ["eins", "zwei"]
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PipelineError, match=r"a\.txt: expected UTF-8 text"):
        read_lines(path)
    with pytest.raises(PipelineError, match=r"b\.txt: cannot be read"):
        read_lines(tmp_path / "b.txt")
