"""Outputs of SOLOv2 made by hand: every channel of the mask features is a picture, and a kernel points at one."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.models.solov2 import SoloOutput

GRIDS = (8, 6, 4, 3, 2)
SIZE_HW = (64, 64)
SURE = 6.0
"""Logit inside a picture, and minus that of the outside."""


def box(x0: int, y0: int, x1: int, y1: int, size: int = 16) -> Tensor:
    """Picture of a box on the cells of the mask features, ends excluded."""
    picture = torch.zeros(size, size, dtype=torch.bool)
    picture[y0:y1, x0:x1] = True
    return picture


def output_by_hand(
    pictures: list[Tensor], cells: Mapping[tuple[int, int, int], tuple[int, Mapping[int, float]]], *, classes: int = 3
) -> SoloOutput:
    """Build the output of one image.

    Args:
        pictures: (16, 16) bool each, or float logits; kernel k draws the k-th. A last kernel draws nothing.
        cells: (level, row, column) → picture and class → probability. Other cells draw nothing and are no class.
        classes: Number of classes.
    """
    logits = [one if one.is_floating_point() else SURE * (2.0 * one - 1.0) for one in pictures]
    features = torch.stack([*logits, torch.full((16, 16), -SURE)])
    class_logits = [torch.full((1, classes, s, s), -20.0) for s in GRIDS]
    kernels = [torch.zeros(1, len(features), s, s) for s in GRIDS]
    for level in kernels:
        level[:, -1] = 1.0
    for (level, row, column), (picture, probs) in cells.items():
        kernels[level][0, :, row, column] = 0.0
        kernels[level][0, picture, row, column] = 1.0
        for class_id, prob in probs.items():
            class_logits[level][0, class_id, row, column] = torch.logit(torch.tensor(prob))
    return SoloOutput(class_logits, kernels, features[None])
