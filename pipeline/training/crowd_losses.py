"""The losses of the crowd net's phases, on labelled crops and on unlabelled ones under a teacher (arXiv 2603.16241)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.losses.exclusivity import exclusivity_loss, misplaced_share
from pipeline.losses.mask_constraint import labels_hit, mask_constraint
from pipeline.losses.point_to_region import point_to_region_loss
from pipeline.models.crowd_net import STRIDE, count_points
from pipeline.pseudo_labels.energy import EnergyOptions, energy_masks
from pipeline.training.crops import CropBatch
from pipeline.training.crowd_batches import CrowdBatch
from pipeline.training.options import ExclusivityOptions, UnlabeledOptions


@dataclass(frozen=True)
class Targets:
    """What a batch of crops shall be learnt as; lists go by crop.

    Args:
        points_xy: (N_i, 2) heads for point-to-region, pixels of the crop.
        label_maps: (B, S, S) int64 instances, 0 background.
        unsure_xy: (M_i, 2) candidates that are not confident; exclusivity keeps away from them.
        sure_labels: Values in the label maps that the mask constraint holds: instances hit by a sure head in the crop.
        cut_out: (B, S, S) bool that no loss looks at, if any; its edges lie on cells.
        ignored: (B, S, S) bool that no loss looks at either, for what was judged neither head nor background, if any.
        cell_weights: (B, h, w) weights of the cells in point-to-region, if any.
    """

    points_xy: list[Tensor]
    label_maps: Tensor
    unsure_xy: list[Tensor] | None = None
    sure_labels: list[Tensor] | None = None
    cut_out: Tensor | None = None
    ignored: Tensor | None = None
    cell_weights: Tensor | None = None

    @property
    def hidden(self) -> Tensor | None:
        """(B, S, S) bool: all pixels that no loss looks at."""
        parts = [part for part in (self.cut_out, self.ignored) if part is not None]
        return torch.stack(parts).any(dim=0) if len(parts) > 1 else (parts[0] if parts else None)

    @property
    def hidden_cells(self) -> Tensor | None:
        """(B, h, w) bool: all cells that no loss looks at; ignored are those whose centre is, rounded."""
        if self.ignored is None:
            return None if self.cut_out is None else self.cut_out[:, ::STRIDE, ::STRIDE]
        cells = self.ignored[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
        return cells if self.cut_out is None else cells | self.cut_out[:, ::STRIDE, ::STRIDE]


def labeled_targets(batch: CropBatch) -> Targets:
    """Take a person's points and an annotator's masks as they are."""
    return Targets(list(batch.points_xy), batch.label_maps, sure_labels=list(batch.labels))


def pseudo_targets(batch: CropBatch, cut_out: Tensor, *, point_prob: float, confident_prob: float) -> Targets:
    """Sort pseudo-labels by how sure the teacher is.

    Args:
        batch: Crops with candidates, their probability and their masks; judged ones have inf and 0 for it.
        cut_out: (B, S, S) bool.
        point_prob: Least probability of a head for point-to-region.
        confident_prob: Candidates above it are sure.
    """
    sure = [prob > confident_prob for prob in batch.point_prob]
    return Targets(
        points_xy=[xy[prob >= point_prob] for xy, prob in zip(batch.points_xy, batch.point_prob, strict=True)],
        label_maps=batch.label_maps,
        unsure_xy=[xy[~each] for xy, each in zip(batch.points_xy, sure, strict=True)],
        sure_labels=[
            labels_hit(label_map, xy[each])
            for label_map, xy, each in zip(batch.label_maps, batch.points_xy, sure, strict=True)
        ],
        cut_out=cut_out,
        ignored=batch.ignored,
        cell_weights=batch.cell_weights,
    )


@torch.no_grad()
def teacher_labels(teacher: nn.Module, batch: CropBatch, energy: EnergyOptions) -> CropBatch:
    """Replace the pseudo-labels of a batch by those that a teacher gives for its weak view now."""
    logits, embedding = teacher(batch.images)
    drawn = [energy_masks(*each, options=energy) for each in zip(logits, embedding, strict=True)]
    return CropBatch(
        images=batch.images,
        points_xy=tuple(torch.from_numpy(found.points_xy).to(logits) for _, found in drawn),
        point_prob=tuple(torch.from_numpy(found.prob).to(logits) for _, found in drawn),
        labels=tuple(torch.arange(1, len(found) + 1, device=logits.device) for _, found in drawn),
        label_maps=torch.stack([label_map for label_map, _ in drawn]).long(),
    )


PhaseLoss = Callable[[Tensor, Tensor, Targets], Mapping[str, Tensor]]
"""Gives ``loss`` and figures to log, from logits (B, h, w), embedding (B, C, h, w) and targets."""


def count_loss(logits: Tensor, embedding: Tensor, targets: Targets) -> Mapping[str, Tensor]:
    """Phase 1: point-to-region."""
    loss = point_to_region_loss(
        logits, targets.points_xy, stride=STRIDE, cut_out=targets.hidden_cells, cell_weights=targets.cell_weights
    )
    return {"loss": loss}


def mask_loss(options: ExclusivityOptions) -> PhaseLoss:
    """Phase 2: exclusivity around the heads that the net sees now."""

    def loss(logits: Tensor, embedding: Tensor, targets: Targets) -> Mapping[str, Tensor]:
        heads_xy = [torch.from_numpy(count_points(each).points_xy).to(embedding) for each in logits]
        value = exclusivity_loss(
            embedding,
            heads_xy,
            targets.label_maps,
            cut_out=targets.hidden,
            invalid_points_xy=targets.unsure_xy,
            tau=options.tau,
            margin=options.margin,
            blur_sigma=options.blur_sigma,
        )
        return {"loss": value, "misplaced_share": misplaced_share(heads_xy, targets.label_maps)}

    return loss


def constraint_loss(*, w_fg: float, w_bg: float) -> PhaseLoss:
    """Phase 3: point-to-region, one head in each instance, none in the background."""

    def loss(logits: Tensor, embedding: Tensor, targets: Targets) -> Mapping[str, Tensor]:
        points = count_loss(logits, embedding, targets)["loss"]
        masks = mask_constraint(logits, targets.label_maps, valid_labels=targets.sure_labels, cut_out=targets.hidden)
        return {
            "loss": points + w_fg * masks.foreground + w_bg * masks.background,
            "foreground": masks.foreground,
            "background": masks.background,
            "positives_error": masks.positives_error,
        }

    return loss


@dataclass(frozen=True)
class CrowdLoss:
    """The loss of one phase on a batch: L = (L_labelled + w·L_unlabelled) / (1 + w).

    Args:
        branch: Loss of either branch.
        device: Where to compute.
        unlabeled: How the unlabelled branch joins; None leaves it out.
        energy: How pseudo-labels are made or were made.
        from_ema: Take pseudo-labels from the teacher at each step, not from the batch.
        weight_start: w at the phase's first step.
    """

    branch: PhaseLoss
    device: torch.device
    unlabeled: UnlabeledOptions | None = None
    energy: EnergyOptions | None = None
    from_ema: bool = False
    weight_start: float = 0.0

    def __call__(
        self, student: nn.Module, teacher: nn.Module, batch: CrowdBatch, phase_step: int
    ) -> Mapping[str, Tensor]:
        """Compute the loss; both branches pass the student together."""
        batch = batch.to(self.device)
        n_labeled = len(batch.labeled.images)
        weight = self._weight(phase_step)
        if batch.unlabeled is None or self.unlabeled is None or self.energy is None or weight == 0:
            logits, embedding = student(batch.labeled.images)
            return self.branch(logits, embedding, labeled_targets(batch.labeled))
        weak = batch.unlabeled.weak
        if self.from_ema:
            weak = teacher_labels(teacher, weak, self.energy)
        pseudo = pseudo_targets(
            weak,
            batch.unlabeled.cut_out,
            point_prob=self.unlabeled.point_prob,
            confident_prob=self.energy.confident_prob,
        )
        logits, embedding = student(torch.cat([batch.labeled.images, batch.unlabeled.strong]))
        labeled = self.branch(logits[:n_labeled], embedding[:n_labeled], labeled_targets(batch.labeled))
        unlabeled = self.branch(logits[n_labeled:], embedding[n_labeled:], pseudo)
        total = (labeled["loss"] + weight * unlabeled["loss"]) / (1 + weight)
        figures = {"loss": total}
        for branch, found in (("labeled", labeled), ("unlabeled", unlabeled)):
            figures |= {f"{branch}_{name}": value for name, value in found.items()}
        return figures

    def _weight(self, phase_step: int) -> float:
        if self.unlabeled is None:
            return 0.0
        return unlabeled_weight(self.unlabeled, phase_step, start=self.weight_start)


def unlabeled_weight(options: UnlabeledOptions, phase_step: int, *, start: float) -> float:
    """Give w at a step of a phase; a phase with a ``start`` above 0 does not wait.

    Args:
        options: Ramp and greatest weight.
        phase_step: Step, from 0.
        start: w at the first step.
    """
    if start == 0 and phase_step < options.delay_steps:
        return 0.0
    steps = phase_step if start > 0 else phase_step - options.delay_steps + 1
    return min(options.weight_max, start + options.weight_max * steps / options.ramp_steps)
