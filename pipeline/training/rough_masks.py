"""Rough masks of the strong images, from the teacher's early weights: what the refiner learns to mend."""

from dataclasses import replace
from pathlib import Path

import torch

from pipeline.datasets.prepared import Prepared
from pipeline.datasets.splits import Splits
from pipeline.errors import PipelineError
from pipeline.masks.store import MaskStore
from pipeline.training.segment_inference import PointGuidedOptions, write_point_guided


def write_rough_masks(
    prepared: Prepared,
    splits: Splits,
    teacher: Path,
    *,
    options: PointGuidedOptions,
    n_classes: int,
    out: Path,
    log: Path,
    device: torch.device,
) -> list[MaskStore]:
    """Write one store for each of the teacher's early checkpoints: a row for each point of the strong images.

    The final weights know the strong images too well: their masks of these are better than those of the weak images
    will be (PointWSSIS, section 4 of its specification).

    Args:
        prepared: The data set; points of the strong images are read.
        splits: ``labeled_train`` and ``labeled_val`` are the strong images.
        teacher: Folder of the teacher, with ``early_1.safetensors`` and so on.
        options: How masks are looked up; the level is always the best.
        n_classes: Classes of the data set.
        out: Folder of the stores.
        log: JSON lines.
        device: Where to compute.

    Raises:
        PipelineError: If the teacher has no early weights, or one of them cannot be used.
    """
    checkpoints = sorted(teacher.glob("early_*.safetensors"))
    if not checkpoints:
        raise PipelineError(
            f"{teacher}: has no early weights, from which the refiner learns; give warmup.early_fracs one share or two "
            "and run warmup again, or set retrain.masks: pseudo_label"
        )
    strong = [*splits.labeled_train, *splits.labeled_val]
    stores = []
    for weights in checkpoints:
        write_point_guided(
            prepared, strong, weights, options=replace(options, choose="best", keep_prob=False), n_classes=n_classes,
            seed=0, out=out / weights.stem, log=log, device=device,
        )  # fmt: skip
        stores.append(MaskStore.open(out / weights.stem))
    return stores
