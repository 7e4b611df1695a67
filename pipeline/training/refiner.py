"""Training of MaskRefineNet (PointWSSIS, CVPR 2023) on a teacher's rough masks of the strong images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.datasets.prepared import Prepared
from pipeline.datasets.splits import Splits
from pipeline.errors import PipelineError
from pipeline.losses.refine import refine_loss
from pipeline.masks.rle import Window, rle_to_window
from pipeline.masks.store import MaskStore
from pipeline.models.refine_net import build_refine_net
from pipeline.training.kept import Kept
from pipeline.training.options import result_options
from pipeline.training.phases import Phase
from pipeline.training.ranks import launch
from pipeline.training.refine_crops import KeptImage, RefineBatch, RefineBatches, kept_images
from pipeline.training.refine_options import RefinerOptions
from pipeline.training.refine_pairs import RefinePair, refine_pairs
from pipeline.training.refinement import KIND, refine_masks
from pipeline.training.run_place import RunPlace, digest_tables
from pipeline.training.training_run import TrainingRun

ALGORITHM_VERSION = 1
"""Raised by hand when the same inputs train other weights; unfinished trainings of another version start anew."""
LEARNING = ("encoder", "context", "decoder", "head")
DESCRIPTION = "refiner"
"""The section of params.yaml that holds the options."""


@dataclass(frozen=True)
class RefineLoss:
    """Loss of a batch of crops.

    Args:
        ce_weight: Weight of the cross-entropy.
        device: Where the network is.
    """

    ce_weight: float
    device: torch.device

    def __call__(
        self, student: nn.Module, teacher: nn.Module, batch: RefineBatch, phase_step: int
    ) -> dict[str, Tensor]:
        """Compute it; of several ranks each takes the dice of its own crops."""
        inputs = batch.inputs.to(self.device)
        logits = student(inputs.images, inputs.heat, inputs.class_id, inputs.rough)
        return refine_loss(logits, batch.target.to(self.device), batch.valid.to(self.device), ce_weight=self.ce_weight)


@dataclass(frozen=True)
class HeldOutPairs:
    """Rough masks of held-out images, by which the checkpoint is chosen.

    Args:
        pairs: Rough and true masks, image by image.
        images: Their images.
        options: Crops.
        device: Where to compute.
    """

    pairs: Sequence[RefinePair]
    images: Kept[str, KeptImage]
    options: RefinerOptions
    device: torch.device

    def figures(self, net: nn.Module) -> dict[str, float]:
        """Refine them as in inference: mean ``iou`` after it, ``iou_rough`` before, and ``error``, 1 − ``iou``."""
        after, before = [], []
        for image_id, group in groupby(self.pairs, key=lambda pair: pair.image_id):
            pairs = list(group)
            windows = refine_masks(
                net, self.images[image_id].pixels, [pair.rough for pair in pairs], options=self.options.crops,
                device=self.device,
            )  # fmt: skip
            for pair, window in zip(pairs, windows, strict=True):
                before.append(_iou(_rough_window(pair), pair))
                after.append(before[-1] if window is None else _iou(window, pair))
        iou = float(np.mean(after))
        return {"error": 1 - iou, "iou": iou, "iou_rough": float(np.mean(before))}


def train_refiner(
    prepared: Prepared,
    splits: Splits,
    truth: MaskStore,
    rough: Sequence[MaskStore],
    *,
    options: RefinerOptions,
    n_classes: int,
    seed: int,
    place: RunPlace,
) -> dict[str, float]:
    """Train the refiner on the strong images.

    Args:
        prepared: The data set; no points are read.
        splits: ``labeled_train`` are learnt from, ``labeled_val`` choose the checkpoint.
        truth: True masks; only those of the strong images are read.
        rough: What the teacher's checkpoints made of the strong images, a row for each point.
        options: Network, crops, training.
        n_classes: Number of classes.
        seed: Seed of the network's start and of the crops.
        place: Device and folders.

    Returns:
        The figures that also stand in ``metrics.json``; nothing on other ranks than the first.

    Raises:
        PipelineError: If inputs are missing or do not fit, there is nothing to learn from, or training diverges.
    """
    pairs, held_out = (
        refine_pairs(prepared, truth, rough, image_ids, n_classes=n_classes)
        for image_ids in (splits.labeled_train, splits.labeled_val)
    )
    for name, found in (("labeled_train", pairs), ("labeled_val", held_out)):
        if not found:
            raise PipelineError(
                f"the rough masks ({', '.join(str(store.path) for store in rough) or 'no store'}) hold no mask of the "
                f"images in {name} that meets a true one of its class; train the teacher longer, or label more images"
            )
    spread = np.unique(np.linspace(0, len(held_out) - 1, options.held_out_pairs).round().astype(int)).tolist()
    held_out = [held_out[k] for k in spread]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_refine_net(options.network, n_classes)
    fabric = launch(place.device, place.ranks, precision=options.loop.precision, batch=options.crops.batch)
    images = kept_images(prepared, cache_mib=options.loop.cache_mib)
    batches = RefineBatches(pairs, images, options.crops, seed=seed, rank=fabric.global_rank, ranks=fabric.world_size)
    phase = Phase(
        "train", options.train, LEARNING, batches, RefineLoss(options.ce_weight, fabric.device), batches.describe
    )
    looks = HeldOutPairs(held_out, images, options, fabric.device)
    run = TrainingRun(
        kind=KIND,
        architecture={"network": asdict(options.network), "n_classes": n_classes},
        parameters={**result_options(options), "seed": seed},
        inputs={
            "version": ALGORITHM_VERSION,
            "splits": asdict(splits),
            "data": digest_tables([prepared.folder, truth.path, *(store.path for store in rough)]),
        },
        options=options.loop,
        place=place,
        description=DESCRIPTION,
    )
    return run.train(
        net,
        [phase],
        fabric=fabric,
        evaluate=lambda network, _: looks.figures(network),
        error_name="error",
        extra_figures=lambda: {"n_pairs": len(pairs)},
    )


def _rough_window(pair: RefinePair) -> Window:
    box = pair.rough.box_xywh
    return Window(rle_to_window(pair.rough.rle, pair.rough.size_hw, box), box[0], box[1])


def _iou(window: Window, pair: RefinePair) -> float:
    """IoU of a mask in a window with the pair's true mask."""
    box = window.x0, window.y0, window.mask.shape[1], window.mask.shape[0]
    shared = int((window.mask & rle_to_window(pair.truth, pair.rough.size_hw, box)).sum())
    return shared / (int(window.mask.sum()) + pair.truth_px - shared)
