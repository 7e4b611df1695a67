"""One training step of the crowd net: losses and fresh pseudo-labels against the whole step, on one core."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import Row
from benchmarks.one_core import on_one_core
from pipeline.geometry.nnec import nnec_radii
from pipeline.masks.label_map import disc_label_map
from pipeline.models.crowd_net import STRIDE, CrowdNetOptions, CrowdOutput, build_crowd_net
from pipeline.pseudo_labels.energy import TRAINING_ENERGY
from pipeline.training.crops import CropBatch
from pipeline.training.crowd import COUNTING_PATH
from pipeline.training.crowd_batches import CrowdBatch, UnlabeledBatch
from pipeline.training.crowd_losses import CrowdLoss, PhaseLoss, constraint_loss, count_loss, mask_loss
from pipeline.training.mean_teacher import MeanTeacher
from pipeline.training.options import ExclusivityOptions, UnlabeledOptions

CROP_PX, HEADS = 256, 150
CLIP_NORM = 5.0
REACH = 0.25
PAPER_NET = CrowdNetOptions(backbone="vgg16_bn", width=256, mask_width=256)
NETS = {"default net": (CrowdNetOptions(), 4, 4), "paper's net": (PAPER_NET, 1, 1)}
"""Net, labelled crops in a batch, with as many unlabelled ones, and steps of each phase; the shortest step counts."""
PHASES: dict[str, tuple[tuple[str, ...], PhaseLoss]] = {
    "count": (COUNTING_PATH, count_loss),
    "mask": (("mask_head",), mask_loss(ExclusivityOptions())),
    "constraint": (("fuse", "count_head"), constraint_loss(w_fg=0.005, w_bg=0.05)),
}
"""What learns in each phase, and its loss."""


@dataclass(frozen=True)
class Crowd:
    """The crowd that every crop shows.

    Args:
        points_xy: (N, 2) float64 heads on different cells, pixels.
        label_map: (S, S) int32, head k has the value k + 1.
        logits: (S / 4, S / 4) float32, above 0 at the heads alone.
    """

    points_xy: Tensor
    label_map: Tensor
    logits: Tensor


def random_crowd(n_heads: int, *, side_px: int, seed: int = 0) -> Crowd:
    """Strew heads on cells, with discs of half the way to the nearest other one."""
    rng = np.random.default_rng(seed)
    cells = side_px // STRIDE
    row, column = np.divmod(np.sort(rng.choice(cells**2, n_heads, replace=False)), cells)
    points_xy = STRIDE * np.stack([column, row], axis=1) + (STRIDE - 1) / 2
    radius_px = nnec_radii(points_xy, size_hw=(side_px, side_px)).radius_px / 2
    logits = torch.full((cells, cells), -5.0)
    logits[row, column] = torch.from_numpy(rng.uniform(0.5, 4.0, n_heads)).float()
    label_map = disc_label_map(points_xy, radius_px, (side_px, side_px))
    return Crowd(torch.from_numpy(points_xy), torch.from_numpy(label_map), logits)


def crowd_batch(crowd: Crowd, n_crops: int) -> CrowdBatch:
    """Put the crowd into so many labelled crops and as many unlabelled ones, each with a cut-out."""
    side = len(crowd.label_map)
    n_heads = len(crowd.points_xy)
    crops = CropBatch(
        images=torch.randn(n_crops, 3, side, side, generator=torch.Generator().manual_seed(0)),
        points_xy=(crowd.points_xy.float(),) * n_crops,
        point_prob=(torch.ones(n_heads),) * n_crops,
        labels=(torch.arange(1, n_heads + 1),) * n_crops,
        label_maps=crowd.label_map.long().expand(n_crops, -1, -1),
    )
    cut_out = torch.zeros(n_crops, side, side, dtype=torch.bool)
    cut_out[:, side // 4 : side // 2, side // 4 : side // 2] = True
    return CrowdBatch(crops, UnlabeledBatch(crops, crops.images, cut_out))


class Cut(nn.Module):
    """Runs a net with a clock, and answers the logits of a trained one, cut off from the net.

    A fresh net sees no heads or one in every cell, and neither is what losses and pseudo-labels meet.

    Args:
        net: The net.
        logits: (h, w), its answer for every crop.
    """

    def __init__(self, net: nn.Module, logits: Tensor) -> None:
        super().__init__()
        self.net, self.logits = net, logits
        self.forward_s = 0.0
        self.said: CrowdOutput | None = None
        self.answer: CrowdOutput | None = None

    def forward(self, images: Tensor) -> CrowdOutput:
        """Run the net; the clock counts it alone."""
        begin = time.process_time()
        self.said = self.net(images)
        self.forward_s += time.process_time() - begin
        logits = self.logits.expand_as(self.said.logits).contiguous().requires_grad_()
        self.answer = CrowdOutput(logits, self.said.embedding.detach().requires_grad_())
        return self.answer

    def backward(self) -> None:
        """Take the gradients that reached the answer on into the net."""
        assert self.said is not None
        assert self.answer is not None
        reached = [(said, answer.grad) for said, answer in zip(self.said, self.answer, strict=True)]
        said, gradients = zip(*[(said, grad) for said, grad in reached if grad is not None], strict=True)
        torch.autograd.backward(said, gradients)


@dataclass(frozen=True)
class StepSeconds:
    """Processor seconds of one step.

    Args:
        losses_s: Losses, forward and back to the net's answers, and pseudo-labels.
        network_s: All else: student, teacher, optimiser, average.
    """

    losses_s: float
    network_s: float

    @property
    def share(self) -> float:
        """Losses and pseudo-labels as a share of the step."""
        return self.losses_s / (self.losses_s + self.network_s)


def step_seconds(
    model: CrowdNetOptions, phase: str, *, n_crops: int, n_heads: int, side_px: int, rounds: int
) -> StepSeconds:
    """Time steps of a phase, pseudo-labels drawn anew from the teacher in each; the shortest of each part counts.

    Args:
        model: The net.
        phase: One of ``PHASES``.
        n_crops: Labelled crops, and as many unlabelled ones.
        n_heads: In each crop.
        side_px: Of each crop.
        rounds: Steps.
    """
    trained, branch = PHASES[phase]
    crowd = random_crowd(n_heads, side_px=side_px)
    batch = crowd_batch(crowd, n_crops)
    net = build_crowd_net(model).to(memory_format=torch.channels_last)
    for name, child in net.named_children():
        child.train(name in trained).requires_grad_(name in trained)
    optimizer = torch.optim.Adam([weight for weight in net.parameters() if weight.requires_grad], lr=1e-5)
    mean_teacher = MeanTeacher(net, decay=0.99)
    loss = CrowdLoss(
        branch, torch.device("cpu"), UnlabeledOptions(delay_steps=0), TRAINING_ENERGY, from_ema=True, weight_start=0.1
    )
    losses, networks = [], []
    for step in range(rounds):
        student, teacher = Cut(net, crowd.logits), Cut(mean_teacher.net, crowd.logits)
        begin = time.process_time()
        loss(student, teacher, batch, step)["loss"].backward()
        losses.append(time.process_time() - begin - student.forward_s - teacher.forward_s)
        begin = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        student.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
        optimizer.step()
        mean_teacher.update(net, step=step)
        networks.append(time.process_time() - begin + student.forward_s + teacher.forward_s)
    return StepSeconds(min(losses), min(networks))


def measure(*, scale: float = 1.0) -> list[Row]:
    """Measure the default net and the paper's; ``scale`` below 1 takes a part of a crop's area and heads."""
    return on_one_core(one_core_rows, scale)


def one_core_rows(scale: float, nets: Mapping[str, tuple[CrowdNetOptions, int, int]] = NETS) -> list[Row]:
    """Measure in this process."""
    side, n_heads = max(1, round(CROP_PX * scale**0.5 / 16)) * 16, max(2, round(HEADS * scale))
    rows = []
    for name, (model, n_crops, rounds) in nets.items():
        for phase in PHASES:
            found = step_seconds(model, phase, n_crops=n_crops, n_heads=n_heads, side_px=side, rounds=rounds)
            rows.append(
                Row(
                    f"losses and pseudo-labels, {phase} phase",
                    f"{name}, {n_crops} + {n_crops} crops of {side}², {n_heads} heads in each, one core",
                    found.losses_s, "the whole step", found.losses_s + found.network_s, f"≤ {REACH} ×",
                    met=found.share <= REACH,
                )
            )  # fmt: skip
    return rows
