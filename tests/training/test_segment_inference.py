from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from pipeline.datasets.images import read_image_rgb
from pipeline.errors import PipelineError
from pipeline.masks.store import MaskStore
from pipeline.models.solo_inference import DetectOptions, detect
from pipeline.models.solov2 import build_solov2
from pipeline.training.checkpoint import ModelRecord, save_model
from pipeline.training.segment_inference import (
    KIND,
    InputSize,
    PointGuidedOptions,
    Segmenter,
    write_point_guided,
)
from tests.training.shapes_home import CPU, NETWORK, OPTIONS, RANGES_PX, split_shapes, write_shapes

EVERYTHING = DetectOptions(class_thr=0.0, min_area=(0,) * 5, score_thr=0.0, max_detections=7)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    net = build_solov2(replace(NETWORK, prior_prob=0.4), 2)
    with torch.no_grad():
        net.kernel_head.weight.mul_(30.0)  # so that masks differ
    path = tmp_path / "teacher" / "model.safetensors"
    record = ModelRecord(KIND, {"network": asdict(NETWORK), "n_classes": 2}, {**asdict(OPTIONS), "seed": 0}, 3, {})
    save_model(path, net.state_dict(), record)
    return path


def test_a_checkpoint_says_how_images_are_brought_to_it(weights):
    segmenter = Segmenter.load(weights, n_classes=2, device=CPU)
    assert segmenter.size == InputSize(OPTIONS.views.test_short_side_px, OPTIONS.views.long_side_px)
    assert segmenter.ranges_px == RANGES_PX
    assert not segmenter.net.training
    output, size_hw, whole_hw = segmenter.look(np.zeros((64, 48, 3), np.uint8))
    assert (size_hw, whole_hw) == ((64, 48), (64, 64))
    assert output.mask_features.shape[2:] == (16, 16)
    with pytest.raises(PipelineError, match="was trained for 2 classes, the data set has 3"):
        Segmenter.load(weights, n_classes=3, device=CPU)


def test_detections_are_rows_at_the_size_of_the_image(shapes, weights):
    segmenter = Segmenter.load(weights, n_classes=2, device=CPU)
    pixels = read_image_rgb(shapes.image("train/0000").path)
    rows = segmenter.detect(pixels, EVERYTHING, keep_prob=True)
    assert rows.size_hw == pixels.shape[:2]
    assert len(rows) == 7
    assert (np.diff(rows.score) <= 0).all()
    assert np.allclose(rows.score, rows.class_score * rows.mask_quality * rows.nms_decay, atol=1e-6)
    assert rows.class_probs is not None
    assert set(rows.status.tolist()) == {"ok"}
    assert np.array_equal(rows.points_xy, rows.boxes_xywh[:, :2] + (rows.boxes_xywh[:, 2:] - 1) / 2)


def test_detections_that_lose_all_pixels_are_none(shapes, weights):
    """The network sees a mask of a few cells; an image of 6 × 6 px has no pixel whose centre lies in it."""
    segmenter = Segmenter.load(weights, n_classes=2, device=CPU)
    pixels = np.ascontiguousarray(read_image_rgb(shapes.image("train/0000").path)[:6, :6])
    all_of_them = replace(EVERYTHING, max_detections=None, max_candidates=None, nms="none")
    rows = segmenter.detect(pixels, all_of_them, keep_prob=True)
    output, size_hw, _ = segmenter.look(pixels)
    [found] = detect(output, size_hw=[size_hw], options=all_of_them)
    assert 0 < len(rows) < len(found)
    assert (rows.area_px > 0).all()
    assert set(rows.status.tolist()) == {"ok"}


def test_every_point_has_its_row(shapes, weights, tmp_path):
    splits = split_shapes(shapes)
    counts = write_point_guided(
        shapes, splits.unlabeled, weights, options=PointGuidedOptions(), n_classes=2, seed=0, out=tmp_path / "pseudo",
        log=tmp_path / "log.jsonl", device=CPU,
    )  # fmt: skip
    store = MaskStore.open(tmp_path / "pseudo")
    assert list(store.image_ids) == sorted(splits.unlabeled)
    for image_id in store.image_ids:
        rows, points = store.instances(image_id), shapes.points(image_id)
        assert np.array_equal(rows.point_id, points.point_id)
        assert np.array_equal(rows.class_id, points.class_id)
        assert np.array_equal(rows.points_xy, points.points_xy)
        assert rows.size_hw == shapes.image(image_id).size_hw
    assert sum(counts.values()) == sum(len(shapes.points(one)) for one in splits.unlabeled)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == len(splits.unlabeled)


def test_levels_are_chosen_as_asked_for(shapes, weights, tmp_path):
    made = {}
    for name, options, seed in (
        ("best", PointGuidedOptions(), 0),
        ("again", PointGuidedOptions(), 5),
        ("random", PointGuidedOptions(choose="random"), 0),
        ("other", PointGuidedOptions(choose="random"), 5),
        ("oracle", PointGuidedOptions(choose="size_oracle"), 0),
    ):
        write_point_guided(
            shapes, split_shapes(shapes).unlabeled, weights, options=options, n_classes=2, seed=seed,
            out=tmp_path / name, log=tmp_path / "log.jsonl", device=CPU,
        )  # fmt: skip
        made[name] = [path.read_bytes() for path in sorted((tmp_path / name).iterdir())]
    assert made["best"] == made["again"]
    assert len({tuple(each) for each in made.values()}) == 4


def test_test_images_get_no_pseudo_labels(shapes, weights, tmp_path):
    with pytest.raises(PipelineError, match="for training images only, but test/0000"):
        write_point_guided(
            shapes, ["test/0000"], weights, options=PointGuidedOptions(), n_classes=2, seed=0, out=tmp_path / "pseudo",
            log=tmp_path / "log.jsonl", device=CPU,
        )  # fmt: skip
    assert not (tmp_path / "pseudo").exists()
