from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.annotators.seed_marks import SeedMarkOptions, seed_marks
from pipeline.errors import PipelineError
from pipeline.geometry.point_owners import UNKNOWN
from pipeline.models.mutual_distillation import MutualDistillationOptions, build_mutual_distillation
from pipeline.training.p2seg_seeds import (
    PointImages,
    check_class_maps,
    read_class_map,
    scene_of,
    seed_quality,
    write_class_map,
    write_filled,
    write_marks,
)
from tests.training.p2seg_home import point_images, write_home


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> PointImages:
    return point_images(*write_home(tmp_path_factory.mktemp("shapes") / "shapes"))


def write_truth(images: PointImages, folder: Path) -> None:
    assert images.prepared.truth is not None
    for image_id in images.image_ids:
        rows = images.prepared.truth.instances(image_id)
        write_class_map(folder, image_id, np.concatenate([[0], rows.class_id + 1])[rows.label_map()].astype(np.uint8))


def test_marks_are_written_as_they_are_made(images: PointImages, tmp_path: Path) -> None:
    options = SeedMarkOptions(disc_px=2.0)
    write_marks(images, tmp_path, options)
    for image_id in images.image_ids:
        marked = images.marked(image_id)
        np.testing.assert_array_equal(read_class_map(tmp_path, image_id, marked.size_hw), seed_marks(marked, options))


def test_true_maps_pass_and_are_of_full_quality(images: PointImages, tmp_path: Path) -> None:
    write_truth(images, tmp_path)
    check_class_maps(images, tmp_path, images.prepared.class_names)
    quality = seed_quality(images, tmp_path)
    assert quality is not None
    assert (quality.mean_iou, quality.object_iou, quality.known_frac) == (1.0, 1.0, 1.0)


def test_the_network_fills_in_and_keeps_the_marked_objects(images: PointImages, tmp_path: Path) -> None:
    marks, filled = tmp_path / "marks", tmp_path / "filled"
    write_marks(images, marks, SeedMarkOptions())
    torch.manual_seed(0)
    net = build_mutual_distillation(MutualDistillationOptions(width=8, affinity_dim=4), images.n_classes).eval()
    for min_prob, unknown in ((0.0, False), (0.999, True)):
        write_filled(images, marks, filled, net, min_prob=min_prob, long_side_px=2048, device=torch.device("cpu"))
        for image_id in images.image_ids:
            size_hw = images.prepared.image(image_id).size_hw
            sure, found = read_class_map(marks, image_id, size_hw), read_class_map(filled, image_id, size_hw)
            objects = (sure > 0) & (sure != UNKNOWN)
            np.testing.assert_array_equal(found[objects], sure[objects])
            present = set((images.prepared.points(image_id).class_id + 1).tolist())
            assert set(np.unique(found[~objects]).tolist()) <= ({UNKNOWN} if unknown else {0, *present})


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("missing", "no such class map; every image that is learnt from needs one"),
        ("size", r"is \(8, 9\) pixels \(height, width\), but its image is \(64, 48\)"),
        ("rgb", "expected one number per pixel .* got the mode RGB"),
        ("text", "cannot be read as a PNG"),
    ],
)
def test_bad_maps_are_refused(tmp_path: Path, mode: str, message: str) -> None:
    path = tmp_path / "train" / "0000.png"
    path.parent.mkdir()
    if mode == "size":
        Image.new("L", (9, 8)).save(path)
    elif mode == "rgb":
        Image.new("RGB", (48, 64)).save(path)
    elif mode == "text":
        path.write_text("no picture")
    with pytest.raises(PipelineError, match=message):
        read_class_map(tmp_path, "train/0000", (64, 48))


def test_a_palette_is_read_by_its_numbers(tmp_path: Path) -> None:
    classes = np.array([[0, 1, 255]], np.uint8)
    image = Image.fromarray(classes, "P")
    image.putpalette([7, 8, 9] * 256)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_class_map(tmp_path, "a", (1, 3)), classes)


def test_a_class_without_points_in_its_image_and_a_class_without_seeds_are_refused(
    images: PointImages, tmp_path: Path
) -> None:
    for image_id in images.image_ids:  # nothing but background: no class has seeds
        write_class_map(tmp_path, image_id, np.zeros(images.prepared.image(image_id).size_hw, np.uint8))
    with pytest.raises(PipelineError, match=r"class square \(1 in the maps\) has points on \d images, but is on no"):
        check_class_maps(images, tmp_path, images.prepared.class_names)
    foreign = np.zeros(images.prepared.image(images.image_ids[0]).size_hw, np.uint8)
    foreign[0, 0] = 77
    write_class_map(tmp_path, images.image_ids[0], foreign)
    with pytest.raises(PipelineError, match=r"0000.png: shows 77 \(class none\), of which the image has no point"):
        check_class_maps(images, tmp_path, images.prepared.class_names)


def test_a_scene_is_shrunk_with_its_points(images: PointImages, tmp_path: Path) -> None:
    marked = images.marked(images.image_ids[0])
    classes = np.zeros(marked.size_hw, np.uint8)
    whole, small = scene_of(marked, classes, 2048), scene_of(marked, classes, 32)
    assert whole.pixels.shape == (64, 48, 3)
    assert small.pixels.shape == (32, 24, 3)
    np.testing.assert_allclose(whole.points_yx, marked.points_xy[:, ::-1])
    np.testing.assert_allclose(small.points_yx, (marked.points_xy[:, ::-1] + 0.5) / 2 - 0.5)


@pytest.mark.parametrize("long_side_px", [32, 21, 16])
def test_a_shrunk_class_map_lies_where_its_image_lies(images: PointImages, long_side_px: int) -> None:
    """A colour edge, seen in the shrunk image, is where the map says."""
    marked = images.marked(images.image_ids[0])
    classes = np.zeros(marked.size_hw, np.uint8)
    classes[:, 24:] = 1
    pixels = np.repeat(classes[..., None] * np.uint8(255), 3, axis=2)
    small = scene_of(replace(marked, image=pixels), classes, long_side_px)
    np.testing.assert_array_equal(small.classes, small.pixels[..., 0] > 127)
