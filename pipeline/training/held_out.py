"""Looks at images while training: how well a network counts there, and how well its masks fit.

The held-out labelled images choose the checkpoint. The test images are looked at only where ``oracle_best`` is asked
for, and choose nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import Prepared
from pipeline.errors import PipelineError
from pipeline.evaluation.counting import counting_errors
from pipeline.evaluation.instance_iou import matched_mean_iou, pool_matches
from pipeline.masks.store import MaskStore
from pipeline.pseudo_labels.energy import EVALUATION_ENERGY, energy_masks
from pipeline.training.inference import count_heads, predict_image
from pipeline.training.options import LoopOptions
from pipeline.training.scenes import SceneSource, labeled_scenes

COUNTED_ENERGY = replace(EVALUATION_ENERGY, candidate_prob=0.5)
"""Masks of the heads that are counted."""


@dataclass(frozen=True)
class HeldOut:
    """The held-out labelled images, whole.

    Args:
        scenes: Images with their points and the annotator's masks.
        options: Tiles.
        device: Where to compute.
    """

    scenes: SceneSource
    options: LoopOptions
    device: torch.device

    @classmethod
    def open(
        cls,
        prepared: Prepared,
        masks: MaskStore,
        image_ids: Sequence[str],
        *,
        options: LoopOptions,
        device: torch.device,
    ) -> "HeldOut":
        """Find the images."""
        return cls(labeled_scenes(prepared, masks, image_ids, cache_mib=options.cache_mib), options, device)

    def figures(self, net: nn.Module, *, with_masks: bool) -> dict[str, float]:
        """Evaluate a network.

        Args:
            net: In evaluation mode, on the device.
            with_masks: Also compare its energy masks with the annotator's.

        Returns:
            ``mae`` and ``rmse`` of the counts; with masks ``matched_iou``, 0 where there is no mask to match.
        """
        counts, matches = [], []
        for position in range(len(self.scenes)):
            scene = self.scenes[position]
            size_hw = (scene.pixels.shape[0], scene.pixels.shape[1])
            logits, embedding = predict_image(
                net, scene.pixels, device=self.device, tile_px=self.options.tile_px, halo_px=self.options.halo_px
            )
            counts.append((len(count_heads(logits, size_hw).prob), len(scene.points_xy)))
            if with_masks:
                label_map, _ = energy_masks(logits, embedding, options=COUNTED_ENERGY, size_hw=size_hw)
                matches.append(matched_mean_iou(label_map.numpy(), scene.label_map))
        predicted, true = zip(*counts, strict=True)
        errors = counting_errors(predicted, true)
        figures = {"mae": errors.mae, "rmse": errors.rmse}
        if with_masks:
            figures["matched_iou"] = float(np.nan_to_num(pool_matches(matches).mean_matched_iou))
        return figures


def count_test_images(
    net: nn.Module,
    prepared: Prepared,
    image_ids: Sequence[str],
    *,
    options: LoopOptions,
    device: torch.device,
) -> dict[str, float]:
    """Count on the test images, for ``oracle_best``: ``mae`` and ``rmse``.

    Args:
        net: In evaluation mode, on the device.
        prepared: The data set.
        image_ids: Test images.
        options: Tiles.
        device: Where to compute.

    Raises:
        PipelineError: If there are none.
    """
    if not image_ids:
        raise PipelineError(f"{prepared.folder}: has no test images; set loop.oracle_best: false")
    predicted = []
    for image_id in image_ids:
        image = read_image_rgb(prepared.image(image_id).path)
        logits, _ = predict_image(net, image, device=device, tile_px=options.tile_px, halo_px=options.halo_px)
        predicted.append(len(count_heads(logits, (image.shape[0], image.shape[1])).prob))
    errors = counting_errors(predicted, [len(prepared.points(image_id)) for image_id in image_ids])
    return {"mae": errors.mae, "rmse": errors.rmse}
