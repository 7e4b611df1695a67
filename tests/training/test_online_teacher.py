"""Labels made at each step, by a teacher whose output is written by hand."""

import numpy as np
import torch

from pipeline.losses.solo import SoloInstances
from pipeline.models.solov2 import SoloOutput
from pipeline.pseudo_labels.quality import QualityOptions
from pipeline.training.online_teacher import OnlineTeacher
from pipeline.training.segment_batches import SegmentBatch
from pipeline.training.segmenter_options import all_detections

CELLS = 8
HIGH, LOW = 6.0, -6.0


def teacher_of(class_logit, copy_logit=LOW):
    """Sees, in every image, a disc of class 1 in the upper left quarter, with the class logit given; and once more."""

    def teacher(images):
        n = len(images)
        logits = [torch.full((n, 2, grid, grid), LOW) for grid in (2, 1, 1, 1, 1)]
        logits[0][:, 1, 0, 0] = class_logit
        logits[1][:, 1, 0, 0] = copy_logit
        features = torch.full((n, 1, CELLS, CELLS), LOW)
        features[:, :, :4, :4] = HIGH
        features[:, :, 0, 0] = 0.5
        return SoloOutput(logits, [torch.ones(n, 1, *level.shape[2:]) for level in logits], features)

    return teacher


def batch():
    instances = SoloInstances(torch.ones(1, 32, 32, dtype=torch.bool), torch.tensor([0]), None)
    return SegmentBatch(
        images=torch.zeros(2, 3, 32, 32), instances=(instances, instances), sizes_hw=((32, 32), (32, 32)), n_labeled=1,
        weak_images=torch.zeros(1, 3, 32, 32),
    )  # fmt: skip


def relabel(class_logit, weigh="off", copy_logit=LOW, **quality):
    quality = QualityOptions(thresholds="fixed", class_thr=0.6, mask_thr=0.5, margin=0.2, **quality)
    online = OnlineTeacher(all_detections(), quality, None, weigh)
    return online.relabel(teacher_of(class_logit, copy_logit), batch())


def test_a_sure_row_is_learnt_at_full_size():
    found = relabel(3.0)  # σ = 0.95
    assert found.instances[0] is not None
    assert torch.equal(found.instances[0].masks, batch().instances[0].masks)
    masks, class_id, ignore = found.instances[1]
    assert class_id.tolist() == [1]
    assert masks.shape == (1, 32, 32)
    assert bool(masks[0, 2:14, 2:14].all())
    assert not bool(masks[0, 18:].any())
    assert not bool(masks[0, :, 18:].any())
    assert not bool(ignore.any())
    assert found.weights is None


def test_a_doubtful_row_is_ignored():
    masks, class_id, ignore = relabel(0.2).instances[1]  # σ = 0.55, above 0.6 − 0.2
    assert len(masks) == len(class_id) == 0
    assert bool(ignore[2:14, 2:14].all())
    assert not bool(ignore[18:].any())


def test_a_bad_row_is_background():
    masks, _, ignore = relabel(-1.0).instances[1]  # σ = 0.27
    assert len(masks) == 0
    assert not bool(ignore.any())


def test_a_copy_is_dropped_by_its_decay():
    both = relabel(3.0, copy_logit=2.5, min_decay=0.0).instances[1]
    assert len(both.masks) == 2
    assert torch.equal(both.masks[0], both.masks[1])
    one = relabel(3.0, copy_logit=2.5, min_decay=0.5).instances[1]
    assert len(one.masks) == 1
    assert not bool(one.ignore.any())


def test_pixels_weigh_by_the_teachers_certainty():
    weights = relabel(3.0, "uncertainty").weights
    assert weights is not None
    assert torch.equal(weights[0], torch.ones(1, CELLS, CELLS))
    expected = np.abs(2 / (1 + np.exp(-np.array([0.5, HIGH, LOW]))) - 1)
    np.testing.assert_allclose(weights[1][0, [0, 1, 7], [0, 1, 7]], expected, rtol=1e-5)
