"""From SOLOv2's output to instances: point-NMS, masks, maskness, NMS over masks (specs/pointwssis.md, section 2).

Class score, maskness and decay stay apart; score is their product.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.matrix_nms import GREEDY_IOU, SIGMA, greedy_mask_nms, matrix_nms
from pipeline.models.solov2 import LEVEL_STRIDES, MASK_STRIDE, SoloOutput

Nms = Literal["matrix", "greedy", "none"]

MASK_PROB = 0.5
"""A pixel belongs to a mask above this probability."""
_CHUNK_VALUES = 2**25
"""Mask values computed at a time; it changes no result."""


@dataclass(frozen=True)
class DetectOptions:
    """How instances are read off the network's output. The defaults are the published values, but for the cap of 100.

    Args:
        class_thr: A cell is a candidate if its class score is above this.
        min_area: Per level, a mask needs more pixels than this, of the mask features' size (4×4 px of the input each).
            Published are the strides of the levels; on images of 64 to 128 px those are a good share of an object, and
            0 is better.
        max_candidates: Candidates of an image that go into NMS, best class score × maskness first; None for all.
        nms: ``matrix`` lowers scores, ``greedy`` drops masks, ``none`` does neither.
        sigma: Strength of matrix NMS.
        greedy_iou: Two masks of a class with a larger IoU are one object to greedy NMS.
        score_thr: Least score that is kept.
        max_detections: Instances of an image, best score first; None for all (published: 100).
    """

    class_thr: float = 0.1
    min_area: tuple[int, ...] = LEVEL_STRIDES
    max_candidates: int | None = 500
    nms: Nms = "matrix"
    sigma: float = SIGMA
    greedy_iou: float = GREEDY_IOU
    score_thr: float = 0.05
    max_detections: int | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("class_thr", "greedy_iou", "score_thr"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: expected a number in [0, 1], got {getattr(self, name)}")
        for name in ("max_candidates", "max_detections"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, or null for all, got {getattr(self, name)}")
        if self.nms not in ("matrix", "greedy", "none"):
            raise ValueError(f"nms: expected matrix, greedy or none, got {self.nms!r}")
        if not self.sigma > 0:
            raise ValueError(f"sigma: expected a number above 0, got {self.sigma}")
        if len(self.min_area) != len(LEVEL_STRIDES) or min(self.min_area) < 0:
            raise ValueError(
                f"min_area: expected {len(LEVEL_STRIDES)} numbers of at least 0, one for each level, got "
                f"{self.min_area}"
            )


@dataclass(frozen=True)
class Detections:
    """Instances of one image, highest score first.

    Args:
        masks_prob: (N, H/4, W/4) float, probabilities on the padded input; 0 in the padding.
        class_id: (N,) int64.
        class_score: (N,) float, sigmoid of the class logit, before point-NMS.
        maskness: (N,) float, mean probability over the pixels of the mask.
        nms_decay: (N,) float in (0, 1]; 1 without matrix NMS.
        class_probs: (N, C) float, sigmoid of all class logits of the cell.
        score: (N,) float, class_score · maskness · nms_decay.
        level: (N,) int64, level of the pyramid.
    """

    masks_prob: Tensor
    class_id: Tensor
    class_score: Tensor
    maskness: Tensor
    nms_decay: Tensor
    class_probs: Tensor
    score: Tensor
    level: Tensor

    def __len__(self) -> int:
        """Give the number of instances."""
        return len(self.class_id)

    def __getitem__(self, rows: Tensor | slice) -> "Detections":
        """Choose rows."""
        chosen: dict[str, Any] = {field.name: getattr(self, field.name)[rows] for field in fields(self)}
        return Detections(**chosen)


@torch.no_grad()
def detect(
    output: SoloOutput,
    *,
    size_hw: Sequence[tuple[int, int]] | None = None,
    options: DetectOptions = DetectOptions(),
) -> list[Detections]:
    """Read the instances of every image of a batch.

    Args:
        output: The network's.
        size_hw: Per image, the size of its part of the input in pixels, the rest being padding below and to the right;
            the whole input when None. Masks end there.
        options: See :class:`DetectOptions`.
    """
    sizes = [None] * len(output.mask_features) if size_hw is None else list(size_hw)
    if len(sizes) != len(output.mask_features):
        raise ValueError(f"size_hw: expected {len(output.mask_features)} sizes, one for each image, got {len(sizes)}")
    return [_detect_one(output.image(b), size, options) for b, size in enumerate(sizes)]


def _detect_one(output: SoloOutput, size_hw: tuple[int, int] | None, options: DetectOptions) -> Detections:
    candidates = _candidates(output, options.class_thr)
    features = visible_features(output.mask_features[0], size_hw)
    shapes = mask_shapes(candidates.kernels, features)
    least = torch.tensor(options.min_area, device=shapes.area.device)
    rows = torch.nonzero(shapes.area > least[candidates.level]).flatten()
    rank = candidates.class_score[rows] * shapes.maskness[rows]
    rows = rows[torch.argsort(rank, descending=True, stable=True)[: options.max_candidates]]

    kernels, level, class_id, class_score, class_probs = (column[rows] for column in candidates)
    maskness = shapes.maskness[rows]
    decay = torch.ones_like(class_score)
    if options.nms != "none":
        masks = masks_above(kernels, features)
        if options.nms == "matrix":
            decay = matrix_nms(masks, class_id, class_score * maskness, sigma=options.sigma).to(decay)
        else:
            keep = greedy_mask_nms(masks, class_id, class_score * maskness, max_iou=options.greedy_iou)
            decay = decay.where(keep, 0.0)
    score = class_score * maskness * decay
    kept = torch.nonzero((score >= options.score_thr) & (decay > 0)).flatten()
    kept = kept[torch.argsort(score[kept], descending=True, stable=True)[: options.max_detections]]
    return Detections(
        masks_prob=mask_probabilities(kernels[kept], features), class_id=class_id[kept], class_score=class_score[kept],
        maskness=maskness[kept], nms_decay=decay[kept], class_probs=class_probs[kept], score=score[kept],
        level=level[kept],
    )  # fmt: skip


class _Candidates(NamedTuple):
    """Cells whose class score is high enough: kernels (M, E), level, class, its score, scores of all classes (M, C)."""

    kernels: Tensor
    level: Tensor
    class_id: Tensor
    class_score: Tensor
    class_probs: Tensor


def _candidates(output: SoloOutput, class_thr: float) -> _Candidates:
    """Collect the cells of one image, level by level, in the order of cell and class."""
    columns: list[_Candidates] = []
    for k, (logits, kernels) in enumerate(zip(output.class_logits, output.kernels, strict=True)):
        prob = torch.sigmoid(_at_least_float(logits))
        peaks = (prob * point_nms(prob))[0].flatten(1).T
        cell, class_id = torch.nonzero(peaks > class_thr, as_tuple=True)
        per_cell = prob[0].flatten(1).T
        columns.append(
            _Candidates(
                kernels=_at_least_float(kernels)[0].flatten(1).T[cell],
                level=torch.full_like(cell, k),
                class_id=class_id,
                class_score=per_cell[cell, class_id],
                class_probs=per_cell[cell],
            )
        )
    return _Candidates(*(torch.cat(column) for column in zip(*columns, strict=True)))


def point_nms(prob: Tensor) -> Tensor:
    """Mark the cells of (B, C, S, S) that none of those above, left and above left exceeds; equal ones stay."""
    highest = F.max_pool2d(prob, kernel_size=2, stride=1, padding=1)[..., :-1, :-1]
    return highest == prob


class MaskShapes(NamedTuple):
    """Measures of masks.

    Args:
        area: (M,) int64, pixels above ½, of the mask features' size.
        maskness: (M,) float, their mean probability; 0 for an empty mask.
    """

    area: Tensor
    maskness: Tensor


class VisibleFeatures(NamedTuple):
    """Mask features of one image with what of them is padding.

    Args:
        features: (E, h, w) float.
        visible: (h, w) bool; masks end where it ends.
    """

    features: Tensor
    visible: Tensor


def visible_features(features: Tensor, size_hw: tuple[int, int] | None) -> VisibleFeatures:
    """Mark the part of (E, h, w) mask features that an image of ``size_hw`` input pixels reaches into."""
    height, width = features.shape[-2:]
    visible = torch.ones(height, width, dtype=torch.bool, device=features.device)
    if size_hw is not None:
        rows, columns = (math.ceil(side / MASK_STRIDE) for side in size_hw)
        visible[rows:], visible[:, columns:] = False, False
    return VisibleFeatures(_at_least_float(features), visible)


def mask_probabilities(kernels: Tensor, features: VisibleFeatures) -> Tensor:
    """Draw the soft masks of (M, E) kernels: (M, h, w) float, σ(kernel · F), 0 in the padding."""
    height, width = features.visible.shape
    prob = torch.sigmoid(kernels @ features.features.flatten(1)).view(len(kernels), height, width)
    return prob if bool(features.visible.all()) else prob * features.visible


def masks_above(kernels: Tensor, features: VisibleFeatures) -> Tensor:
    """Draw masks, (M, h, w) bool: probability above ½; in chunks."""
    found = [mask_probabilities(chunk, features) > MASK_PROB for chunk in _chunks(kernels, features)]
    return torch.cat(found)


def mask_shapes(kernels: Tensor, features: VisibleFeatures) -> MaskShapes:
    """Measure the masks of (M, E) kernels without holding them all: in chunks."""
    areas, means = [], []
    for chunk in _chunks(kernels, features):
        prob = mask_probabilities(chunk, features).flatten(1)
        inside = prob > MASK_PROB
        area = inside.sum(dim=1)
        areas.append(area)
        means.append((prob * inside).sum(dim=1) / area.clamp(min=1))
    return MaskShapes(torch.cat(areas), torch.cat(means))


def _chunks(kernels: Tensor, features: VisibleFeatures) -> Sequence[Tensor]:
    return torch.split(kernels, max(_CHUNK_VALUES // features.visible.numel(), 1))


def _at_least_float(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
