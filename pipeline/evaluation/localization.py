"""How well predicted points sit on true ones: precision, recall and F1 of the largest one-to-one matching."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree


@dataclass(frozen=True)
class LocalizationCounts:
    """Matched points of one image, or of several after adding.

    Args:
        n_matched: Number of matched pairs.
        n_predicted: Number of predicted points.
        n_true: Number of true points.
    """

    n_matched: int
    n_predicted: int
    n_true: int

    def __add__(self, other: "LocalizationCounts") -> "LocalizationCounts":
        """Pool two images."""
        return LocalizationCounts(
            self.n_matched + other.n_matched, self.n_predicted + other.n_predicted, self.n_true + other.n_true
        )

    @property
    def precision(self) -> float:
        """Matched / predicted; NaN without predictions."""
        return self.n_matched / self.n_predicted if self.n_predicted else math.nan

    @property
    def recall(self) -> float:
        """Matched / true; NaN without true points."""
        return self.n_matched / self.n_true if self.n_true else math.nan

    @property
    def f1(self) -> float:
        """Give 2 · matched / (predicted + true); NaN where both are 0."""
        total = self.n_predicted + self.n_true
        return 2 * self.n_matched / total if total else math.nan


def match_points(
    predicted_xy: npt.NDArray[np.float64],
    true_xy: npt.NDArray[np.float64],
    *,
    reach_px: float | npt.NDArray[np.float64],
    box_wh_px: npt.NDArray[np.float64] | None = None,
) -> LocalizationCounts:
    """Match as many points as possible, one to one, each within reach (XMask, section 7).

    Args:
        predicted_xy: (P, 2), image pixels.
        true_xy: (T, 2), image pixels.
        reach_px: Greatest distance of a pair, image pixels: one for all, or (T,) one for each true point.
        box_wh_px: (T, 2) width and height of the box centred at each true point, image pixels. Where both are above 0
            the predicted point must lie in the box or on its border, whatever the reach; NaN or 0 means no box.

    Raises:
        ValueError: If there is neither one reach nor one for each true point, or not one box for each.
    """
    n_predicted, n_true = len(predicted_xy), len(true_xy)
    reach = np.asarray(reach_px, dtype=np.float64)
    if reach.ndim and reach.shape != (n_true,):
        raise ValueError(
            f"reach_px: expected a number or one for each of {n_true} true points, got shape {reach.shape}"
        )
    if box_wh_px is not None and box_wh_px.shape != (n_true, 2):
        raise ValueError(f"box_wh_px: expected shape ({n_true}, 2), got {box_wh_px.shape}")
    if n_predicted == 0 or n_true == 0:
        return LocalizationCounts(0, n_predicted, n_true)
    reach = np.broadcast_to(reach, n_true)
    boxed: npt.NDArray[np.bool_] = np.zeros(n_true, dtype=np.bool_)
    if box_wh_px is not None:
        boxed = np.all(box_wh_px > 0, axis=1)
        to_corner = np.nextafter(np.hypot(box_wh_px[:, 0], box_wh_px[:, 1]) / 2, np.inf)
        reach = np.where(boxed, to_corner, reach)
    near = KDTree(predicted_xy).query_ball_point(true_xy, reach)
    degree = np.array([len(each) for each in near])
    columns = np.concatenate([np.asarray(each, dtype=np.int64) for each in near])
    rows = np.repeat(np.arange(n_true), degree)
    if box_wh_px is not None:
        beside = 2 * np.abs(predicted_xy[columns] - true_xy[rows]) > box_wh_px[rows]
        inside = ~(boxed[rows] & beside.any(axis=1))
        rows, columns = rows[inside], columns[inside]
    graph = sparse.csr_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(n_true, n_predicted))
    matched = maximum_bipartite_matching(graph, perm_type="column")
    return LocalizationCounts(int((matched >= 0).sum()), n_predicted, n_true)
