"""Batches of the crowd net: labelled crops, and unlabelled ones in a weak and a strong view."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.training.crops import CropBatch, CropSampler, step_generator
from pipeline.training.strong_view import change_colors, strong_view
from pipeline.training.view_options import ColorOptions, StrongViewOptions

LABELED_STREAM, UNLABELED_STREAM = 0, 1
COLOR_STREAM, STRONG_STREAM = 100, 101


@dataclass(frozen=True)
class UnlabeledBatch:
    """Unlabelled crops.

    Args:
        weak: The teacher's view, with stored pseudo-labels; its prob is the teacher's.
        strong: (B, 3, S, S) float32, the student's view.
        cut_out: (B, S, S) bool, left out of the student's losses.
    """

    weak: CropBatch
    strong: Tensor
    cut_out: Tensor

    def to(self, device: torch.device) -> "UnlabeledBatch":
        """Copy to a device."""
        return UnlabeledBatch(self.weak.to(device), self.strong.to(device), self.cut_out.to(device))


@dataclass(frozen=True)
class CrowdBatch:
    """What one step learns from; without the unlabelled part in warmup."""

    labeled: CropBatch
    unlabeled: UnlabeledBatch | None = None

    def to(self, device: torch.device) -> "CrowdBatch":
        """Copy to a device."""
        return CrowdBatch(self.labeled.to(device), None if self.unlabeled is None else self.unlabeled.to(device))


@dataclass(frozen=True)
class CrowdBatches:
    """Makes the batch of any step.

    Args:
        labeled: Crops of labelled images.
        unlabeled: Crops of unlabelled images, if any.
        colors: Changes of the labelled crops.
        strong: The student's view of the unlabelled ones.
        seed: Seed of the training.
    """

    labeled: CropSampler
    unlabeled: CropSampler | None
    colors: ColorOptions
    strong: StrongViewOptions
    seed: int

    def __call__(self, step: int) -> CrowdBatch:
        """Make this rank's part of the batch of a step."""
        labeled_crops = self.labeled.crops(step)
        colored = [
            change_colors(crop.pixels, self.colors, generator=step_generator(self.seed, COLOR_STREAM, step, k))
            for k, crop in zip(self.labeled.places, labeled_crops, strict=True)
        ]
        labeled = replace(CropBatch.stack(labeled_crops), images=torch.stack(colored))
        if self.unlabeled is None:
            return CrowdBatch(labeled)
        crops = self.unlabeled.crops(step)
        views = [
            strong_view(crop.pixels, self.strong, generator=step_generator(self.seed, STRONG_STREAM, step, k))
            for k, crop in zip(self.unlabeled.places, crops, strict=True)
        ]
        strong, cut_out = (torch.stack(parts) for parts in zip(*views, strict=True))
        return CrowdBatch(labeled, UnlabeledBatch(CropBatch.stack(crops), strong, cut_out))

    def describe(self, step: int) -> str:
        """Name the images of a step's batch, on all ranks."""
        text = f"crops of the labelled images {', '.join(self.labeled.image_ids(step))}"
        if self.unlabeled is not None:
            text += f" and the unlabelled images {', '.join(self.unlabeled.image_ids(step))}"
        return text
