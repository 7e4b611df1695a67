"""P2Seg's losses against the specification written plainly in float64, image by image and pixel by pixel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.geometry.point_owners import UNKNOWN, assign_pixels
from pipeline.losses.affinity import SharedMasks, affinity_losses
from pipeline.models.mutual_distillation import MutualDistillationOptions, MutualOutput, build_mutual_distillation
from pipeline.training.p2seg_batches import SeedBatch, SeedCrop
from pipeline.training.p2seg_losses import (
    DistillLoss,
    SeedLoss,
    hard_cross_entropy,
    offset_loss,
    online_offset_loss,
    seed_cross_entropy,
    spread_log_probs,
)
from pipeline.training.p2seg_options import DistillOptions

CPU = torch.device("cpu")
SIDE, N_CLASSES = 32, 3


def crop(seed: int) -> SeedCrop:
    rng = np.random.default_rng(seed)
    classes = np.zeros((SIDE, SIDE), np.uint8)
    classes[2:14, 3:20], classes[16:30, 5:28], classes[:2] = 1, 3, UNKNOWN
    points = np.array([[6.0, 7.0], [9.0, 15.0], [20.0, 12.0], [24.0, 24.0]])
    return SeedCrop(torch.from_numpy(rng.random((3, SIDE, SIDE), np.float32)), classes, points, np.array([0, 0, 2, 2]))


def said(seed: int, n: int) -> MutualOutput:
    generator = torch.Generator().manual_seed(seed)
    cells = SIDE // 4
    return MutualOutput(
        torch.randn(n, N_CLASSES + 1, cells, cells, generator=generator),
        torch.randn(n, 2, cells, cells, generator=generator) * 4,
        torch.randn(n, 5, cells // 2, cells // 2, generator=generator),
    )


class Says(nn.Module):
    def __init__(self, output: MutualOutput) -> None:
        super().__init__()
        self.output = output

    def forward(self, _: Tensor) -> MutualOutput:
        return self.output


def loss_of(output: MutualOutput, batch: SeedBatch, **options: object) -> dict[str, Tensor]:
    net = Says(output)
    return DistillLoss(DistillOptions(**options), CPU)(net, net, batch, 0)


def plain_total(output: MutualOutput, batch: SeedBatch, k: int, options: DistillOptions) -> float:
    """Sections 3 to 5 with loops, in float64."""
    size = (SIDE, SIDE)
    logits, offsets = (
        F.interpolate(one[k : k + 1].double(), size=size, mode="bilinear", align_corners=False)[0]
        for one in (output.class_logits, output.offsets)
    )
    classes = batch.classes[k].numpy()
    embedding = output.embedding[k].double().flatten(1).numpy()
    affinity = 1 / (1 + np.exp(-embedding.T @ embedding))
    # propagation
    small = output.class_logits[k].double().numpy()
    here = [0, 1, 3]
    exps = np.exp(small[here] - small[here].max(0))
    probs = np.zeros_like(small)
    probs[here] = exps / exps.sum(0)
    cells = probs.reshape(N_CLASSES + 1, 4, 2, 4, 2).mean((2, 4)).reshape(N_CLASSES + 1, 16).T
    powered = affinity**options.beta
    spread = (powered / powered.sum(1, keepdims=True)) @ cells
    logs = torch.from_numpy(np.log(np.maximum(spread, 1e-6)).T.reshape(1, -1, 4, 4))
    logs = F.interpolate(logs, size=size, mode="bilinear", align_corners=False)[0]
    mixed = (1 - options.propagated_frac) * torch.log_softmax(logits, 0) + options.propagated_frac * logs
    log_probs = torch.log_softmax(mixed, 0).numpy()
    known = [(y, x) for y in range(SIDE) for x in range(SIDE) if classes[y, x] != UNKNOWN]
    entropies = sorted((-log_probs[classes[p]][p] for p in known), reverse=True)
    class_loss = np.mean(entropies[: round(options.hard_frac * len(known))])
    # offsets
    o = offsets.numpy()
    static = np.abs(o - batch.offsets[k].numpy()).sum(0)[batch.weight[k].numpy()].mean()
    points, of_class = batch.points_yx[k].double().numpy(), batch.point_class[k].numpy()
    owners, ways = np.zeros(size, int), []
    for y, x in known:
        own = np.flatnonzero(of_class + 1 == classes[y, x])
        if len(own):
            apart = ((np.array([y, x]) + o[:, y, x] - points[own]) ** 2).sum(1)
            owners[y, x] = own[apart.argmin()] + 1
            ways.append(np.abs(o[:, y, x] - (points[owners[y, x] - 1] - (y, x))).sum())
    # affinity
    total = 0.0
    for labels in (np.where(classes == UNKNOWN, 0, classes), owners):
        groups = [{int(v) for v in labels[8 * r : 8 * r + 8, 8 * c : 8 * c + 8].ravel()} - {0}
                  for r in range(4) for c in range(4)]  # fmt: skip
        same = [1 - affinity[i, j] for i in range(16) for j in range(16) if groups[i] & groups[j]]
        other = [affinity[i, j] for i in range(16) for j in range(16)
                 if not groups[i] & groups[j] and (groups[i] or groups[j])]  # fmt: skip
        total += 0.5 * (0.5 * np.mean(same) + 0.5 * np.mean(other))
    return float(class_loss + options.offset_weight * 0.5 * (static + np.mean(ways)) + options.affinity_weight * total)


@pytest.mark.parametrize(
    "options", [DistillOptions(hard_frac=0.2), DistillOptions(propagated_frac=1.0, beta=1.0, hard_frac=1.0)]
)
def test_the_loss_is_the_plain_one(options: DistillOptions) -> None:
    batch, output = SeedBatch.stack([crop(0), crop(1)]), said(3, 2)
    found = DistillLoss(options, CPU)(Says(output), Says(output), batch, 0)
    wanted = np.mean([plain_total(output, batch, k, options) for k in range(2)])
    assert float(found["loss"]) == pytest.approx(wanted, rel=1e-5)


def test_the_loss_is_the_plain_one_where_a_class_has_no_point() -> None:
    """Its pixels belong to nobody, and nothing is said of the pairs that their cells are in."""
    one = crop(0)
    one.classes[16:30, 5:28] = 2
    one.points_yx[2:], one.point_class[2:] = [[6.0, 7.0], [9.0, 15.0]], 0
    batch, output = SeedBatch.stack([one]), said(4, 1)
    found = loss_of(output, batch, propagated_frac=0.0)
    embedding = output.embedding[0].flatten(1)
    background = (batch.classes[0] == 0).reshape(4, 8, 4, 8).any(3).any(1)
    owned = (batch.classes[0] == 1).reshape(4, 8, 4, 8).any(3).any(1)
    targets = [
        SharedMasks(
            torch.stack([(batch.classes[0] == k).reshape(4, 8, 4, 8).any(3).any(1).flatten() for k in (1, 2)]),
            torch.ones(16, dtype=torch.bool),
        ),
    ]
    offsets = F.interpolate(output.offsets, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0]
    owners = assign_pixels(offsets, batch.classes[0], batch.points_yx[0], batch.point_class[0])
    pooled = torch.stack([(owners == k).reshape(4, 8, 4, 8).any(3).any(1).flatten() for k in (1, 2, 3, 4)])
    targets.append(SharedMasks(pooled, (background | owned).flatten()))
    assert not (background | owned).all()
    wanted = 0.5 * affinity_losses(embedding, targets).sum()
    torch.testing.assert_close(found["affinity"], wanted)


@pytest.mark.parametrize("kind", [DistillLoss, SeedLoss])
@pytest.mark.parametrize("case", ["no points", "points outside", "nothing known", "background alone"])
def test_crops_that_say_little_have_a_finite_loss(kind: type, case: str) -> None:
    one = crop(0)
    if case == "no points":
        one = replace(one, points_yx=np.zeros((0, 2)), point_class=np.zeros(0, np.int64))
    elif case == "points outside":
        one.points_yx[:] = -40.0
    else:
        one.classes[:] = UNKNOWN if case == "nothing known" else 0
    net = build_mutual_distillation(MutualDistillationOptions(width=8, affinity_dim=4), N_CLASSES)
    loss = kind(DistillOptions(), CPU) if kind is DistillLoss else kind(CPU)
    found = loss(net, net, SeedBatch.stack([one]), 0)["loss"]
    found.backward()
    assert torch.isfinite(found)
    assert all(torch.isfinite(each.grad).all() for each in net.parameters() if each.grad is not None)


def test_a_batch_of_two_is_the_mean_of_two_batches_of_one() -> None:
    crops, output = [crop(0), crop(1)], said(5, 2)
    crops[1].classes[10:] = 0  # less to learn there
    whole = loss_of(output, SeedBatch.stack(crops))
    parts = [loss_of(MutualOutput(*(one[k : k + 1] for one in output)), SeedBatch.stack([crops[k]])) for k in range(2)]
    for name, value in whole.items():
        assert float(value) == pytest.approx(float(parts[0][name] + parts[1][name]) / 2, rel=1e-6)


@pytest.mark.parametrize("propagated_frac", [0.0, 1.0])
@pytest.mark.parametrize("k", [0, 1, 2])
def test_class_k_trains_channel_k_plus_one(k: int, propagated_frac: float) -> None:
    logits = torch.zeros(1, N_CLASSES + 1, 8, 8, requires_grad=True)
    output = MutualOutput(logits, torch.zeros(1, 2, 8, 8), said(0, 1).embedding)
    one = crop(0)
    one.classes[:] = k + 1
    one.point_class[:] = k
    loss_of(output, SeedBatch.stack([one]), propagated_frac=propagated_frac, affinity_weight=0.0)["loss"].backward()
    pull = logits.grad.sum((0, 2, 3))
    assert pull.argmin() == k + 1
    assert pull[k + 1] < 0
    others = [c for c in range(N_CLASSES + 1) if c != k + 1]
    assert (pull[others] >= 0).all()
    assert pull[0] > 0  # background is in the softmax


def test_the_class_loss_trains_the_affinity_only_through_propagation() -> None:
    batch = SeedBatch.stack([crop(0)])
    for share, trains in ((0.0, False), (0.5, True)):
        output = said(1, 1)
        output.embedding.requires_grad_()
        loss = loss_of(output, batch, propagated_frac=share, affinity_weight=0.0)["loss"]
        assert (loss.requires_grad and bool(output.embedding.grad is None)) is trains
        if trains:
            loss.backward()
            assert float(output.embedding.grad.abs().sum()) > 0


def test_an_identity_affinity_spreads_nothing() -> None:
    embedding = (torch.eye(16) * 60 - 60 / 16).reshape(16, 4, 4)
    logits = said(2, 1).class_logits[0]
    present = torch.tensor([0, 1, 2])
    found = spread_log_probs(logits, embedding, present, torch.zeros(4, 4, dtype=torch.long), 4.0)
    cells = F.avg_pool2d(torch.softmax(logits, 0), 2)
    torch.testing.assert_close(found.exp(), cells, rtol=1e-5, atol=1e-6)


def test_the_online_target_does_not_learn_and_unowned_pixels_count_nothing() -> None:
    offsets = torch.zeros(2, 4, 4, requires_grad=True)
    classes = torch.tensor([[1, 1, 2, 0]] * 4)
    points = torch.tensor([[0.0, 0.0]])
    owners = assign_pixels(None, classes, points, torch.tensor([0]))
    loss = online_offset_loss(offsets, owners, points)
    loss.backward()
    assert loss.item() == pytest.approx(1.5 + 0.5)
    assert offsets.grad.abs().sum().item() > 0
    offsets = offsets.detach()
    assert float(online_offset_loss(offsets, torch.zeros_like(owners), points)) == 0
    assert float(offset_loss(offsets, torch.ones(2, 4, 4), torch.zeros(4, 4, dtype=torch.bool))) == 0
    assert float(offset_loss(offsets, torch.ones(2, 4, 4), classes == 2)) == 2


def test_unknown_pixels_count_nothing() -> None:
    logits = torch.randn(4, 3, 3)
    classes = torch.full((3, 3), UNKNOWN)
    assert float(hard_cross_entropy(logits, classes, 0.2)) == 0
    assert float(seed_cross_entropy(logits, classes)) == 0
    classes[1, 1] = 2
    wanted = -float(torch.log_softmax(logits, 0)[2, 1, 1])
    assert float(hard_cross_entropy(logits, classes, 0.2)) == pytest.approx(wanted, rel=1e-5)
    assert float(seed_cross_entropy(logits, classes)) == pytest.approx(wanted, rel=1e-5)


def test_objects_and_background_weigh_the_same_in_seeds() -> None:
    logits = torch.randn(2, 4, 4)
    classes = torch.zeros(4, 4, dtype=torch.long)
    classes[0, 0] = 1
    each = -torch.log_softmax(logits, 0)
    wanted = 0.5 * each[1, 0, 0] + 0.5 * each[0].flatten()[1:].mean()
    torch.testing.assert_close(seed_cross_entropy(logits, classes), wanted)


def test_the_network_learns_with_every_head() -> None:
    net = build_mutual_distillation(MutualDistillationOptions(width=8, affinity_dim=4), N_CLASSES)
    batch = SeedBatch.stack([crop(0), crop(1)])
    DistillLoss(DistillOptions(), CPU)(net, net, batch, 0)["loss"].backward()
    heads = (net.class_head, net.offset_head, net.affinity_head)
    assert all(float(one.grad.abs().sum()) > 0 for head in heads for one in head.parameters())
    net.zero_grad()
    SeedLoss(CPU)(net, net, batch, 0)["loss"].backward()
    assert net.affinity_head.conv.weight.grad is None or not net.affinity_head.conv.weight.grad.any()
    assert float(net.class_head[0].weight.grad.abs().sum()) > 0
