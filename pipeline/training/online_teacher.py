"""Pseudo-labels made at each step, by the averaged weights, of a weak view (PL-DC, sections 1, 2 and 4).

Classes are not corrected here: a second opinion that follows the training would be a state beside the weights. The
thresholds stand as ``judge`` wrote them.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.losses.solo import SoloInstances
from pipeline.models.solo_inference import MASK_PROB, Detections, DetectOptions, detect
from pipeline.models.solov2 import MASK_STRIDE
from pipeline.pseudo_labels.quality import Limits, QualityOptions, Tier, judge_scores
from pipeline.pseudo_labels.uncertainty import PixelWeights
from pipeline.training.segment_batches import SegmentBatch


@dataclass(frozen=True)
class OnlineTeacher:
    """Labels the pseudo-labelled images of a batch anew.

    Args:
        detect: What is read off the teacher's output.
        quality: Which rows are kept.
        limits: Its thresholds, by class; None for ``off`` and ``single``.
        weigh: How pixels are weighed.
    """

    detect: DetectOptions
    quality: QualityOptions
    limits: Limits | None
    weigh: PixelWeights = "off"

    @torch.no_grad()
    def relabel(self, teacher: nn.Module, batch: SegmentBatch) -> SegmentBatch:
        """Replace the labels of the images after the first ``n_labeled`` by the teacher's, of their weak views."""
        assert batch.weak_images is not None
        size_hw = (batch.images.shape[2], batch.images.shape[3])
        sizes = batch.sizes_hw[batch.n_labeled :]
        found = detect(teacher(batch.weak_images), size_hw=sizes, options=self.detect)
        labels = [self._labels(each, size_hw) for each in found]
        own = batch.instances[: batch.n_labeled]
        cells_hw = (size_hw[0] // MASK_STRIDE, size_hw[1] // MASK_STRIDE)
        ones = tuple(batch.images.new_ones(len(each.masks), *cells_hw) for each in own)
        return replace(
            batch,
            instances=(*own, *(instances for instances, _ in labels)),
            weights=None if self.weigh == "off" else (*ones, *(weights for _, weights in labels)),
        )

    def _labels(self, found: Detections, size_hw: tuple[int, int]) -> tuple[SoloInstances, Tensor]:
        """Masks to learn, pixels to ignore, and (N, H/4, W/4) weights, of one image."""
        tiers = self._tiers(found)
        prob = found.masks_prob
        fine = torch.zeros(0, *size_hw, device=prob.device)
        if len(prob):
            fine = F.interpolate(prob[:, None], size=size_hw, mode="bilinear", align_corners=False)[:, 0]
        masks = fine > MASK_PROB
        keep, unsure = (torch.from_numpy(tiers == tier).to(prob.device) for tier in (Tier.KEEP, Tier.AMBIGUOUS))
        ignore = masks[unsure].any(dim=0) & ~masks[keep].any(dim=0)
        return SoloInstances(masks[keep], found.class_id[keep], ignore), (2 * prob[keep] - 1).abs()

    def _tiers(self, found: Detections) -> npt.NDArray[np.int8]:
        area_px = (found.masks_prob > MASK_PROB).sum(dim=(1, 2)) * MASK_STRIDE**2
        columns = (found.class_score, found.maskness, area_px, found.class_id)
        c, m, area, class_id = (column.cpu().numpy() for column in columns)
        return judge_scores(
            c, m, area, class_id, options=self.quality, limits=self.limits, nms_decay=found.nms_decay.cpu().numpy()
        )
