from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.cityscapes import CityscapesReader
from pipeline.datasets.prepare import prepare_dataset
from pipeline.datasets.prepared import Prepared
from pipeline.errors import PipelineError
from tests.datasets.fake_layouts import SIZE_HW
from tests.datasets.fake_masks import city_map, write_cityscapes

MASK = "gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png"
IMAGE = "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"


def test_layout_and_the_hidden_split(tmp_path: Path) -> None:
    entries = CityscapesReader().scan(write_cityscapes(tmp_path))
    assert [(entry.image_id, entry.split, entry.fault) for entry in entries] == [
        ("leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit", "train", ""),
        ("leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit", "train", ""),
        ("leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit", "val", ""),
        ("leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit", "hidden", ""),
    ]


def test_the_eight_classes_and_groups(tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "raw")
    prepare_dataset(CityscapesReader(), tmp_path / "raw", tmp_path / "prepared", tmp_path, workers=1)
    data = Prepared.open(tmp_path / "prepared")
    assert data.class_source_ids == (24, 25, 26, 27, 28, 31, 32, 33)
    name = IMAGE.removesuffix(".png")
    points = data.points(name, regions=True)
    assert [data.class_names[class_id] for class_id in points.class_id] == ["person", "car", "car", "bicycle"]
    assert points.flags == ("", "", "", "region")
    np.testing.assert_allclose(points.points_xy, [[4, 14.5], [5, 4.5], [11, 4.5], [19.5, 15.5]])
    assert len(data.points(name)) == 3
    assert data.truth is not None
    rows = data.truth.instances(name)
    assert rows.status.tolist() == ["ok", "ok", "ok", "ambiguous"]
    for label, number in enumerate((24000, 26000, 26001, 33), start=1):
        np.testing.assert_array_equal(rows.label_map() == label, city_map() == number)
    assert [row.n_points for row in data.of_split("hidden")] == [0]


def test_images_and_masks_without_each_other_are_told(tmp_path: Path) -> None:
    write_cityscapes(tmp_path)
    (tmp_path / MASK).unlink()
    (tmp_path / IMAGE.replace("000000", "000001")).unlink()
    faults = {entry.image_id: entry.fault for entry in CityscapesReader().scan(tmp_path) if entry.fault}
    assert sorted(faults) == sorted(
        [IMAGE.removesuffix(".png"), IMAGE.removesuffix(".png").replace("000000", "000001")]
    )
    first, second = (faults[name] for name in sorted(faults))
    assert f"{tmp_path / IMAGE}: image without annotation; expected {tmp_path / MASK}" == first
    assert "aachen_000001_000019_gtFine_instanceIds.png: annotation without image; expected" in second


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (Image.new("RGB", SIZE_HW[::-1]), r"instanceIds\.png: expected a 16-bit image of numbers .* mode RGB"),
        (Image.fromarray(np.zeros((24, 40), np.uint16)), r"leftImg8bit\.png: is 32 × 24 pixels .* says 40 × 24"),
    ],
)
def test_broken_masks_are_explained(tmp_path: Path, mask: Image.Image, match: str) -> None:
    write_cityscapes(tmp_path / "raw")
    mask.save(tmp_path / "raw" / MASK)
    with pytest.raises(PipelineError, match=match):
        prepare_dataset(CityscapesReader(), tmp_path / "raw", tmp_path / "prepared", tmp_path, workers=1)


def test_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="expected the layout of Cityscapes: leftImg8bit/train"):
        CityscapesReader().scan(tmp_path)
    (tmp_path / "leftImg8bit/test/berlin").mkdir(parents=True)
    with pytest.raises(PipelineError, match="expected the layout of Cityscapes"):
        CityscapesReader().scan(tmp_path)
