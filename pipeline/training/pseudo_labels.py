"""Pseudo-labels: the teacher's energy masks of whole unlabelled images, into a mask store."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from pipeline.compute.files import digest_file
from pipeline.compute.progress import JsonLines, track
from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import Prepared
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from pipeline.models.crowd_net import CrowdNetOptions
from pipeline.pseudo_labels.energy import energy_instances
from pipeline.training.inference import load_crowd_net, predict_image
from pipeline.training.options import PseudoLabelOptions

ALGORITHM = "energy"
ALGORITHM_VERSION = 1
"""Raised by hand when the same weights and images give other masks."""


def write_pseudo_labels(
    prepared: Prepared,
    image_ids: Sequence[str],
    teacher: Path,
    *,
    model: CrowdNetOptions,
    options: PseudoLabelOptions,
    out: Path,
    log: Path,
    device: torch.device,
    round_number: int = 0,
    splits: Collection[str] = ("train",),
) -> int:
    """Write the teacher's candidates of every image, one row each, with their energy masks.

    Args:
        prepared: The data set; no points are read.
        image_ids: The unlabelled images, or the held-out labelled ones.
        teacher: The teacher's checkpoint.
        model: Network that the checkpoint must hold.
        options: Energy and tiles.
        out: The mask store; replaced when all is done.
        log: JSON lines, one for each image.
        device: Where to compute.
        round_number: Rounds of self-training before this one; stands in the store's column ``round``.
        splits: The images' splits; held-out labelled images may be a data set's validation images.

    Returns:
        Number of candidates.

    Raises:
        PipelineError: If the checkpoint or an image cannot be read, or an image is in another split.
    """
    prepared.require_split(image_ids, splits, "pseudo-labels")
    net, _ = load_crowd_net(teacher, device=device, expected=model)
    provenance = Provenance(
        algorithm=ALGORITHM,
        algorithm_version=ALGORITHM_VERSION,
        params=asdict(options),
        weights_sha256=digest_file(teacher),
    )
    n_candidates = 0
    with MaskStore.create(out, provenance) as writer, JsonLines(log) as lines:
        for image_id in track(sorted(image_ids), description="pseudo_label"):
            image = read_image_rgb(prepared.image(image_id).path)
            logits, embedding = predict_image(
                net, image, device=device, tile_px=options.tile_px, halo_px=options.halo_px
            )
            size_hw = (image.shape[0], image.shape[1])
            rows = energy_instances(
                logits,
                embedding,
                options=options.energy,
                size_hw=size_hw,
                round=round_number,
                keep_prob=options.keep_prob,
            )
            writer.add(image_id, rows)
            n_candidates += len(rows)
            lines.write(image_id=image_id, candidates=len(rows), masks=int((rows.area_px > 0).sum()))
    return n_candidates
