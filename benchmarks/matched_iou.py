"""Matched IoU of two touching crowds, all of one component, against dense Hungarian assignment."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from benchmarks.measure import Row
from benchmarks.one_core import added_memory_mib, core_seconds, on_one_core
from pipeline.evaluation.instance_iou import matched_mean_iou

INSTANCES, DENSE_INSTANCES = 25_000, 1_500
SIDE_OF_INSTANCE_PX = 12
JITTER_PX = 4.0
"""How far predicted instances lie from true ones, sigma along each axis; every one then overlaps about four."""
REACH_S, REACH_MIB = 15.0, 2048.0
ROUNDS = 2

LabelMap = NDArray[np.int32]


def touching_crowds(count: int) -> tuple[LabelMap, LabelMap]:
    """Part a map among random places, and again among places near by: predicted and true instances."""
    rng = np.random.default_rng(0)
    side = SIDE_OF_INSTANCE_PX * int(np.ceil(count**0.5))
    places_xy = rng.uniform(0, side - 1, (count, 2))
    return _parted(places_xy + rng.normal(0, JITTER_PX, (count, 2)), side), _parted(places_xy, side)


def _parted(places_xy: NDArray[np.float64], side: int) -> LabelMap:
    """Give every pixel the label of its nearest place; places on one pixel stand off along their row."""
    flat = np.unique(np.clip(places_xy.round().astype(np.int64), 0, side - 1) @ np.array([1, side]))
    free = np.setdiff1d(np.arange(side * side)[:: side // 2 + 1], flat)
    flat = np.concatenate([flat, free[: len(places_xy) - len(flat)]])
    seeds = np.zeros(side * side, np.int32)
    seeds[flat] = np.arange(1, len(flat) + 1)
    seeds = seeds.reshape(side, side)
    nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    return seeds[tuple(nearest)]


def dense_matched_iou(predicted: LabelMap, true: LabelMap) -> float:
    """Fill the whole matrix of IoUs and solve the assignment on 1 − IoU; labels are 1 … N."""
    n_predicted, n_true = int(predicted.max()), int(true.max())
    pairs = predicted.astype(np.int64) * (n_true + 1) + true
    shared = np.bincount(pairs.ravel(), minlength=(n_predicted + 1) * (n_true + 1)).reshape(n_predicted + 1, n_true + 1)
    union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True) - shared
    iou = shared[1:, 1:] / union[1:, 1:]
    return float(iou[linear_sum_assignment(1 - iou)].sum() / n_true)


def measure(*, scale: float = 1.0) -> list[Row]:
    """Measure one pair of maps; ``scale`` below 1 takes a part of the instances."""
    return on_one_core(one_core_rows, scale)


def one_core_rows(scale: float) -> list[Row]:
    """Measure in this process."""
    count, dense_count = (max(4, round(number * scale)) for number in (INSTANCES, DENSE_INSTANCES))
    crowds, few = touching_crowds(count), touching_crowds(dense_count)
    our_mib = added_memory_mib(lambda: matched_mean_iou(*crowds))
    their_mib = added_memory_mib(lambda: dense_matched_iou(*few))
    our_s, their_s = core_seconds(lambda: matched_mean_iou(*crowds), lambda: dense_matched_iou(*few), rounds=ROUNDS)
    result = matched_mean_iou(*crowds)
    work = f"{result.n_predicted:,} × {result.n_true:,} instances, one core"
    # The matrix has that many more entries; the assignment takes longer than they grow.
    times = (count / dense_count) ** 2
    name = f"dense Hungarian ({dense_count:,} instances, extrapolated as their square)"
    notes = {"mean_matched_iou": result.mean_matched_iou}
    return [
        Row("matched IoU", work, our_s, name, times * their_s, f"≤ {REACH_S:.0f} s", met=our_s <= REACH_S, notes=notes),
        Row(
            "matched IoU, memory", work, our_mib, name, times * their_mib, f"≤ {REACH_MIB:.0f} MiB",
            met=our_mib <= REACH_MIB, unit="MiB",
        ),
    ]  # fmt: skip
