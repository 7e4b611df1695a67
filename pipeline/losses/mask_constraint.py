"""Mask constraint: every instance holds one head, the background none (arXiv 2603.16241, §3.4).

With u the logits upsampled to the image and k = ΣReLU(z) / ΣReLU(u) per image, detached:

    L_fg = mean over valid instances |Σ_{x ∈ inst} ReLU(k·u(x)) − 1|,  L_bg = mean of ReLU(u) over the background
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_MAGNIFICATION = 100.0
"""Bound of k. It is about 1/16 for broad logits and near 1 for heads of one cell each over a sure background, but grows
without bound, and the gradient with it, where almost every positive cell vanishes between its negative neighbours."""


class MaskConstraint(NamedTuple):
    """The two terms of a batch, each the mean over its images.

    Args:
        foreground: Scalar L_fg; 0 for an image without a valid instance.
        background: Scalar L_bg; 0 for an image without background.
        positives_error: |positive cells in a valid instance − 1|, mean over instances: a figure to log, since the
            reference's third term counts decisions and carries no gradient. Scalar float64; 0 without instances.
    """

    foreground: Tensor
    background: Tensor
    positives_error: Tensor


def mask_constraint_loss(
    logits: Tensor,
    label_maps: Tensor,
    *,
    valid_labels: Sequence[Tensor] | None = None,
    cut_out: Tensor | None = None,
    w_fg: float = 0.005,
    w_bg: float = 0.05,
) -> Tensor:
    """Weigh the terms of :func:`mask_constraint`: w_fg·L_fg + w_bg·L_bg; P2R is added by the caller."""
    terms = mask_constraint(logits, label_maps, valid_labels=valid_labels, cut_out=cut_out)
    return w_fg * terms.foreground + w_bg * terms.background


def mask_constraint(
    logits: Tensor,
    label_maps: Tensor,
    *,
    valid_labels: Sequence[Tensor] | None = None,
    cut_out: Tensor | None = None,
) -> MaskConstraint:
    """Compute both terms, in one pass over the pixels whatever the number of instances.

    Args:
        logits: (B, h, w).
        label_maps: (B, H, W) integer, 0 background.
        valid_labels: Per image the labels to count, see :func:`labels_hit`; all when None. The pixels of the others
            belong neither to an instance nor to the background.
        cut_out: (B, H, W) bool; these pixels are no background, and an instance that they touch is not valid.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    size_hw = label_maps.shape[-2:]
    upsampled = F.interpolate(logits[:, None], size=size_hw, mode="bilinear", align_corners=False)[:, 0]
    foreground, background, errors = [], [], []
    for b, (z, u, labels) in enumerate(zip(logits, upsampled, label_maps.long(), strict=True)):
        hidden = None if cut_out is None else cut_out[b]
        valid = _valid_instances(labels, None if valid_labels is None else valid_labels[b], hidden)
        mass, mass_fine = torch.relu(z).sum().detach(), torch.relu(u).sum().detach()
        k = torch.where(mass_fine > 0, mass / mass_fine, torch.ones_like(mass)).clamp(max=MAX_MAGNIFICATION)
        held = u.new_zeros(len(valid)).index_add(0, labels.flatten(), torch.relu(k * u).flatten())
        foreground.append((held - 1).abs()[valid].sum() / valid.sum().clamp(min=1))
        outside = labels == 0 if hidden is None else (labels == 0) & ~hidden
        background.append(torch.relu(u)[outside].sum() / outside.sum().clamp(min=1))
        errors.append((_positives(z.detach(), labels, len(valid)) - 1).abs()[valid])
    every_error = torch.cat(errors).double()
    return MaskConstraint(
        foreground=torch.stack(foreground).mean(),
        background=torch.stack(background).mean(),
        positives_error=every_error.sum() / max(len(every_error), 1),
    )


def labels_hit(label_map: Tensor, points_xy: Tensor) -> Tensor:
    """Give the instances that a point falls on, read at the rounded point: the valid ones, for confident points.

    Args:
        label_map: (H, W) integer.
        points_xy: (N, 2), image pixels; points outside the image hit nothing.

    Returns:
        (K,) int64, ascending.
    """
    height, width = label_map.shape
    x, y = torch.floor(points_xy.to(label_map.device).double().reshape(-1, 2) + 0.5).long().unbind(dim=1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    labels = torch.unique(label_map[y[inside], x[inside]].long())
    hit: Tensor = labels[labels > 0]
    return hit


def _valid_instances(labels: Tensor, wanted: Tensor | None, hidden: Tensor | None) -> Tensor:
    """Mark, for labels 0 … max, the instances that are there, wanted, and not touched by the cut-out."""
    valid = torch.bincount(labels.flatten()) > 0
    if wanted is not None:
        wanted = wanted.to(labels.device).long()
        asked = torch.zeros_like(valid)
        asked[wanted[(wanted > 0) & (wanted < len(valid))]] = True
        valid &= asked
    if hidden is not None:
        valid[labels[hidden]] = False
    valid[0] = False
    return valid


def _positives(z: Tensor, labels: Tensor, count: int) -> Tensor:
    """Count the positive cells in each instance, read at the pixel nearest to each cell's centre."""
    row, column = torch.nonzero(z > 0, as_tuple=True)
    scale_y, scale_x = labels.shape[0] / z.shape[0], labels.shape[1] / z.shape[1]
    y, x = ((row + 0.5) * scale_y).long(), ((column + 0.5) * scale_x).long()
    return torch.bincount(labels[y, x], minlength=count)
