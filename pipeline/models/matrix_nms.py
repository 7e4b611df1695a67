"""Overlapping masks: their IoU, matrix NMS (SOLOv2, arXiv 2003.10152) and greedy mask NMS, class by class."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIGMA = 2.0
GREEDY_IOU = 0.5
_TILE = 32
"""Side of the tiles in which overlaps are counted, cells; it changes no result."""


def mask_overlaps(masks: Tensor, others: Tensor | None = None) -> Tensor:
    """Count the pixels that each pair of masks shares.

    Tile by tile, among the masks that touch the tile: a matrix product each, and none where objects are far apart.

    Args:
        masks: (N, h, w) bool.
        others: (M, h, w) bool; ``masks`` themselves when None.

    Returns:
        (N, M) float32, whole numbers.
    """
    tiles, rows_of = _tiles(masks)
    other_tiles, columns_of = (tiles, rows_of) if others is None else _tiles(others)
    n, m = tiles.shape[1], other_tiles.shape[1]
    shared = torch.zeros(n, m, device=masks.device)
    for tile, other, in_tile, in_other in zip(tiles, other_tiles, rows_of, columns_of, strict=True):
        rows, columns = torch.nonzero(in_tile).flatten(), torch.nonzero(in_other).flatten()
        if len(rows) == n and len(columns) == m:
            shared += tile.float() @ other.float().T
        elif len(rows) and len(columns):
            shared[rows[:, None], columns] += tile[rows].float() @ other[columns].float().T
    return shared


def _tiles(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Cut masks: (T, N, tile²) uint8, and (T, N) bool where a mask touches a tile."""
    n, height, width = masks.shape
    down, across = -(-height // _TILE), -(-width // _TILE)
    padded = F.pad(masks.view(torch.uint8), (0, across * _TILE - width, 0, down * _TILE - height))
    tiles = padded.view(n, down, _TILE, across, _TILE).permute(1, 3, 0, 2, 4).reshape(down * across, n, _TILE * _TILE)
    return tiles, (tiles > 0).any(dim=2)


def mask_iou(masks: Tensor, others: Tensor | None = None) -> Tensor:
    """Give the IoU of each pair of masks: (N, M) float32, 0 where both are empty; see mask_overlaps."""
    shared = mask_overlaps(masks, others)
    area = masks.flatten(1).sum(dim=1).to(shared)
    other_area = area if others is None else others.flatten(1).sum(dim=1).to(shared)
    union = area[:, None] + other_area - shared
    return shared / union.clamp(min=1)


def matrix_nms(masks: Tensor, class_id: Tensor, scores: Tensor, *, sigma: float = SIGMA) -> Tensor:
    """Give the factor by which matrix NMS lowers each score.

    decay_j = min over i above j of exp(−σ(IoU_ij² − m_i²)), m_i = largest IoU of i with anything above i; *above* means
    of the same class and a higher score, of equal scores the earlier row. A row with nothing above it keeps its score.

    Args:
        masks: (N, h, w) bool.
        class_id: (N,) int64.
        scores: (N,) float.
        sigma: Strength; 2 as published.

    Returns:
        (N,) float32 in (0, 1].
    """
    decay = torch.ones(len(masks), device=masks.device)
    for rows in _rows_by_class(class_id, scores):
        iou = mask_iou(masks[rows]).triu_(diagonal=1)
        squared = iou.square_()
        largest = squared.amax(dim=0)
        above = torch.ones_like(squared, dtype=torch.bool).triu_(diagonal=1)
        exponent = squared.sub_(largest[:, None]).masked_fill_(~above, 0.0)
        decay[rows] = torch.exp(-sigma * exponent.amax(dim=0))
    return decay


def greedy_mask_nms(masks: Tensor, class_id: Tensor, scores: Tensor, *, max_iou: float = GREEDY_IOU) -> Tensor:
    """Keep masks from the highest score down, unless one of the same class was kept whose IoU is above ``max_iou``.

    Args:
        masks: (N, h, w) bool.
        class_id: (N,) int64.
        scores: (N,) float; of equal scores the earlier row comes first.
        max_iou: Greatest IoU of two kept masks.

    Returns:
        (N,) bool, the rows to keep.
    """
    keep = torch.ones(len(masks), dtype=torch.bool, device=masks.device)
    for rows in _rows_by_class(class_id, scores):
        hides = (mask_iou(masks[rows]) > max_iou).triu_(diagonal=1).cpu().numpy()
        hidden = np.zeros(len(rows), dtype=np.bool_)
        for k in np.flatnonzero(hides.any(axis=1)).tolist():
            if not hidden[k]:
                hidden |= hides[k]
        keep[rows] = torch.from_numpy(~hidden).to(keep.device)
    return keep


def _rows_by_class(class_id: Tensor, scores: Tensor) -> list[Tensor]:
    """Rows of each class that occurs, highest score first."""
    order = torch.argsort(scores, descending=True, stable=True)
    sorted_class, by_class = torch.sort(class_id[order], stable=True)
    _, counts = torch.unique_consecutive(sorted_class, return_counts=True)
    return list(torch.split(order[by_class], counts.tolist()))
