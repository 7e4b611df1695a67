"""P2Seg's affinity: its loss, and one step of propagation, in rows so that no N × N matrix is ever held.

A = σ(EᵀE) says which cells share a mask (arXiv 2401.09709; specification P2Seg §4). Both functions compute A in chunks
of rows, and again in the backward pass: the memory is that of a chunk and of E's gradient.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROWS = 256
"""Rows of A that are held at a time."""
LEAST_PROB = 1e-6
"""Least probability whose logarithm is taken."""


class SharedMasks(NamedTuple):
    """Which cells of one image lie in which masks, and of which cells that is known.

    Args:
        masks: (K, N) bool; a mask that touches a cell holds it (max pooling).
        known: (N,) bool; pairs with another cell are ignored, and so are pairs of two cells in no mask.
    """

    masks: Tensor
    known: Tensor


def pool_masks(labels: Tensor, n_labels: int, stride: int, unknown: Tensor) -> SharedMasks:
    """Max-pool the masks of a label map.

    Args:
        labels: (H, W) int64, 0 for no mask, k for mask k − 1; sides are multiples of the stride.
        n_labels: K; the greatest label.
        stride: Pixels per cell.
        unknown: (H, W) bool, pixels of which nothing is known; a cell of such pixels alone is not known.
    """
    height, width = labels.shape
    rows, columns = (torch.arange(side, device=labels.device) // stride for side in (height, width))
    cells = rows[:, None] * (width // stride) + columns
    n_cells = (height // stride) * (width // stride)
    masks = torch.zeros(n_labels + 1, n_cells, dtype=torch.bool, device=labels.device)
    masks[labels.masked_fill(unknown, 0).flatten(), cells.flatten()] = True
    known = torch.zeros(n_cells, dtype=torch.bool, device=labels.device)
    known[cells[~unknown]] = True
    return SharedMasks(masks[1:], known)


def affinity_losses(embedding: Tensor, targets: Sequence[SharedMasks]) -> Tensor:
    """Compute ½ mean (1 − A) over pairs that share a mask + ½ mean A over those that do not, for one image.

    Pairs are ordered, a cell with itself included. An empty set of pairs contributes 0.

    Args:
        embedding: (E, N) float.
        targets: T ways to group the cells.

    Returns:
        (T,) one loss for each.
    """
    losses: Tensor = _AffinityLoss.apply(embedding, tuple(targets))
    return losses


def propagate(embedding: Tensor, values: Tensor, beta: float) -> Tensor:
    """Give D⁻¹ A^∘β P: each cell takes the mean of all cells' values, weighted by affinity.

    Args:
        embedding: (E, N) float.
        values: (N, C) float P.
        beta: Power of the affinities; above 1 the strongest count more.

    Returns:
        (N, C).
    """
    spread: Tensor = _Propagate.apply(embedding, values, beta)
    return spread


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, ROWS):
        yield slice(start, min(start + ROWS, n))


def _shares(target: SharedMasks, rows: slice) -> tuple[Tensor, Tensor]:
    """Pairs of some rows with all cells that share a mask, and that do not: two (R, N) bool."""
    masks = target.masks.to(torch.float32)
    same = (
        (masks[:, rows].T @ masks) > 0
        if len(masks)
        else target.known.new_zeros(len(target.known[rows]), masks.shape[1])
    )
    in_mask = target.masks.any(0)
    counted = target.known[rows, None] & target.known & (in_mask[rows, None] | in_mask)
    return counted & same, counted & ~same


class _AffinityLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embedding: Tensor, targets: tuple[SharedMasks, ...]) -> Tensor:
        sums = embedding.new_zeros(len(targets), 2)
        counts = embedding.new_zeros(len(targets), 2)
        for rows in _chunks(embedding.shape[1]):
            affinity = torch.sigmoid(embedding[:, rows].T @ embedding)
            for t, target in enumerate(targets):
                same, other = _shares(target, rows)
                sums[t, 0] += ((1 - affinity) * same).sum()
                sums[t, 1] += (affinity * other).sum()
                counts[t, 0] += same.sum()
                counts[t, 1] += other.sum()
        ctx.save_for_backward(embedding, counts)
        ctx.targets = targets
        return 0.5 * (sums / counts.clamp(min=1)).sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        embedding, counts = ctx.saved_tensors
        weights = 0.5 * gradients[0][:, None] / counts.clamp(min=1)
        gradient = torch.zeros_like(embedding)
        for rows in _chunks(embedding.shape[1]):
            affinity = torch.sigmoid(embedding[:, rows].T @ embedding)
            pull = torch.zeros_like(affinity)
            for t, target in enumerate(ctx.targets):
                same, other = _shares(target, rows)
                pull += other * weights[t, 1] - same * weights[t, 0]
            _add_gradient(gradient, embedding, rows, pull.mul_(affinity).mul_(1 - affinity))
        return gradient, None


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embedding: Tensor, values: Tensor, beta: float) -> Tensor:
        spread = torch.empty_like(values)
        for rows in _chunks(embedding.shape[1]):
            spread[rows] = _row_shares(embedding, rows, beta)[0] @ values
        ctx.save_for_backward(embedding, values, spread)
        ctx.beta = beta
        return spread

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        embedding, values, spread = ctx.saved_tensors
        to_embedding, to_values = torch.zeros_like(embedding), torch.zeros_like(values)
        for rows in _chunks(embedding.shape[1]):
            shares, affinity = _row_shares(embedding, rows, ctx.beta)
            incoming = gradients[0][rows]
            to_values += shares.T @ incoming
            # d P̂ / d log(A^β) of a row is its share times (P − P̂), and d log(A^β) / d(EᵀE) is β (1 − A)
            pull = incoming @ values.T - (incoming * spread[rows]).sum(1, keepdim=True)
            _add_gradient(to_embedding, embedding, rows, pull.mul_(shares).mul_(1 - affinity).mul_(ctx.beta))
        return to_embedding, to_values, None


def _row_shares(embedding: Tensor, rows: slice, beta: float) -> tuple[Tensor, Tensor]:
    """Rows of Â, which sum to 1, and of A."""
    products = embedding[:, rows].T @ embedding
    # softmax of β log A: the row's sum may be too small for a number, its shares are not
    return torch.softmax(beta * torch.nn.functional.logsigmoid(products), dim=1), torch.sigmoid(products)


def _add_gradient(gradient: Tensor, embedding: Tensor, rows: slice, pull: Tensor) -> None:
    """Add what d loss / d (EᵀE), (R, N), means for E: once as rows, once as columns."""
    gradient[:, rows] += embedding @ pull.T
    gradient += embedding[:, rows] @ pull
