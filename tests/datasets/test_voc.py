from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.prepare import prepare_dataset
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.voc import CLASS_NAMES, VocReader
from pipeline.errors import PipelineError
from tests.datasets.fake_layouts import SIZE_HW
from tests.datasets.fake_masks import disc_mask, save_palette, voc_maps, write_voc

HOME = Path("VOCdevkit/VOC2012")


@pytest.mark.parametrize("inner", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_layout(tmp_path: Path, inner: str) -> None:
    entries = VocReader().scan(write_voc(tmp_path) / inner if inner != "VOCdevkit" else write_voc(tmp_path))
    assert [(entry.image_id, entry.split, entry.fault) for entry in entries] == [
        ("JPEGImages/2007_000032", "train", ""),
        ("JPEGImages/2008_000008", "train", ""),
        ("JPEGImages/2007_000129", "val", ""),
    ]


def test_objects_without_their_borders(tmp_path: Path) -> None:
    write_voc(tmp_path / "raw")
    report = prepare_dataset(VocReader(), tmp_path / "raw", tmp_path / "prepared", tmp_path, workers=1)
    assert report.differences == (
        "train: 2 images, published are 1,464", "val: 1 images, published are 1,449",
    )  # fmt: skip
    data = Prepared.open(tmp_path / "prepared")
    points = data.points("JPEGImages/2007_000129")
    assert [CLASS_NAMES[class_id] for class_id in points.class_id] == ["person", "dog"]
    assert data.class_source_ids == tuple(range(1, 21))
    np.testing.assert_allclose(points.points_xy, [[8, 9], [22, 14]], atol=0.5)
    assert data.truth is not None
    label_map = data.truth.label_map("JPEGImages/2007_000129")
    np.testing.assert_array_equal(label_map == 1, disc_mask(8, 9, 5) & (voc_maps()[0] == 1))
    assert points.box_wh_px is not None
    assert points.box_wh_px[0].tolist() == [11, 11]


def test_the_class_is_that_of_most_pixels(tmp_path: Path) -> None:
    write_voc(tmp_path)
    objects, classes = voc_maps()
    classes[objects == 1] = 15
    classes[9, 4:7] = 7
    classes[disc_mask(8, 9, 3)] = 255  # what is left open does not count
    save_palette(tmp_path / HOME / "SegmentationClass/2007_000032.png", classes)
    reader = VocReader()
    raw = reader.read(reader.scan(tmp_path)[0])
    assert raw.class_id.tolist() == [14, 11]
    classes[disc_mask(8, 9, 4)] = 0  # neither does background, not even as most of the object
    save_palette(tmp_path / HOME / "SegmentationClass/2007_000032.png", classes)
    assert reader.read(reader.scan(tmp_path)[0]).class_id.tolist() == [14, 11]


def test_missing_files_are_told(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / HOME / "SegmentationObject/2007_000032.png").unlink()
    (tmp_path / HOME / "JPEGImages/2007_000129.jpg").unlink()
    faults = [entry.fault for entry in VocReader().scan(tmp_path)]
    assert faults[1] == ""
    assert "train.txt: 2007_000032: expected" in faults[0]
    assert "SegmentationObject/2007_000032.png; get the files again" in faults[0]
    assert "JPEGImages/2007_000129.jpg; get" in faults[2]


def spoil(tmp_path: Path, folder: str, values: np.ndarray) -> None:
    save_palette(tmp_path / "raw" / HOME / folder / "2007_000032.png", values)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda root: spoil(root, "SegmentationClass", np.zeros(SIZE_HW, np.uint8)), "object 1 has pixels of no class"),
        (
            lambda root: spoil(root, "SegmentationClass", np.zeros((24, 30), np.uint8)),
            r"2007_000032\.png: is 32 × 24 pixels, .*2007_000032\.png is 30 × 24",
        ),
        (
            lambda root: [
                spoil(root, f"Segmentation{kind}", np.zeros((20, 32), np.uint8)) for kind in ("Class", "Object")
            ],
            r"2007_000032\.jpg: is 32 × 24 pixels .* says 32 × 20",
        ),
        (
            lambda root: Image.new("RGB", (32, 24)).save(root / "raw" / HOME / "SegmentationObject/2007_000032.png"),
            "expected a palette image as VOC publishes it, got an image of mode RGB",
        ),
    ],
)
def test_broken_masks_are_explained(tmp_path: Path, change, match: str) -> None:
    write_voc(tmp_path / "raw")
    change(tmp_path)
    with pytest.raises(PipelineError, match=match):
        prepare_dataset(VocReader(), tmp_path / "raw", tmp_path / "prepared", tmp_path, workers=1)


def test_faults_of_the_layout(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="expected the layout of VOC 2012"):
        VocReader().scan(tmp_path)
    write_voc(tmp_path, {"train": ["a", "b"], "val": ["b"]})
    with pytest.raises(PipelineError, match=r"stands twice in train\.txt and val\.txt.*\n.*b: in train and val"):
        VocReader().scan(tmp_path)
