from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.prepare import prepare_dataset
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.synthetic_shapes import DEFAULT_CLASSES, SyntheticShapesReader, read_shape_plans
from pipeline.errors import PipelineError

SCENES = """\
seed: 5
classes: [square, disc, crescent]
splits:
  test: {images: 2, height_px: 48, width_px: 64, objects: [0, 4], size_px: [6, 30]}
  train: {images: 4, height_px: 64, width_px: 48, objects: [3, 6], size_px: [8, 30], roughness: 0.2}
"""


def write(folder: Path, text: str = SCENES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scenes.yaml").write_text(text, encoding="utf-8")
    return folder


def read_all(folder: Path, **options):
    reader = SyntheticShapesReader(**options)
    return {entry.image_id: reader.read(entry) for entry in reader.scan(folder)}


def test_scenes_as_the_file_asks_for_them(tmp_path: Path) -> None:
    images = read_all(write(tmp_path))
    assert list(images) == [*(f"train/{k:04d}" for k in range(4)), "test/0000", "test/0001"]
    for name, image in images.items():
        assert image.pixels is not None
        assert image.pixels.shape == ((64, 48, 3) if name.startswith("train") else (48, 64, 3))
        assert image.class_names == ("square", "disc", "crescent")
        low, high = (1, 6) if name.startswith("train") else (0, 4)
        assert low <= len(image.points_xy) <= high
        assert set(image.class_id.tolist()) <= {0, 1, 2}


def test_a_scene_depends_on_its_seed_split_and_number_alone(tmp_path: Path) -> None:
    first = read_all(write(tmp_path / "a"))
    longer = SCENES.replace("images: 4", "images: 6").replace("images: 2", "images: 3")
    more = read_all(write(tmp_path / "b", longer))
    other = read_all(write(tmp_path / "c", SCENES.replace("seed: 5", "seed: 6")))
    assert len(more) == 9
    for name, image in first.items():
        np.testing.assert_array_equal(image.pixels, more[name].pixels)
        np.testing.assert_array_equal(image.points_xy, more[name].points_xy)
        assert not np.array_equal(image.pixels, other[name].pixels)


@pytest.mark.parametrize("points", ["center", "random"])
def test_prepare_keeps_masks_and_points_together(tmp_path: Path, points) -> None:
    write(tmp_path / "raw")
    reader = SyntheticShapesReader(points=points)
    prepare_dataset(reader, tmp_path / "raw", tmp_path / "prepared", tmp_path, workers=1)
    prepared = Prepared.open(tmp_path / "prepared")
    assert prepared.class_names == ("square", "disc", "crescent")
    assert prepared.truth is not None
    total = 0
    for row in prepared.images:
        found = prepared.points(row.image_id)
        x, y = np.floor(found.points_xy + 0.5).astype(int).T
        rows = prepared.truth.instances(row.image_id)
        assert rows.label_map()[y, x].tolist() == list(range(1, len(found) + 1))
        assert rows.status.tolist() == ["ok"] * len(found)
        if len(found):
            np.testing.assert_array_equal(found.box_wh_px, rows.boxes_xywh[:, 2:])
        total += len(found)
    assert total > 12


def test_classes_and_how_often_they_come(tmp_path: Path) -> None:
    _, classes, plans = read_shape_plans(write(tmp_path, SCENES + "frequencies: {disc: 0.25}\n") / "scenes.yaml")
    assert classes.names == ("square", "disc", "crescent")
    assert classes.weights == (1.0, 0.25, 1.0)
    assert plans["train"].roughness == 0.2
    text = SCENES.replace("classes: [square, disc, crescent]\n", "")
    _, classes, plans = read_shape_plans(write(tmp_path, text) / "scenes.yaml")
    assert classes.names == DEFAULT_CLASSES
    assert plans["test"].size_px == (6, 30)


def test_hues_tell_classes_that_have_one(tmp_path: Path) -> None:
    hues = {"square": 0.0, "disc": 1 / 3}
    text = SCENES.replace("images: 4", "images: 12") + f"hues: {hues}\nhue_spread: 0.0\n"
    strongest: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for image in read_all(write(tmp_path, text)).values():
        assert image.truth is not None
        for window, class_id in zip(image.truth, image.class_id.tolist(), strict=True):
            height, width = window.mask.shape
            inside = image.pixels[window.y0 : window.y0 + height, window.x0 : window.x0 + width][window.mask]
            strongest[class_id].append(int(inside.mean(axis=0).argmax()))
    assert set(strongest[0]) == {0}
    assert set(strongest[1]) == {1}
    assert len(set(strongest[2])) > 1


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("disc, crescent", "disk, crescent", "classes: expected a list of some of disc, square"),
        ("disc, crescent", "disc, disc", "classes: expected each once"),
        ("[square, disc, crescent]", "[]", "classes: expected a list of some of"),
        ("[square, disc, crescent]", "[[square]]", "classes: expected a list of some of"),
        ("seed: 5", "frequencies: {star: 1}", "frequencies.star: is none of the classes"),
        ("seed: 5", "frequencies: {disc: 0}", "frequencies: expected class: number above 0"),
        ("seed: 5", "hues: {star: 0.5}", "hues.star: is none of the classes"),
        ("seed: 5", "hues: {disc: 1.5}", "hues: expected class: number from 0 to 1"),
        ("seed: 5", "hue_spread: red", "hue_spread: expected a number from 0 to 1, got 'red'"),
        ("seed: 5", "frequencies: [1, 2, 3]", "frequencies: expected class: number above 0"),
        (
            "seed: 5",
            "frequency: 3",
            "frequency: unknown key; expected seed, classes, frequencies, hues, hue_spread and splits",
        ),
        ("[3, 6]", "[6, 3]", "splits.train.objects: expected [fewest, most]"),
        ("[8, 30]", "[30, 8]", "splits.train.size_px: expected [least, largest]"),
        ("[8, 30]", "[2, 8]", "splits.train.size_px: expected [least, largest] with numbers from 4 to 4096"),
        ("roughness: 0.2", "roughness: 2", "splits.train.roughness: expected a number from 0 to 1"),
        ("roughness: 0.2", "heads: [1, 2]", "splits.train.heads: unknown key; expected images"),
    ],
)
def test_faults_are_explained(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert old in SCENES
    with pytest.raises(PipelineError, match="scenes.yaml: mend these entries") as caught:
        SyntheticShapesReader().scan(write(tmp_path, SCENES.replace(old, new)))
    assert fault in str(caught.value)


def test_splits_of_one_plan_hold_different_scenes(tmp_path: Path) -> None:
    plan = "{images: 1, height_px: 32, width_px: 32, objects: [2, 4], size_px: [6, 20]}"
    images = read_all(write(tmp_path, f"splits: {{train: {plan}, val: {plan}, test: {plan}}}"))
    first, second, third = (image.pixels for image in images.values())
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)
