"""Pseudo masks from energy (arXiv 2603.16241, section 3): a candidate's circle, cut down to what resembles it."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.geometry.circles import circle_pixels
from pipeline.geometry.nnec import nnec_radii
from pipeline.masks.instances import Instances
from pipeline.models.crowd_net import STRIDE, Suppress, count_points
from pipeline.models.embedding import pixel_rows, sample_bilinear, smooth_embedding
from pipeline.pseudo_labels.soft_energy import EnergyBand, SoftEnergy

ALGORITHM = "energy"
ALGORITHM_VERSION = 1
"""Bump by hand when the same inputs give other masks."""

_BAND_PIXELS = 2**18
"""Pixels of the image that are upsampled at a time; does not change results."""


@dataclass(frozen=True)
class EnergyOptions:
    """How pseudo masks are drawn. The defaults are the paper's for training; see :data:`EVALUATION_ENERGY`.

    Args:
        tau: A pixel belongs to the mask if its energy is below this (no unit; embedding distance plus geometry).
        lambda_geo: Weight of (distance / radius)² in the energy.
        blur_sigma: Gaussian blur of the upsampled embedding, image pixels; the kernel is 7×7 at every sigma.
        candidate_prob: Cells with at least this probability are candidates.
        confident_prob: Candidates above this probability are confident; the others' masks are ``ambiguous``.
        suppress: ``local_max_3x3`` keeps the peaks among neighbouring cells; ``none`` is the reference.
        density_gate: Candidates of probability at most ``gate_prob`` take their whole circle (the paper's last phase).
        gate_prob: See ``density_gate``.
        min_radius_px: Least radius of a circle, image pixels.
        max_radius_frac: Greatest radius, share of the image's shorter side.
        alone_radius_frac: Radius of the only candidate of an image, share of the shorter side.
    """

    tau: float = 0.8
    lambda_geo: float = 0.6
    blur_sigma: float = 1.5
    candidate_prob: float = 0.1
    confident_prob: float = 0.9
    suppress: Suppress = "local_max_3x3"
    density_gate: bool = False
    gate_prob: float = 0.5
    min_radius_px: float = 3.0
    max_radius_frac: float = 0.5
    alone_radius_frac: float = 0.25

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("tau", "blur_sigma", "min_radius_px", "max_radius_frac", "alone_radius_frac"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a number above 0, got {getattr(self, name)}")
        if self.lambda_geo < 0:
            raise ValueError(f"lambda_geo: expected a number of at least 0, got {self.lambda_geo}")
        for name in ("candidate_prob", "confident_prob", "gate_prob"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: expected a probability in [0, 1], got {getattr(self, name)}")
        if self.candidate_prob > self.confident_prob:
            raise ValueError(
                f"candidate_prob: expected at most confident_prob = {self.confident_prob}, got {self.candidate_prob}"
            )
        if self.suppress not in ("local_max_3x3", "none"):
            raise ValueError(f"suppress: expected local_max_3x3 or none, got {self.suppress!r}")


TRAINING_ENERGY = EnergyOptions()
"""The paper's values for training; ShanghaiTech A at 40 % labels takes tau 0.95 and lambda_geo 0.4."""
EVALUATION_ENERGY = EnergyOptions(tau=1.1, lambda_geo=0.8, blur_sigma=3.0)
"""The paper's values for evaluation."""


@dataclass(frozen=True)
class Candidates:
    """Possible heads of one image, in (y, x) order.

    Args:
        points_xy: (N, 2) float64, image pixels.
        prob: (N,) float64.
        radius_px: (N,) float64, exclusion radius among the candidates.
        confident: (N,) bool.
    """

    points_xy: npt.NDArray[np.float64]
    prob: npt.NDArray[np.float64]
    radius_px: npt.NDArray[np.float64]
    confident: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Hold the columns to one length."""
        assert self.points_xy.shape == (len(self.prob), 2)
        assert len(self.prob) == len(self.radius_px) == len(self.confident)

    def __len__(self) -> int:
        """Give the number of candidates."""
        return len(self.prob)


def candidates(
    logits: Tensor,
    *,
    options: EnergyOptions = TRAINING_ENERGY,
    size_hw: tuple[int, int] | None = None,
    stride: int = STRIDE,
) -> Candidates:
    """Read the candidates off a logit map.

    Args:
        logits: (h, w), the teacher's.
        options: Probabilities, suppression and bounds of the radii.
        size_hw: Size of the image when it is smaller than the map, which padding makes; cells beyond it are left out.
        stride: Image pixels per cell.
    """
    size_hw = size_hw or (stride * logits.shape[-2], stride * logits.shape[-1])
    points = count_points(logits, -math.inf, suppress=options.suppress, stride=stride)
    limit = np.array([size_hw[1], size_hw[0]]) - 0.5
    keep = (points.prob >= options.candidate_prob) & (points.points_xy < limit).all(axis=1)
    points_xy, prob = points.points_xy[keep], points.prob[keep]
    return Candidates(points_xy, prob, _candidate_radii(points_xy, size_hw, options), prob > options.confident_prob)


def _candidate_radii(
    points_xy: npt.NDArray[np.float64], size_hw: tuple[int, int], options: EnergyOptions
) -> npt.NDArray[np.float64]:
    """Exclusion radii with their own value for a point alone in its image."""
    nearest = nnec_radii(
        points_xy, size_hw=size_hw, min_radius_px=options.min_radius_px, max_radius_frac=options.max_radius_frac
    )
    alone_px = max(options.alone_radius_frac * min(size_hw), options.min_radius_px)
    return np.where(nearest.neighbor_id < 0, alone_px, nearest.radius_px)


@torch.no_grad()
def energy_label_map(
    embedding: Tensor,
    points_xy: npt.NDArray[np.float64] | Tensor,
    *,
    stride: int = STRIDE,
    size_hw: tuple[int, int] | None = None,
    radii_px: npt.NDArray[np.float64] | Tensor | None = None,
    whole_disc: npt.NDArray[np.bool_] | Tensor | None = None,
    tau: float = TRAINING_ENERGY.tau,
    lambda_geo: float = TRAINING_ENERGY.lambda_geo,
    blur_sigma: float = TRAINING_ENERGY.blur_sigma,
    soft: SoftEnergy | None = None,
) -> Tensor:
    """Draw the energy mask of every point; a contested pixel goes to the least energy.

    E_c(x) = ‖ẽ(x) − ẽ(c)‖₂ + lambda_geo·(‖x − c‖ / r_c)² for x in the circle of c; the mask is where E_c < tau. Equal
    energies go to the point smallest in (y, x), so the map does not depend on the order of the points. Memory follows
    a band of rows, not the image and not the number of points.

    Args:
        embedding: (C, h, w).
        points_xy: (N, 2), image pixels.
        stride: Image pixels per cell.
        size_hw: Size of the map to draw, at most (stride·h, stride·w), which is the default.
        radii_px: (N,) circle of each point; exclusion radii as for candidates when None.
        whole_disc: (N,) bool, points that take their whole circle (density gate).
        tau: Energy limit.
        lambda_geo: Weight of the geometric part.
        blur_sigma: Blur of the upsampled embedding, image pixels.
        soft: Is told the energies, if given.

    Returns:
        (H, W) int32 on the embedding's device: k + 1 where point k owns the pixel, 0 elsewhere.
    """
    fine_hw = (stride * embedding.shape[-2], stride * embedding.shape[-1])
    height, width = size_hw or fine_hw
    if height > fine_hw[0] or width > fine_hw[1]:
        raise ValueError(f"size_hw: expected at most {fine_hw}, the embedding's size × stride, got {(height, width)}")
    centers = torch.as_tensor(points_xy, dtype=torch.float64).cpu().reshape(-1, 2)
    if radii_px is None:
        radii_px = _candidate_radii(centers.numpy(), (height, width), TRAINING_ENERGY)
    radii = torch.as_tensor(radii_px, dtype=torch.float64).cpu()
    limit = torch.full_like(radii, tau)
    if whole_disc is not None:
        limit[torch.as_tensor(whole_disc, dtype=torch.bool).cpu()] = math.inf
    circles = _Circles(*(column.to(embedding.device) for column in _in_canonical_order(centers, radii, limit)))

    band_rows = max(_BAND_PIXELS // max(fine_hw[1], 1), 1)
    bands = [(top, min(top + band_rows, height)) for top in range(0, height, band_rows)]
    label_map = torch.zeros(height, width, dtype=torch.int32, device=embedding.device)
    if not len(circles.rank) or not bands:
        return label_map

    def field_rows(top: int, end: int) -> Tensor:
        field = smooth_embedding(embedding[None], size_hw=fine_hw, blur_sigma=blur_sigma, rows=(top, end))
        return field[..., :width]

    # A circle reaches over several bands, so all centres are read before any band is drawn.
    center_row = circles.centers_xy[:, 1].floor().clamp(0, height - 1)
    features = torch.zeros(len(circles.rank), len(embedding), device=embedding.device, dtype=_at_least_float(embedding))
    for top, end in bands:
        here = torch.nonzero((center_row >= top) & (center_row < end)).flatten()
        if len(here):
            below = circles.centers_xy.new_tensor([0, top])
            last = min(end + 1, height)
            field = pixel_rows(field_rows(top, last))
            features[here] = sample_bilinear(field, circles.centers_xy[here] - below, size_hw=(last - top, width))
    for top, end in bands:
        y, reach = circles.centers_xy[:, 1], circles.radius_px + 1.0
        here = torch.nonzero((y + reach >= top) & (y - reach < end)).flatten()
        if len(here):
            band = _Circles(*(column[here] for column in circles))
            label_map[top:end] = _draw_band(field_rows(top, end), features[here], band, top, lambda_geo, soft)
    return label_map


class _Circles(NamedTuple):
    """Circles in canonical order: row in the caller's order, centre, radius, energy limit."""

    rank: Tensor
    centers_xy: Tensor
    radius_px: Tensor
    limit: Tensor


def _in_canonical_order(centers_xy: Tensor, radius_px: Tensor, limit: Tensor) -> _Circles:
    """Sort by (y, x), then radius, limit and row; of identical circles only the first could ever win a pixel."""
    columns = np.stack([centers_xy[:, 1].numpy(), centers_xy[:, 0].numpy(), radius_px.numpy(), limit.numpy()])
    order = np.lexsort(columns[::-1])
    differs = np.ones(len(order), dtype=bool)
    differs[1:] = (columns[:, order[1:]] != columns[:, order[:-1]]).any(axis=0)
    rank = torch.from_numpy(order[differs])
    return _Circles(rank, centers_xy[rank], radius_px[rank], limit[rank])


def _draw_band(
    field: Tensor, features: Tensor, circles: _Circles, top: int, lambda_geo: float, soft: SoftEnergy | None
) -> Tensor:
    """Draw the rows of a label map that a (1, C, rows, W) field covers."""
    rows, width = field.shape[-2:]
    pairs = circle_pixels(circles.centers_xy, circles.radius_px, size_hw=(top + rows, width), rows=(top, top + rows))
    pixel = (pairs.y_px - top) * width + pairs.x_px
    difference = pixel_rows(field).index_select(0, pixel).sub_(features.index_select(0, pairs.circle))
    energy = torch.linalg.vector_norm(difference, dim=1).double()
    energy += lambda_geo * (pairs.squared_distance / circles.radius_px.square().index_select(0, pairs.circle))

    inside = torch.nonzero(energy < circles.limit.index_select(0, pairs.circle)).flatten()
    in_mask, circle, low = (values.index_select(0, inside) for values in (pixel, pairs.circle, energy))
    least = low.new_full((rows * width,), math.inf).scatter_reduce(0, in_mask, low, "amin")
    wins = torch.nonzero(low == least.index_select(0, in_mask)).flatten()
    winner, won = circle.index_select(0, wins), in_mask.index_select(0, wins)
    owner = circle.new_full((rows * width,), len(circles.rank)).scatter_reduce(0, won, winner, "amin")
    if soft is not None:
        soft.add(EnergyBand(top, circles.rank, circles.limit.isinf(), pixel, pairs.circle, energy, owner, least))
    labels = torch.cat([circles.rank + 1, circles.rank.new_zeros(1)])
    return labels.index_select(0, owner).view(rows, width).int()


def _at_least_float(embedding: Tensor) -> torch.dtype:
    return torch.float64 if embedding.dtype == torch.float64 else torch.float32


def energy_masks(
    logits: Tensor,
    embedding: Tensor,
    *,
    options: EnergyOptions = TRAINING_ENERGY,
    size_hw: tuple[int, int] | None = None,
    stride: int = STRIDE,
) -> tuple[Tensor, Candidates]:
    """Read the candidates of one image and draw their masks.

    Args:
        logits: (h, w), the teacher's.
        embedding: (C, h, w), the teacher's.
        options: See :class:`EnergyOptions`.
        size_hw: Size of the image, at most (stride·h, stride·w), which is the default.
        stride: Image pixels per cell.

    Returns:
        (H, W) int32 label map, value k + 1 for candidate k, and the candidates.
    """
    found = candidates(logits, options=options, size_hw=size_hw, stride=stride)
    return _draw(embedding, found, options, size_hw=size_hw, stride=stride), found


def _draw(
    embedding: Tensor,
    found: Candidates,
    options: EnergyOptions,
    *,
    size_hw: tuple[int, int] | None,
    stride: int,
    soft: SoftEnergy | None = None,
) -> Tensor:
    return energy_label_map(
        embedding,
        found.points_xy,
        stride=stride,
        size_hw=size_hw,
        radii_px=found.radius_px,
        whole_disc=found.prob <= options.gate_prob if options.density_gate else None,
        tau=options.tau,
        lambda_geo=options.lambda_geo,
        blur_sigma=options.blur_sigma,
        soft=soft,
    )


def energy_instances(
    logits: Tensor,
    embedding: Tensor,
    *,
    options: EnergyOptions = TRAINING_ENERGY,
    size_hw: tuple[int, int],
    stride: int = STRIDE,
    round: int = 0,  # noqa: A002 - the column's name
    keep_prob: bool = False,
) -> Instances:
    """Turn the teacher's view of one image into rows of a mask store, one for each candidate.

    A row's score is its probability, which is its class score, too; its status is ``empty`` when it owns no pixel,
    ``ambiguous`` when it is not confident, else ``ok``. For its mask quality and soft mask see
    :mod:`~pipeline.pseudo_labels.soft_energy`. For the arguments see :func:`energy_masks`; ``round`` counts the rounds
    of self-training, and ``keep_prob`` adds soft masks.
    """
    found = candidates(logits, options=options, size_hw=size_hw, stride=stride)
    soft = SoftEnergy(len(found), size_hw, tau=options.tau, keep_prob=keep_prob)
    labels = _draw(embedding, found, options, size_hw=size_hw, stride=stride, soft=soft).cpu().numpy()
    area_px = np.bincount(labels.ravel(), minlength=len(found) + 1)[1:]
    status = np.where(area_px > 0, np.where(found.confident, "ok", "ambiguous"), "empty")
    rows = Instances.from_label_map(
        labels,
        point_id=np.arange(len(found), dtype=np.int64),
        points_xy=found.points_xy,
        radius_px=found.radius_px,
        score=found.prob,
        class_score=found.prob,
        mask_quality=soft.mask_quality(area_px),
        source=[ALGORITHM] * len(found),
        status=[str(value) for value in status],
        round=round,
    )
    return replace(rows, prob_q8=soft.soft_masks(rows.boxes_xywh)) if keep_prob else rows
