"""SOLOv2's student with pseudo-labelled images beside the labelled ones: burn-in, views, weights, online labels."""

import json
from dataclasses import replace

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.masks.store import MaskStore
from pipeline.pseudo_labels.quality import Limits, QualityOptions
from pipeline.training.checkpoint import read_weights
from pipeline.training.online_teacher import OnlineTeacher
from pipeline.training.segment_options import SegmentPhaseOptions
from pipeline.training.segment_pseudo_labels import write_detections
from pipeline.training.segmenter_options import StudentOptions, UnlabeledImagesOptions, all_detections
from pipeline.training.view_options import StrongViewOptions
from tests.training.shapes_home import CPU, OPTIONS, split_shapes, write_shapes
from tests.training.test_segmenter import train_student, train_teacher, write_pseudo

PAIRED = UnlabeledImagesOptions(batch=2)
SOME = replace(all_detections(), class_thr=0.0, max_detections=5)
"""A teacher of four steps is sure of nothing."""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def made(shapes, tmp_path_factory):
    """A teacher, what it sees, and a student of both kinds of images."""
    root = tmp_path_factory.mktemp("made")
    train_teacher(shapes, root)
    write_detections(
        shapes, split_shapes(shapes).unlabeled, root / "warmup" / "model.safetensors", options=SOME,
        n_classes=2, out=root / "pseudo", log=root / "pseudo.jsonl", device=CPU,
    )  # fmt: skip
    train_student(shapes, root, unlabeled=PAIRED)
    return root


def home(made, tmp_path):
    tmp_path.mkdir(exist_ok=True)
    for name in ("warmup", "pseudo"):
        (tmp_path / name).symlink_to(made / name)
    return tmp_path


def weights_of(root):
    return read_weights(root / "retrain" / "last.safetensors")


def differ(one, other):
    return any(not torch.equal(one[name], other[name]) for name in one)


def curve_names(root):
    return {path.stem for path in (root / "retrain" / "dvclive").rglob("*.tsv")}


def test_each_kind_of_images_has_its_loss_in_the_curves(made):
    figures = json.loads((made / "retrain" / "metrics.json").read_text())
    assert (figures["n_strong"], figures["n_weak"], figures["last_step"]) == (2, 3, 4)
    assert {"labeled_dice", "unlabeled_dice", "unlabeled_focal"} <= curve_names(made)


@pytest.mark.parametrize(
    "unlabeled",
    [
        UnlabeledImagesOptions(batch=2, weight=0.0),
        UnlabeledImagesOptions(batch=2, pixel_weights="uncertainty"),
        UnlabeledImagesOptions(batch=2, strong=StrongViewOptions(cut_out_max_frac=0.0)),
        UnlabeledImagesOptions(),
        UnlabeledImagesOptions(pixel_weights="uncertainty"),
    ],
)
def test_every_option_changes_the_weights(shapes, made, tmp_path, unlabeled):
    train_student(shapes, home(made, tmp_path), unlabeled=unlabeled)
    assert differ(weights_of(tmp_path), weights_of(made))


def test_an_image_of_weight_0_is_not_learnt_from(shapes, made, tmp_path):
    """Batch norm has no part in this network, so that nothing else of the images reaches the weights."""
    nothing = UnlabeledImagesOptions(batch=2, weight=0.0)
    train_student(shapes, home(made, tmp_path / "one"), unlabeled=nothing)
    other = home(made, tmp_path / "two")
    (other / "pseudo").unlink()
    write_pseudo(shapes, other)
    train_student(shapes, other, unlabeled=nothing)
    one, two = weights_of(tmp_path / "one"), weights_of(other)
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_burn_in_comes_first_and_learns_from_labels_alone(shapes, made, tmp_path):
    burn_in = SegmentPhaseOptions(steps=2, optimizer="muon", learning_rate=1e-3, ramp_steps=0)
    figures = train_student(shapes, home(made, tmp_path), unlabeled=PAIRED, burn_in=burn_in)
    assert figures["last_step"] == 6
    names = curve_names(tmp_path)
    assert {"dice", "unlabeled_dice"} <= names
    assert differ(weights_of(tmp_path), weights_of(made))


def online(class_thr, weigh="off"):
    quality = QualityOptions(thresholds="fixed", class_thr=class_thr, mask_thr=0.0, margin=0.0, min_decay=0.0)
    return OnlineTeacher(SOME, quality, Limits.fixed(quality, 2), weigh)


def test_online_labels_take_the_place_of_the_stored_ones(shapes, made, tmp_path):
    options = UnlabeledImagesOptions(batch=2, online=True)
    root = home(made, tmp_path)
    changes = {"unlabeled": options, "masks": "judged"}
    train_student(shapes, root, online=online(0.0), **changes)
    all_kept = weights_of(root)
    assert differ(all_kept, weights_of(made))
    (root / "pseudo").unlink()
    write_pseudo(shapes, root)  # other rows of the same images
    train_student(shapes, root, online=online(0.0), **changes)
    assert not differ(weights_of(root), all_kept)
    train_student(shapes, root, online=online(1.0), **changes)
    assert differ(weights_of(root), all_kept)


def test_online_labels_need_what_they_are_judged_by():
    with pytest.raises(ValueError, match="online: expected batch above 0"):
        UnlabeledImagesOptions(online=True)
    with pytest.raises(ValueError, match=r"unlabeled.online: expected masks: judged"):
        StudentOptions(learn=OPTIONS, unlabeled=UnlabeledImagesOptions(batch=2, online=True), masks="pseudo_label")


def test_pixels_cannot_be_weighed_without_soft_masks(shapes, made, tmp_path):
    root = home(made, tmp_path)
    (root / "pseudo").unlink()
    write_pseudo(shapes, root)
    assert MaskStore.open(root / "pseudo").instances("train/0003").prob_q8 is None
    with pytest.raises(PipelineError, match=r"prob_q8: .* rows have no soft mask.*keep_prob: true"):
        train_student(shapes, root, unlabeled=UnlabeledImagesOptions(batch=2, pixel_weights="uncertainty"))
