"""Loss of a two-class mask (PointWSSIS, MaskRefineNet): dice over the whole batch, and cross-entropy."""

import torch.nn.functional as F
from torch import Tensor

EPSILON = 0.002
"""Keeps dice defined where there is nothing to find, and nothing found."""


def refine_loss(logits: Tensor, target: Tensor, valid: Tensor, *, ce_weight: float) -> dict[str, Tensor]:
    """Compare predicted with true masks.

    Dice is 1 − 2Σpt / (Σp² + Σt² + ε), each sum over batch, height and width: one figure for the batch, in which large
    and small masks count by their pixels. Cross-entropy is a mean over the valid pixels.

    Args:
        logits: (B, 2, H, W), background first.
        target: (B, H, W) bool.
        valid: (B, H, W) bool; other pixels, beyond the image's edge, do not count.
        ce_weight: Weight of the cross-entropy. Published: 0.

    Returns:
        ``loss``, ``dice`` and ``cross_entropy``, scalars in float32 or better.
    """
    margin = logits[:, 1] - logits[:, 0]
    margin = margin if margin.dtype.itemsize > 4 else margin.float()
    kept = valid.to(margin)
    truth = target.to(margin) * kept
    prob = margin.sigmoid() * kept
    dice = 1 - 2 * (prob * truth).sum() / (prob.square().sum() + truth.square().sum() + EPSILON)
    each = F.binary_cross_entropy_with_logits(margin, truth, reduction="none") * kept
    cross_entropy = each.sum() / kept.sum().clamp(min=1)
    return {"loss": dice + ce_weight * cross_entropy, "dice": dice, "cross_entropy": cross_entropy}
