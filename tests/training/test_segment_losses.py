"""The loss of a batch of two kinds of images, against the losses of each kind alone."""

import pytest
import torch
from lightning.fabric import Fabric

from pipeline.losses.solo import SoloInstances, solo_loss, solo_targets
from pipeline.models.solov2 import Solov2Options, build_solov2
from pipeline.training.segment_batches import SegmentBatch
from pipeline.training.segment_losses import SegmentLoss

GRIDS = (6, 5, 4, 3, 2)
RANGES = ((1.0, 8.0), (8.0, 12.0), (12.0, 16.0), (16.0, 24.0), (24.0, 64.0))


def net():
    torch.manual_seed(0)
    sizes = {"fpn_width": 8, "tower_width": 8, "tower_depth": 1, "kernel_dim": 8, "mask_width": 8}
    return build_solov2(Solov2Options(backbone="compact", grids=GRIDS, **sizes), 2).eval()


def batch(n_labeled, weights=None):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, 3, 32, 32, generator=generator)
    instances = []
    for k in range(3):
        masks = torch.zeros(2, 32, 32, dtype=torch.bool)
        masks[0, 2 : 10 + 2 * k, 3:14] = True
        masks[1, 16:30, 14 : 25 + k] = True
        instances.append(SoloInstances(masks, torch.tensor([k % 2, 1]), torch.zeros(32, 32, dtype=torch.bool)))
    return SegmentBatch(images, tuple(instances), ((32, 32),) * 3, n_labeled, weights)


def loss_of(given, model, weight=0.5):
    loss = SegmentLoss(GRIDS, RANGES, 3.0, Fabric(accelerator="cpu", devices=1), weight)
    return loss(model, model, given, 0)


def by_hand(model, given, part, weights=None):
    targets = solo_targets(given.instances[part], grids=GRIDS, ranges_px=RANGES, size_hw=(32, 32))
    return solo_loss(model(given.images[part]), targets, dice_weight=3.0, pixel_weights=weights)["loss"]


def test_each_kind_is_divided_by_its_own_instances_and_the_second_weighs():
    model, given = net(), batch(1)
    found = loss_of(given, model)
    first, second = by_hand(model, given, slice(0, 1)), by_hand(model, given, slice(1, 3))
    torch.testing.assert_close(found["loss"], first + 0.5 * second)
    torch.testing.assert_close(found["unlabeled_loss"], second)
    assert found["labeled_instances"] == 2
    assert found["unlabeled_instances"] == 4


def test_images_of_one_kind_have_one_loss():
    model, given = net(), batch(3)
    torch.testing.assert_close(loss_of(given, model)["loss"], by_hand(model, given, slice(0, 3)))


def test_pixel_weights_reach_the_images_that_they_are_of():
    model = net()
    weights = tuple(torch.full((2, 8, 8), value) for value in (1.0, 0.25, 1.0))
    weights[1][:, 3:] = 0.0
    given = batch(1, weights)
    expected = by_hand(model, given, slice(0, 1)) + 0.5 * by_hand(model, given, slice(1, 3), weights[1:])
    found = loss_of(given, model)["loss"]
    torch.testing.assert_close(found, expected)
    assert found.item() != pytest.approx(loss_of(batch(1), model)["loss"].item())
