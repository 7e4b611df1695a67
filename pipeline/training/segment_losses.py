"""The loss of a batch of SOLOv2's trainings: of labelled images, and of pseudo-labelled ones under a mean teacher."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from pipeline.losses.solo import RangesPx, SoloInstances, solo_loss, solo_targets
from pipeline.models.solov2 import SoloOutput
from pipeline.training.online_teacher import OnlineTeacher
from pipeline.training.segment_batches import SegmentBatch


@dataclass(frozen=True)
class SegmentLoss:
    """L = L_labelled + λ · L_pseudo-labelled; of a batch of one kind, its loss.

    Args:
        grids: Cells along each side, per level.
        ranges_px: Sizes of instances, per level.
        dice_weight: Weight of dice.
        fabric: Device and ranks; the losses are divided by the positive cells of all ranks.
        unlabeled_weight: λ.
        online: Labels the second kind of images at each step; None leaves the batch's labels.
    """

    grids: tuple[int, ...]
    ranges_px: RangesPx
    dice_weight: float
    fabric: Fabric
    unlabeled_weight: float = 1.0
    online: OnlineTeacher | None = None

    def __call__(
        self, student: nn.Module, teacher: nn.Module, batch: SegmentBatch, phase_step: int
    ) -> dict[str, Tensor]:
        """Compute it; all images pass the student together."""
        batch = batch.to(self.fabric.device)
        n, total = batch.n_labeled, len(batch.images)
        if self.online is not None and n < total:
            batch = self.online.relabel(teacher, batch)
        size_hw = (batch.images.shape[2], batch.images.shape[3])
        output: SoloOutput = student(batch.images)
        if n == total:
            return self._part(output, batch.instances, batch.weights, size_hw)
        parts = {}
        for name, part in (("labeled", slice(0, n)), ("unlabeled", slice(n, total))):
            weights = None if batch.weights is None else batch.weights[part]
            parts[name] = self._part(output.images(part), batch.instances[part], weights, size_hw)
        loss = parts["labeled"]["loss"] + self.unlabeled_weight * parts["unlabeled"]["loss"]
        figures = {f"{part}_{name}": value for part, found in parts.items() for name, value in found.items()}
        return {"loss": loss, **figures}

    def _part(
        self,
        output: SoloOutput,
        instances: Sequence[SoloInstances],
        weights: Sequence[Tensor] | None,
        size_hw: tuple[int, int],
    ) -> dict[str, Tensor]:
        targets = solo_targets(instances, grids=self.grids, ranges_px=self.ranges_px, size_hw=size_hw)
        device = self.fabric.device
        count = torch.tensor(float(targets.n_positive), device=device)
        if self.fabric.world_size > 1:
            shared = self.fabric.all_reduce(count, reduce_op="sum")
            assert isinstance(shared, Tensor)
            count = shared
        found = solo_loss(
            output, targets, dice_weight=self.dice_weight, pixel_weights=weights, n_positive=count,
            n_ranks=self.fabric.world_size,
        )  # fmt: skip
        lost = torch.tensor(float(targets.n_lost), device=device)
        return {**found, "instances": torch.tensor(float(len(targets.masks)), device=device), "lost_instances": lost}
