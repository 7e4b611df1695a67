from dataclasses import fields

import pytest
import torch

from pipeline.masks.store import MaskStore
from pipeline.models.crowd_net import image_to_tensor
from pipeline.training.crops import CropSampler
from pipeline.training.crowd_batches import LABELED_STREAM, UNLABELED_STREAM, CrowdBatches
from pipeline.training.pseudo_scenes import pseudo_labeled_scenes
from pipeline.training.scenes import labeled_scenes
from pipeline.training.view_options import ColorOptions, StrongViewOptions
from tests.training.conftest import CPU, CROPS

NO_COLORS = ColorOptions(jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)


@pytest.fixture
def samplers(finished_run):
    pseudo = MaskStore.open(finished_run.root / "pseudo_label")
    labeled = labeled_scenes(finished_run.prepared, finished_run.masks, finished_run.splits.labeled_train, cache_mib=1)
    unlabeled = pseudo_labeled_scenes(finished_run.prepared, pseudo, cache_mib=1)
    return (
        CropSampler(labeled, CROPS, seed=0, stream=LABELED_STREAM),
        CropSampler(unlabeled, CROPS, seed=0, stream=UNLABELED_STREAM),
    )


def test_a_step_has_one_batch(samplers):
    make = CrowdBatches(*samplers, ColorOptions(), StrongViewOptions(), seed=0)
    batch, again, other = make(3), make(3).to(CPU), make(4)
    assert torch.equal(batch.labeled.images, again.labeled.images)
    assert torch.equal(batch.unlabeled.strong, again.unlabeled.strong)
    assert not torch.equal(batch.labeled.images, other.labeled.images)
    assert not torch.equal(batch.unlabeled.strong, other.unlabeled.strong)


def test_warmup_has_no_unlabelled_part(samplers):
    assert CrowdBatches(samplers[0], None, ColorOptions(), StrongViewOptions(), seed=0)(0).unlabeled is None


def test_the_teacher_sees_the_crop_as_it_is_and_the_student_a_strong_view(samplers):
    unlabeled = CrowdBatches(*samplers, NO_COLORS, StrongViewOptions(), seed=0)(0).unlabeled
    crops = samplers[1].crops(0)
    assert torch.equal(unlabeled.weak.images, torch.stack([image_to_tensor(crop.pixels) for crop in crops]))
    assert not torch.equal(unlabeled.strong, unlabeled.weak.images)
    assert unlabeled.cut_out.flatten(1).any(dim=1).all()


def test_labelled_crops_change_colour_only(samplers):
    plain = CrowdBatches(samplers[0], None, NO_COLORS, StrongViewOptions(), seed=0)(0).labeled
    changed = CrowdBatches(samplers[0], None, ColorOptions(jitter_prob=1.0), StrongViewOptions(), seed=0)(0).labeled
    assert not torch.equal(plain.images, changed.images)
    for name in {field.name for field in fields(plain)} - {"images", "ignored", "cell_weights"}:
        for a, b in zip(getattr(plain, name), getattr(changed, name), strict=True):
            assert torch.equal(a, b)
