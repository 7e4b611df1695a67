"""Matrix NMS against a Python loop over the candidates."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measure import Row
from benchmarks.one_core import core_seconds, on_one_core
from pipeline.models.matrix_nms import SIGMA, matrix_nms

CANDIDATES, SIDE = 2000, 160
"""As many as a crowded image of 640 × 640 px gives, on its mask features."""
OBJECTS = 150
SAMPLE = 20
"""Candidates of the loop, spread over the ranks; it treats them one by one."""
REACH = 20


def crowd_of_candidates(n: int, side: int, objects: int) -> tuple[Tensor, Tensor]:
    """Draw candidates as a network gives them: many discs around each of a few objects, highest score first."""
    rng = np.random.default_rng(0)
    centers = rng.uniform(0, side, (objects, 2))[rng.integers(0, objects, n)] + rng.normal(0, 2, (n, 2))
    radius = rng.uniform(3, 20, n)
    place = np.arange(side)
    across, down = (place - centers[:, :1]) ** 2, (place - centers[:, 1:]) ** 2
    masks = across[:, None, :] + down[:, :, None] <= radius[:, None, None] ** 2
    return torch.from_numpy(masks), torch.from_numpy(np.sort(rng.random(n))[::-1].copy()).float()


def ious_above(masks: NDArray[np.bool_], j: int) -> NDArray[np.float64]:
    """IoU of mask j, (P,) of (N, P), with each of those above it."""
    shared = (masks[:j] & masks[j]).sum(axis=1)
    union = (masks[:j] | masks[j]).sum(axis=1)
    return np.asarray(shared / np.maximum(union, 1))


def loop_matrix_nms(masks: NDArray[np.bool_], rows: NDArray[np.int64]) -> list[float]:
    """Compute the decay of some candidates of one class, sorted by score, one after the other.

    Args:
        masks: (N, P), highest score first.
        rows: Candidates to compute, ascending. The largest overlaps of those above are taken as known, so that the
            rows of a sample do as much work as those of the whole.
    """
    largest = np.zeros(len(masks))
    decays = []
    for j in rows.tolist():
        iou = ious_above(masks, j)
        largest[j] = iou.max(initial=0.0)
        decays.append(float(np.exp(-SIGMA * (iou**2 - largest[:j] ** 2)).min(initial=1.0)))
    return decays


def measure(*, scale: float = 1.0) -> list[Row]:
    """Measure one image; ``scale`` below 1 takes a part of its candidates."""
    return on_one_core(one_core_rows, scale)


def one_core_rows(scale: float) -> list[Row]:
    """Measure in this process."""
    n = max(SAMPLE, round(CANDIDATES * scale))
    masks, scores = crowd_of_candidates(n, SIDE, max(1, round(OBJECTS * scale)))
    flat, one_class = masks.flatten(1).numpy(), torch.zeros(n, dtype=torch.int64)
    sample = np.unique(np.linspace(0, n - 1, SAMPLE).round().astype(np.int64))
    ours, theirs = core_seconds(
        lambda: matrix_nms(masks, one_class, scores), lambda: loop_matrix_nms(flat, sample), rounds=2
    )
    total = theirs * (n * (n - 1) / 2) / float(sample.sum())  # candidate j has j others above it
    work = f"{n:,} candidates of one class, {SIDE} × {SIDE}, one core"
    name = f"loop over candidates ({len(sample)} of them, extrapolated)"
    reach = f"≤ {1 / REACH} × ({REACH} × faster)"
    return [Row("matrix NMS", work, ours, name, total, reach, met=REACH * ours <= total)]
