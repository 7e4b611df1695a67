"""P2Seg's losses of a batch: class maps to instances, instances back to class maps (specification P2Seg §3 to §5)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.geometry.point_owners import UNKNOWN, assign_pixels
from pipeline.losses.affinity import LEAST_PROB, affinity_losses, pool_masks, propagate
from pipeline.models.mutual_distillation import MutualOutput
from pipeline.training.p2seg_batches import SeedBatch
from pipeline.training.p2seg_options import DistillOptions


@dataclass(frozen=True)
class SeedLoss:
    """Loss of the network that fills seeds in: cross-entropy where the marks are sure, objects and background alike.

    Args:
        device: Where the network is.
    """

    device: torch.device

    def __call__(self, student: nn.Module, teacher: nn.Module, batch: SeedBatch, phase_step: int) -> dict[str, Tensor]:
        """Compute it; each image counts the same, and in it what there is of objects and of background."""
        batch = batch.to(self.device)
        logits = _upsample(student(batch.images).class_logits, batch.classes)
        losses = [seed_cross_entropy(one, classes) for one, classes in zip(logits, batch.classes, strict=True)]
        return {"loss": torch.stack(losses).mean()}


def seed_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Give the mean over objects' pixels and the mean over background's, averaged; 0 where nothing is known.

    Args:
        logits: (C + 1, H, W).
        classes: (H, W) int64 class map.
    """
    each = F.cross_entropy(logits[None], classes[None], ignore_index=UNKNOWN, reduction="none")[0]
    parts = [each[where].mean() for where in (classes == 0, (classes > 0) & (classes != UNKNOWN)) if where.any()]
    return torch.stack(parts).mean() if parts else logits.sum() * 0


@dataclass(frozen=True)
class DistillLoss:
    """Loss of a batch, mean over its images.

    Args:
        options: Weights.
        device: Where the network is.
    """

    options: DistillOptions
    device: torch.device

    def __call__(self, student: nn.Module, teacher: nn.Module, batch: SeedBatch, phase_step: int) -> dict[str, Tensor]:
        """Compute it."""
        batch = batch.to(self.device)
        said: MutualOutput = student(batch.images)
        each = [self.of_image(said, batch, k) for k in range(len(batch.images))]
        return {name: torch.stack([one[name] for one in each]).mean() for name in each[0]}

    def of_image(self, said: MutualOutput, batch: SeedBatch, k: int) -> dict[str, Tensor]:
        """Compute the loss of one image of a batch."""
        options, classes = self.options, batch.classes[k]
        logits, offsets = said.class_logits[k].float(), _upsample(said.offsets[k : k + 1].float(), batch.classes)[0]
        embedding = said.embedding[k].float()
        points = batch.points_yx[k], batch.point_class[k]
        with torch.no_grad():
            owners = assign_pixels(offsets, classes, *points)
        class_loss = hard_cross_entropy(
            self._log_probs(logits, embedding, points[1], classes), classes, options.hard_frac
        )
        found = {"class": class_loss, "offset": offset_loss(offsets, batch.offsets[k], batch.weight[k])}
        if options.online:
            static, online = found["offset"], online_offset_loss(offsets, owners, points[0])
            found = {**found, "offset": 0.5 * (static + online), "online": online.detach()}
        loss = class_loss + options.offset_weight * found["offset"]
        if options.affinity_weight:
            stride = classes.shape[1] // embedding.shape[2]
            unknown = classes == UNKNOWN
            targets = [
                pool_masks(classes.masked_fill(unknown, 0), len(logits) - 1, stride, unknown),
                pool_masks(owners, len(points[1]), stride, unknown | ((classes > 0) & (owners == 0))),
            ]
            found["affinity"] = 0.5 * affinity_losses(embedding.flatten(1), targets).sum()
            loss = loss + options.affinity_weight * found["affinity"]
        return {"loss": loss, **found}

    def _log_probs(self, logits: Tensor, embedding: Tensor, present: Tensor, classes: Tensor) -> Tensor:
        """What the class loss sees, (C + 1, H, W): log-probabilities, in part those that affinities have spread."""
        share = self.options.propagated_frac
        own = torch.log_softmax(_upsample(logits[None], classes[None])[0], 0)
        if not share:
            return own
        return (1 - share) * own + share * spread_log_probs(logits, embedding, present, classes, self.options.beta)


def spread_log_probs(logits: Tensor, embedding: Tensor, present: Tensor, classes: Tensor, beta: float) -> Tensor:
    """Spread the probabilities of background and the present classes along affinities, once.

    Args:
        logits: (C + 1, h, w) at stride 4.
        embedding: (E, h', w') at the affinity's stride.
        present: (K,) class_id of the image's points.
        classes: (H, W) int64 class map, whose classes count as present, too.
        beta: Power of the affinities.

    Returns:
        (C + 1, H, W) log-probabilities, those of absent classes ``log 1e-6``.
    """
    here = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    here[0] = True
    here[present + 1] = True
    here[torch.unique(classes[classes != UNKNOWN])] = True
    probs = torch.softmax(logits.masked_fill(~here[:, None, None], -torch.inf), 0)
    cells_hw = (embedding.shape[1], embedding.shape[2])
    probs = F.avg_pool2d(probs, logits.shape[1] // cells_hw[0])
    spread = propagate(embedding.flatten(1), probs.flatten(1).T.contiguous(), beta).T.reshape(-1, *cells_hw)
    return _upsample(spread.clamp(min=LEAST_PROB).log()[None], classes[None])[0]


def hard_cross_entropy(log_probs: Tensor, classes: Tensor, hard_frac: float) -> Tensor:
    """Average the cross-entropy over the hardest share of the known pixels; 0 where none is known.

    Args:
        log_probs: (C + 1, H, W) logits.
        classes: (H, W) int64 class map.
        hard_frac: The share; at least one pixel.
    """
    known = classes != UNKNOWN
    count = int(known.sum())
    if not count:
        return log_probs.sum() * 0
    each = F.cross_entropy(log_probs[None], classes[None], ignore_index=UNKNOWN, reduction="none")[0][known]
    return each.topk(max(1, round(hard_frac * count))).values.mean()


def offset_loss(offsets: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Give Σ w (|Δy| + |Δx|) / #{w > 0}; 0 where no pixel has a weight.

    Args:
        offsets: (2, H, W).
        target: (2, H, W).
        weight: (H, W) bool.
    """
    return ((offsets - target).abs().sum(0) * weight).sum() / weight.sum().clamp(min=1)


def online_offset_loss(offsets: Tensor, owners: Tensor, points_yx: Tensor) -> Tensor:
    """Give the same against the way to the point that each pixel now belongs to.

    Args:
        offsets: (2, H, W).
        owners: (H, W) int64, 0 for none, k for point k − 1.
        points_yx: (K, 2) float.
    """
    y, x = torch.nonzero(owners, as_tuple=True)
    if not len(y):
        return offsets.sum() * 0
    target = (points_yx[owners[y, x] - 1] - torch.stack([y, x], 1)).T
    return (offsets[:, y, x] - target).abs().sum() / len(y)


def _upsample(maps: Tensor, like: Tensor) -> Tensor:
    """Bring (B, C, h, w) to the height and width of (…, H, W), bilinearly."""
    return F.interpolate(maps.float(), size=like.shape[-2:], mode="bilinear", align_corners=False)
