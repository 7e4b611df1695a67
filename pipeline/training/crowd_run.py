"""What XMask's two trainings share: crops, held-out images, the gate's figures, and the files that they leave."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import nn

from pipeline.datasets.prepared import Prepared
from pipeline.datasets.splits import Splits
from pipeline.errors import PipelineError
from pipeline.evaluation.calibration import matching_threshold
from pipeline.masks.store import MaskStore
from pipeline.models.crowd_net import CrowdNet
from pipeline.training.crops import CropSampler
from pipeline.training.crowd_batches import LABELED_STREAM, UNLABELED_STREAM, CrowdBatch, CrowdBatches
from pipeline.training.crowd_losses import CrowdLoss
from pipeline.training.gate import GateFigures
from pipeline.training.held_out import HeldOut, count_test_images
from pipeline.training.inference import KIND
from pipeline.training.options import PhaseOptions, RetrainOptions, UnlabeledOptions, WarmupOptions, result_options
from pipeline.training.phases import Phase
from pipeline.training.pseudo_scenes import head_prob, is_judged, pseudo_labeled_scenes
from pipeline.training.ranks import launch
from pipeline.training.run_place import RunPlace, digest_tables
from pipeline.training.scenes import labeled_scenes
from pipeline.training.training_run import TrainingRun

ALGORITHM_VERSION = 2
"""Raised by hand when the same inputs train other weights; unfinished trainings of another version start anew."""


@dataclass(frozen=True)
class CrowdRun:
    """What both trainings share.

    Args:
        prepared: The data set.
        splits: Its images.
        masks: The annotator's masks.
        options: Options of the training.
        seed: Seed of the crops.
        place: Device and folders.
    """

    prepared: Prepared
    splits: Splits
    masks: MaskStore
    options: WarmupOptions | RetrainOptions
    seed: int
    place: RunPlace

    def __post_init__(self) -> None:
        """Refuse splits without images to learn from or to choose by, and labelled images without masks."""
        for name in ("labeled_train", "labeled_val"):
            if not getattr(self.splits, name):
                raise PipelineError(f"splits: there is no image in {name}; label more images, or raise labeled_pct")
        labeled_scenes(self.prepared, self.masks, [*self.splits.labeled_train, *self.splits.labeled_val], cache_mib=1)

    def launch(self) -> Fabric:
        """Start the other ranks, which come here by themselves; to be called when nothing more can be refused."""
        loop, batch = self.options.loop, self.options.crops.batch
        return launch(self.place.device, self.place.ranks, precision=loop.precision, batch=batch)

    def batches(self, fabric: Fabric, *, pseudo: MaskStore | None, unlabeled: UnlabeledOptions) -> CrowdBatches:
        """Give this rank's batches; those of warmup have no pseudo-labels."""
        cache_mib, crops = self.options.loop.cache_mib, self.options.crops
        rank, ranks = fabric.global_rank, fabric.world_size
        labeled = labeled_scenes(self.prepared, self.masks, self.splits.labeled_train, cache_mib=cache_mib)
        others = None
        if pseudo is not None and len(pseudo):
            scenes = pseudo_labeled_scenes(
                self.prepared, pseudo, cache_mib=cache_mib, pixel_weights=unlabeled.pixel_weights
            )
            others = CropSampler(scenes, crops, seed=self.seed, stream=UNLABELED_STREAM, rank=rank, ranks=ranks)
        sampler = CropSampler(labeled, crops, seed=self.seed, stream=LABELED_STREAM, rank=rank, ranks=ranks)
        return CrowdBatches(sampler, others, self.options.labeled_colors, unlabeled.strong, self.seed)

    def phase(
        self, name: str, options: PhaseOptions, trained: tuple[str, ...], batches: CrowdBatches, loss: CrowdLoss
    ) -> Phase[CrowdBatch]:
        """Put a phase together."""
        return Phase(name, options, trained, batches, loss, batches.describe)

    def held_out(self, device: torch.device) -> HeldOut:
        """Open the held-out labelled images."""
        return HeldOut.open(
            self.prepared, self.masks, self.splits.labeled_val, options=self.options.loop, device=device
        )

    def gate_figures(self, teacher: CrowdNet, pseudo: MaskStore, options: RetrainOptions) -> GateFigures:
        """Measure what the gate before retrain looks at; the teacher stands on the run's device."""
        labeled = self._true_counts(self.splits.labeled_train)
        judged = is_judged(pseudo)
        sure = [
            int((head_prob(pseudo.instances(image_id), judged=judged) >= options.unlabeled.point_prob).sum())
            for image_id in pseudo.image_ids
        ]
        return GateFigures(
            teacher_mae=self.held_out(self.place.device).figures(teacher, with_masks=False)["mae"],
            mean_count_mae=self.mean_count_mae(),
            labeled_count=float(np.mean(labeled)),
            pseudo_count=float(np.mean(sure)) if sure else None,
        )

    def matching_prob(self, pseudo: MaskStore) -> float:
        """Give the probability above which pseudo-labels are as many an image as heads on the labelled images."""
        labeled = self._true_counts([*self.splits.labeled_train, *self.splits.labeled_val])
        scores = [pseudo.instances(image_id).score for image_id in pseudo.image_ids]
        return matching_threshold(scores, mean_count=float(np.mean(labeled)))

    def mean_count_mae(self) -> float:
        """MAE on the held-out images of always guessing the mean count of the labelled training images."""
        mean = np.mean(self._true_counts(self.splits.labeled_train))
        return float(np.mean(np.abs(np.array(self._true_counts(self.splits.labeled_val)) - mean)))

    def _true_counts(self, image_ids: Sequence[str]) -> list[int]:
        return [len(self.prepared.points(image_id)) for image_id in image_ids]

    def train(
        self,
        net: CrowdNet,
        phases: list[Phase[CrowdBatch]],
        *,
        fabric: Fabric,
        inputs: dict[str, Any],
        description: str,
        extra_figures: dict[str, float],
    ) -> dict[str, float]:
        """Train, write the result, and give its figures; ranks but the first one write nothing and give none."""
        loop, device = self.options.loop, fabric.device
        held_out = self.held_out(device)

        def oracle(teacher: nn.Module) -> dict[str, float]:
            return count_test_images(teacher, self.prepared, self.splits.test, options=loop, device=device)

        run = TrainingRun(
            kind=KIND,
            architecture=asdict(net.options),
            parameters={**result_options(self.options), "seed": self.seed},
            inputs=self._inputs(inputs),
            options=loop,
            place=self.place,
            description=description,
        )
        return run.train(
            net,
            phases,
            fabric=fabric,
            evaluate=lambda teacher, phase: held_out.figures(teacher, with_masks=phase != "count"),
            error_name="mae",
            oracle=oracle if loop.oracle_best else None,
            extra_figures=lambda: {"mean_count_mae": self.mean_count_mae(), **extra_figures},
        )

    def _inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Give all that the weights depend on beside network and options."""
        return {
            **inputs,
            "version": ALGORITHM_VERSION,
            "splits": asdict(self.splits),
            "data": digest_tables([self.prepared.folder, self.masks.path]),
        }
