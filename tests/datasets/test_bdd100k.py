from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.bdd100k import Bdd100kReader
from pipeline.datasets.prepare import prepare_dataset
from pipeline.datasets.prepared import Prepared
from pipeline.errors import PipelineError
from tests.datasets.fake_masks import bdd_bitmask, write_bdd100k

MASK = "labels/ins_seg/bitmasks/train/0a0f.png"


@pytest.mark.parametrize("home", ["", "bdd100k"])
def test_layout_and_the_hidden_split(tmp_path: Path, home: str) -> None:
    write_bdd100k(tmp_path / home)
    assert [(entry.image_id, entry.split, entry.fault) for entry in Bdd100kReader().scan(tmp_path)] == [
        ("images/10k/train/0a0f", "train", ""),
        ("images/10k/train/0a1f", "train", ""),
        ("images/10k/val/0a0f", "val", ""),
        ("images/10k/test/0a0f", "hidden", ""),
    ]


def test_classes_attributes_and_numbers_above_255(tmp_path: Path) -> None:
    write_bdd100k(tmp_path / "raw")
    prepare_dataset(Bdd100kReader(), tmp_path / "raw", tmp_path / "prepared", tmp_path, workers=1)
    data = Prepared.open(tmp_path / "prepared")
    name = "images/10k/train/0a0f"
    points = data.points(name, regions=True)
    assert [data.class_names[class_id] for class_id in points.class_id] == ["pedestrian", "car", "bicycle", "car"]
    assert points.flags == ("", "partly_occluded", "region", "region")
    np.testing.assert_allclose(points.points_xy[:2], [[11, 4.5], [5, 4.5]])
    assert len(data.points(name)) == 2
    assert data.truth is not None
    rows = data.truth.instances(name)
    assert rows.status.tolist() == ["ok", "ok", "ambiguous", "ambiguous"]
    np.testing.assert_array_equal(rows.label_map() == 2, bdd_bitmask()[..., 2] == 1)
    assert data.class_source_ids == tuple(range(1, 9))


def test_images_and_bitmasks_without_each_other_are_told(tmp_path: Path) -> None:
    write_bdd100k(tmp_path)
    (tmp_path / MASK).unlink()
    (tmp_path / "images/10k/train/0a1f.jpg").unlink()
    faults = [entry.fault for entry in Bdd100kReader().scan(tmp_path)]
    assert "0a0f.jpg: image without annotation; expected" in faults[0]
    assert "0a1f.png: annotation without image; expected" in faults[1]


def with_pixel(value: tuple[int, int, int, int]) -> Image.Image:
    rgba = bdd_bitmask()
    rgba[3, 3] = value
    return Image.fromarray(rgba, "RGBA")


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (with_pixel((9, 0, 0, 77)), r"0a0f\.png: expected one class from 1 to 8 .*\n.*object 77 has class 9"),
        (with_pixel((1, 12, 1, 44)), r"object 300 has class 1, 3"),
        (Image.new("RGB", (32, 24)), r"0a0f\.png: expected an RGBA bitmask as BDD100K publishes it"),
        (Image.new("RGBA", (30, 24)), r"0a0f\.jpg: is 32 × 24 pixels .* says 30 × 24"),
    ],
)
def test_broken_bitmasks_are_explained(tmp_path: Path, mask: Image.Image, match: str) -> None:
    write_bdd100k(tmp_path / "raw")
    mask.save(tmp_path / "raw" / MASK)
    with pytest.raises(PipelineError, match=match):
        prepare_dataset(Bdd100kReader(), tmp_path / "raw", tmp_path / "prepared", tmp_path, workers=1)


def test_polygons_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels/ins_seg/polygons").mkdir(parents=True)
    with pytest.raises(PipelineError, match=r"expected the layout of BDD100K.*its polygons are not read"):
        Bdd100kReader().scan(tmp_path)
