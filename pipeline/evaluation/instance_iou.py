"""How well predicted instances cover true ones: matched IoU, F1 and mean IoU at a threshold (XMask, section 7).

Instances of one image are matched one to one so that the sum of their IoUs is greatest. Only pairs that overlap enter,
so tens of thousands of instances fit in memory.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import min_weight_full_bipartite_matching


@dataclass(frozen=True)
class Overlaps:
    """Pairs of instances that share pixels.

    Args:
        predicted: (K,) int64 labels in the predicted map.
        true: (K,) int64 labels in the true map.
        iou: (K,) float64, above 0.
        n_predicted: Number of predicted instances with pixels.
        n_true: Number of true instances with pixels.
    """

    predicted: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]
    iou: npt.NDArray[np.float64]
    n_predicted: int
    n_true: int


@dataclass(frozen=True)
class MatchResult:
    """The matching of one image, or of several after :func:`pool_matches`.

    Args:
        predicted: (M,) int64 labels of the matched predicted instances.
        true: (M,) int64 labels of the matched true instances, in the same order.
        iou: (M,) float64, above 0.
        n_predicted: Number of predicted instances with pixels.
        n_true: Number of true instances with pixels.
    """

    predicted: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]
    iou: npt.NDArray[np.float64]
    n_predicted: int
    n_true: int

    @property
    def mean_matched_iou(self) -> float:
        """Sum of the matched IoUs / number of true instances; NaN without any."""
        return float(self.iou.sum()) / self.n_true if self.n_true else math.nan

    def f1_at(self, threshold: float = 0.5) -> float:
        """Give 2·TP / (predicted + true), TP the matches of at least this IoU; NaN where both are 0."""
        total = self.n_predicted + self.n_true
        return 2 * int((self.iou >= threshold).sum()) / total if total else math.nan

    def mean_iou_at(self, threshold: float = 0.5) -> float:
        """Give the mean IoU of the matches of at least this IoU; NaN without any."""
        good = self.iou[self.iou >= threshold]
        return float(good.mean()) if len(good) else math.nan


def matched_mean_iou(predicted: npt.NDArray[np.integer], true: npt.NDArray[np.integer]) -> MatchResult:
    """Match the instances of two label maps.

    An instance without pixels is in neither map and does not count: a head that is hidden altogether has no mask.

    Args:
        predicted: (H, W) integers, 0 for background.
        true: (H, W) integers, 0 for background, of the same image.

    Raises:
        ValueError: If the maps differ in shape or hold negative labels.
    """
    return match_overlaps(label_map_overlaps(predicted, true))


def label_map_overlaps(predicted: npt.NDArray[np.integer], true: npt.NDArray[np.integer]) -> Overlaps:
    """Find every pair of instances that shares pixels, with its IoU.

    Raises:
        ValueError: If the maps differ in shape or hold negative labels.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"label maps: expected one shape, got {predicted.shape} (predicted) and {true.shape} (true)")
    for name, label_map in (("predicted", predicted), ("true", true)):
        if label_map.size and int(label_map.min()) < 0:
            raise ValueError(f"{name}: expected labels of at least 0, got {int(label_map.min())}")
    flat_p, flat_t = predicted.reshape(-1), true.reshape(-1)
    area_p, area_t = np.bincount(flat_p, minlength=1), np.bincount(flat_t, minlength=1)
    # Runs of equal pairs stand for their pixels: some twenty times fewer to sum up.
    changes = np.flatnonzero((flat_p[1:] != flat_p[:-1]) | (flat_t[1:] != flat_t[:-1])) + 1
    starts = np.concatenate([np.zeros(min(1, flat_p.size), dtype=np.intp), changes])
    lengths = np.diff(np.append(starts, flat_p.size))
    run_p, run_t = flat_p[starts], flat_t[starts]
    both = (run_p > 0) & (run_t > 0)
    shared = sparse.coo_array(
        (lengths[both].astype(np.int64), (run_p[both].astype(np.int64), run_t[both].astype(np.int64))),
        shape=(len(area_p), len(area_t)),
    ).tocsr()
    shared.sum_duplicates()
    shared = shared.tocoo()
    row, column = shared.row.astype(np.int64), shared.col.astype(np.int64)
    return Overlaps(
        predicted=row,
        true=column,
        iou=shared.data / (area_p[row] + area_t[column] - shared.data),
        n_predicted=int(np.count_nonzero(area_p[1:])),
        n_true=int(np.count_nonzero(area_t[1:])),
    )


def match_overlaps(overlaps: Overlaps) -> MatchResult:
    """Choose the one-to-one matching of greatest summed IoU among pairs that overlap.

    The result has the sum that the Hungarian algorithm reaches on the full matrix of 1 − IoU: pairs without overlap add
    nothing to it.
    """
    labels_p, row = np.unique(overlaps.predicted, return_inverse=True)
    labels_t, column = np.unique(overlaps.true, return_inverse=True)
    n, m = len(labels_p), len(labels_t)
    if n == 0:
        chosen = np.zeros(0, dtype=np.intp)
    else:
        # Every predicted instance gets a private stand-in column of cost 2, "unmatched"; a match costs 2 − IoU.
        # Costs stay above 0, since an explicit zero is no edge to the solver.
        rows = np.concatenate([row, np.arange(n)])
        columns = np.concatenate([column, m + np.arange(n)])
        costs = np.concatenate([2.0 - overlaps.iou, np.full(n, 2.0)])
        graph = sparse.coo_array((costs, (rows, columns)), shape=(n, m + n)).tocsr()
        picked_row, picked_column = min_weight_full_bipartite_matching(sparse.csr_matrix(graph))
        real = picked_column < m
        pairs = np.stack([row, column], axis=1) @ np.array([m, 1])
        order = np.argsort(pairs)
        wanted = np.sort(picked_row[real].astype(np.int64) * m + picked_column[real])
        chosen = order[np.searchsorted(pairs, wanted, sorter=order)]
    return MatchResult(
        predicted=overlaps.predicted[chosen],
        true=overlaps.true[chosen],
        iou=overlaps.iou[chosen],
        n_predicted=overlaps.n_predicted,
        n_true=overlaps.n_true,
    )


def pool_matches(results: Sequence[MatchResult]) -> MatchResult:
    """Put the matchings of several images together, so that the figures are over all instances, not over images."""
    return MatchResult(
        predicted=np.concatenate([np.zeros(0, dtype=np.int64), *(result.predicted for result in results)]),
        true=np.concatenate([np.zeros(0, dtype=np.int64), *(result.true for result in results)]),
        iou=np.concatenate([np.zeros(0), *(result.iou for result in results)]),
        n_predicted=sum(result.n_predicted for result in results),
        n_true=sum(result.n_true for result in results),
    )
