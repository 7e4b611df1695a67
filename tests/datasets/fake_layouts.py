"""Tiny raw data sets of every layout, written by seeded functions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray
from PIL import Image

SIZE_HW = (24, 32)
POINTS = np.array([[3.5, 4.0], [20.25, 10.0], [30.0, 23.0]])


def pixels(size_hw: tuple[int, int] = SIZE_HW, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def write_image(path: Path, size_hw: tuple[int, int] = SIZE_HW, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(size_hw, seed)).save(path)


def write_shanghaitech_mat(path: Path, points_xy: NDArray[np.float64], number: int | None = None) -> None:
    record = np.zeros((1, 1), [("location", object), ("number", object)])
    record[0, 0] = (points_xy, np.array([[len(points_xy) if number is None else number]], np.uint32))
    info = np.empty((1, 1), object)
    info[0, 0] = record
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"image_info": info})


def write_shanghaitech(
    root: Path,
    *,
    part: str = "part_B",
    annotations: str = "ground-truth",
    points: Mapping[str, Sequence[NDArray[np.float64]]] | None = None,
) -> Path:
    """Images IMG_1, IMG_2, … per split, one for each array of points; by default 2 and 1 with 3 points each."""
    for split, arrays in (points or {"train": [POINTS, POINTS - 0.5], "test": [POINTS]}).items():
        for number, points_xy in enumerate(arrays, start=1):
            folder = root / part / f"{split}_data"
            write_image(folder / "images" / f"IMG_{number}.jpg", seed=number)
            write_shanghaitech_mat(folder / annotations / f"GT_IMG_{number}.mat", points_xy)
    return root


def write_qnrf(root: Path, *, train: Sequence[NDArray[np.float64]] = (POINTS, POINTS)) -> Path:
    """One training image for each array of points, and one test image."""
    for split, arrays in (("Train", train), ("Test", [POINTS])):
        for number, points_xy in enumerate(arrays, start=1):
            write_image(root / split / f"img_{number:04d}.jpg", seed=number)
            scipy.io.savemat(root / split / f"img_{number:04d}_ann.mat", {"annPoints": points_xy})
    return root


JHU_LINES = "3.5 4 6 8 1 0\n20.25 10 5 5 2 1\n30 23 0 4 3 0\n"


def write_jhu(root: Path) -> Path:
    for split in ("train", "val", "test"):
        for name, text in (("0001", JHU_LINES), ("0002", "")):
            write_image(root / split / "images" / f"{name}.jpg", seed=int(name))
            gt = root / split / "gt" / f"{name}.txt"
            gt.parent.mkdir(parents=True, exist_ok=True)
            gt.write_bytes(text.replace("\n", "\r\n").encode())
        (root / split / "image_labels.txt").write_text("0001,3,stadium,0,0\n0002,0,street,2,1\n")
    return root


def write_nwpu(root: Path) -> Path:
    """Images 1–3 for training, 4 for validation, 5 hidden; image 2 has a .mat file only, image 3 no heads."""
    boxes = [[0, 0, 7, 8], [18, 8, 23, 13], [29, 22, 29, 24]]
    for number in range(1, 6):
        write_image(root / "images" / f"{number:04d}.jpg", seed=number)
    for folder in ("jsons", "mats"):
        (root / folder).mkdir()
    for number in (1, 3, 4):
        points = [] if number == 3 else POINTS.tolist()
        write_json(
            root / "jsons" / f"{number:04d}.json",
            {"img_id": f"{number:04d}.jpg", "human_num": len(points), "points": points, "boxes": boxes[: len(points)]},
        )
    for number in (1, 2, 3, 4):
        scipy.io.savemat(
            root / "mats" / f"{number:04d}.mat", {"annPoints": np.zeros((0, 2)) if number == 3 else POINTS}
        )
    (root / "train.txt").write_text("0001 0 3\n0002 1 2\n0003 0 0\n")
    (root / "val.txt").write_bytes(b"0004 0 1\r\n")
    (root / "test.txt").write_text("0005\n")
    return root


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_folder(root: Path, table: str, names: Sequence[str] = ("a.jpg", "b.png")) -> Path:
    for seed, name in enumerate(names):
        write_image(root / name, seed=seed)
    (root / "points.csv").write_text(table)
    return root


def tree_digest(root: Path) -> dict[str, bytes]:
    """Contents of all files below a folder, to see that nothing changed."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
