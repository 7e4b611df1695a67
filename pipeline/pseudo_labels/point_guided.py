"""Masks for class-labelled points, from SOLOv2's best pyramid level at each point (PointWSSIS, CVPR 2023, section 3).

On every level the point's cell gives a kernel, and the kernel a mask; s = σ(logit of the known class) · maskness, and
the level of the largest s is taken. No point-NMS, no size prior, no threshold on the score.

What follows is this project's own: points are independent, each keeps its row, and a row whose mask is not to be
trusted says why. Statuses, the first that holds:

- ``empty``: no pixel above ½, or a point outside the image, for which nothing is looked up;
- ``small``: no more pixels than ``min_area`` of the level, the limit below which SOLOv2 drops detections;
- ``collision``: another point chose the same level and cell, thus has the same mask, and a better claim: the higher s,
  of equal ones the point inside the mask, then the nearer to the cell's centre, then the earlier;
- ``duplicate``: another row's mask is nearly the same (IoU above ``duplicate_iou``, whatever its class) at a higher s,
  of equal ones the earlier row;
- ``ok``.

With ``published`` the rows are those of the public code: a cell of a level belongs to the last point in it, the others
cannot choose that level (``collision`` where none is left), and duplicates are what greedy mask NMS drops within a
class. There, points that are lost so become background for the student; training that wants this must do it itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.geometry.grid_cells import grid_cells
from pipeline.losses.solo import RangesPx, levels_of_sizes
from pipeline.masks.instances import Instances
from pipeline.masks.soft import soft_masks_to_instances
from pipeline.models.matrix_nms import GREEDY_IOU, greedy_mask_nms, mask_iou
from pipeline.models.solo_inference import (
    MASK_PROB,
    VisibleFeatures,
    mask_probabilities,
    mask_shapes,
    masks_above,
    visible_features,
)
from pipeline.models.solov2 import LEVEL_STRIDES, MASK_STRIDE, SoloOutput

ALGORITHM = "point_guided"
ALGORITHM_VERSION = 2
"""Bump by hand when the same inputs give other masks."""

Choose = Literal["best", "random", "size_oracle"]

DUPLICATE_IOU = 0.75
_CHUNK_ROWS = 1024
"""Rows whose masks are compared or given at a time; it changes no result."""


@dataclass(frozen=True)
class PointGuided:
    """What the network says of each point of one image, one row per point, in the order given.

    Args:
        class_id: (N,) int64, as given.
        level: (N,) int64, the chosen level; -1 where there is none: for points outside the image, and where
            ``published`` has left none.
        cell_xy: (N, 2) int64, column and row of the point's cell on that level.
        class_score: (N,) float, σ of the known class's logit in that cell.
        class_probs: (N, C) float, σ of all its logits.
        maskness: (N,) float, mean probability over the pixels of the mask; 0 for an empty one.
        area: (N,) int64, pixels of the mask, of the mask features' size (4×4 px of the input each).
        level_scores: (N, L) float, s of every level.
        holds_point: (N,) bool, whether the mask covers its point.
        status: (N,) str.
        kernels: (N, E) float, of the chosen cells.
        features: Mask features of the image; see :meth:`masks_prob`.
    """

    class_id: Tensor
    level: Tensor
    cell_xy: Tensor
    class_score: Tensor
    class_probs: Tensor
    maskness: Tensor
    area: Tensor
    level_scores: Tensor
    holds_point: Tensor
    status: npt.NDArray[np.str_]
    kernels: Tensor
    features: VisibleFeatures

    def __len__(self) -> int:
        """Give the number of points."""
        return len(self.class_id)

    @property
    def score(self) -> Tensor:
        """(N,) float, s: class_score · maskness."""
        return self.class_score * self.maskness

    def masks_prob(self, rows: slice | Tensor = slice(None)) -> Tensor:
        """Draw the soft masks of some rows: (n, H/4, W/4) float, 0 in the padding and where there is no level."""
        drawn = mask_probabilities(self.kernels[rows], self.features)
        return drawn * (self.level[rows] >= 0)[:, None, None]

    def chunks(self) -> Iterator[Tensor]:
        """Draw the soft masks of all rows, some at a time."""
        for first in range(0, len(self), _CHUNK_ROWS):
            yield self.masks_prob(slice(first, first + _CHUNK_ROWS))


@torch.no_grad()
def point_guided(
    output: SoloOutput,
    points_xy: npt.NDArray[np.float64] | Tensor,
    class_id: npt.NDArray[np.int64] | Tensor,
    *,
    size_hw: tuple[int, int],
    padded_hw: tuple[int, int],
    choose: Choose = "best",
    generator: torch.Generator | None = None,
    sizes_px: npt.NDArray[np.float64] | Tensor | None = None,
    ranges_px: RangesPx | None = None,
    min_area: tuple[int, ...] = LEVEL_STRIDES,
    duplicate_iou: float = DUPLICATE_IOU,
    published: bool = False,
) -> PointGuided:
    """Look up the mask of every point of one image, all points and levels in one pass.

    The masks of all distinct cells are measured in chunks; then those of the chosen cells are held, one byte for each
    pixel of the mask features.

    Args:
        output: The network's, of a batch of one.
        points_xy: (N, 2), pixels of the network's input, see :func:`scale_points`.
        class_id: (N,) int, below the network's number of classes.
        size_hw: Size of the image in the network's input, pixels; the rest is padding.
        padded_hw: Size of the network's input.
        choose: ``best`` takes the level of the largest s; ``random`` any; ``size_oracle`` the best among the levels
            whose range holds the object's true size, to compare with.
        generator: For ``random``, on the CPU.
        sizes_px: For ``size_oracle``: (N,) √(box area), pixels of the network's input.
        ranges_px: For ``size_oracle``: least and greatest size of each level, as the network was trained.
        min_area: Per level, see ``small`` above; as in :class:`~pipeline.models.solo_inference.DetectOptions`.
        duplicate_iou: See ``duplicate`` above; without effect on ``published``, which has 0.5.
        published: Treat colliding points as the public code does, see above.

    Raises:
        PipelineError: If a class is not one of the network's.
        ValueError: If sizes do not fit together, or a choice lacks its arguments.
    """
    device = output.mask_features.device
    points = torch.as_tensor(points_xy, dtype=torch.float64).reshape(-1, 2).to(device)
    classes = torch.as_tensor(class_id).long().to(device)
    _check_inputs(output, points, classes, padded_hw)
    features = visible_features(output.mask_features[0], size_hw)
    cells = grid_cells(points, padded_hw=padded_hw, grids=output.grids)
    views = _look_at_cells(output, cells, classes, features)

    allowed = _last_in_cell(views.cell, len(views.kernels)) if published else torch.ones_like(views.score).bool()
    limits = torch.tensor([size_hw[1], size_hw[0]], device=device) - 0.5
    outside = ((points < -0.5) | (points >= limits)).any(dim=1)
    allowed &= ~outside[:, None]
    preference = _preference(views.score, choose, generator, sizes_px, ranges_px)
    preference = preference.masked_fill(~allowed, -torch.inf)
    level = preference.argmax(dim=1) if len(points) else classes
    row = torch.arange(len(points), device=device)
    chosen = views.cell[row, level]
    holds = _holds(points, views.kernels[chosen], features)
    lost = ~allowed.any(dim=1)
    result = PointGuided(
        class_id=classes, level=level.masked_fill(lost, -1), cell_xy=cells[row, level],
        class_score=views.class_score[row, level], class_probs=views.class_probs[chosen],
        maskness=views.maskness[chosen].masked_fill(lost, 0.0), area=views.area[chosen].masked_fill(lost, 0),
        level_scores=views.score, holds_point=holds & ~lost, status=np.full(len(points), "ok", dtype="<U9"),
        kernels=views.kernels[chosen], features=features,
    )  # fmt: skip

    least = torch.tensor(min_area, device=device)[level]
    empty = (result.area == 0) & ~lost
    small = (result.area <= least) & ~empty & ~lost
    usable = ~(empty | small | lost)
    empty |= outside
    collision = lost & ~outside
    if not published:
        collision |= _yields_its_cell(result, points, padded_hw, output.grids, chosen, usable)
    duplicate = _is_duplicate(result, usable & ~collision, None if published else duplicate_iou)
    for name, rows in (("duplicate", duplicate), ("collision", collision), ("small", small), ("empty", empty)):
        result.status[rows.cpu().numpy()] = name
    return result


def _check_inputs(output: SoloOutput, points: Tensor, classes: Tensor, padded_hw: tuple[int, int]) -> None:
    expected = (1, padded_hw[0] // MASK_STRIDE, padded_hw[1] // MASK_STRIDE)
    found = (output.mask_features.shape[0], *output.mask_features.shape[2:])
    if found != expected:
        raise ValueError(
            f"output: expected {expected} images, rows and columns as padded_hw is {padded_hw}, got {found}"
        )
    if len(points) != len(classes):
        raise ValueError(f"class_id: expected {len(points)} values, one for each point, got {len(classes)}")
    unknown = torch.unique(classes[(classes < 0) | (classes >= output.n_classes)]).tolist()
    if unknown:
        raise PipelineError(
            f"points.parquet: has class_id {', '.join(map(str, unknown[:5]))}, but the network knows 0 to "
            f"{output.n_classes - 1}; train the teacher on a data set with the same classes"
        )


class _Views(NamedTuple):
    """What the levels say, per point and level (N, L), and per distinct cell (U, …); ``cell`` numbers the latter.

    Equal cells are looked at once: at coarse levels many points share one.
    """

    cell: Tensor
    score: Tensor
    class_score: Tensor
    kernels: Tensor
    class_probs: Tensor
    area: Tensor
    maskness: Tensor


def _look_at_cells(output: SoloOutput, cells_xy: Tensor, classes: Tensor, features: VisibleFeatures) -> _Views:
    sides = torch.tensor(output.grids, device=cells_xy.device)
    start = torch.cumsum(sides.square(), 0) - sides.square()
    spot, cell = torch.unique(start + cells_xy[..., 1] * sides + cells_xy[..., 0], return_inverse=True)
    kernels = torch.cat([level[0].flatten(1) for level in output.kernels], dim=1).T[spot].to(features.features)
    logits = torch.cat([level[0].flatten(1) for level in output.class_logits], dim=1).T[spot]
    probs = torch.sigmoid(logits.to(features.features))
    shapes = mask_shapes(kernels, features)
    class_score = probs[cell, classes[:, None]]
    score = class_score * shapes.maskness[cell]
    return _Views(cell, score, class_score, kernels, probs, shapes.area, shapes.maskness)


def _preference(
    score: Tensor, choose: Choose, generator: torch.Generator | None, sizes_px: Any, ranges_px: Any
) -> Tensor:
    """Give (N, L) numbers of which the largest is to be chosen."""
    if choose == "best":
        return score
    if choose == "random":
        if generator is None:
            raise ValueError("generator: expected one, as choose is random")
        return torch.rand(score.shape, generator=generator).to(score)
    if choose != "size_oracle":
        raise ValueError(f"choose: expected best, random or size_oracle, got {choose!r}")
    if sizes_px is None or ranges_px is None:
        raise ValueError("sizes_px, ranges_px: expected both, as choose is size_oracle")
    sizes = torch.as_tensor(sizes_px, dtype=torch.float64).to(score.device)
    if sizes.shape != score.shape[:1] or len(ranges_px) != score.shape[1]:
        raise ValueError(
            f"sizes_px, ranges_px: expected {len(score)} sizes and {score.shape[1]} ranges, got {len(sizes)} and "
            f"{len(ranges_px)}"
        )
    return score.masked_fill(~levels_of_sizes(sizes, ranges_px), -1.0)


def _last_in_cell(cell: Tensor, n_cells: int) -> Tensor:
    """(N, L) bool: whether a point is the last of those in its cell; cells are numbered over all levels."""
    row = torch.arange(len(cell), device=cell.device)[:, None].expand_as(cell)
    last = cell.new_full((n_cells,), -1).scatter_reduce(0, cell.flatten(), row.flatten(), "amax")
    return last[cell] == row


def _holds(points: Tensor, kernels: Tensor, features: VisibleFeatures) -> Tensor:
    """Whether the mask of each kernel covers its point, read at the nearest pixel of the mask features."""
    height, width = features.visible.shape
    x, y = ((points + 0.5) / MASK_STRIDE).floor().long().unbind(dim=1)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    logit = (kernels * features.features[:, y, x].T).sum(dim=1)
    return (torch.sigmoid(logit) > MASK_PROB) & features.visible[y, x]


def _yields_its_cell(
    found: PointGuided,
    points: Tensor,
    padded_hw: tuple[int, int],
    grids: tuple[int, ...],
    chosen: Tensor,
    usable: Tensor,
) -> Tensor:
    """Mark the rows whose level and cell another row has a better claim to."""
    sides = torch.tensor(grids, device=points.device)[found.level]
    share = (points + 0.5) / points.new_tensor([padded_hw[1], padded_hw[0]])
    off_center = (share * sides[:, None] - found.cell_xy - 0.5).square().sum(dim=1)
    keys = (off_center, ~found.holds_point, -found.score)
    order = np.lexsort([key.cpu().numpy() for key in keys])
    ranked = torch.from_numpy(order).to(points.device)
    rank = torch.empty_like(ranked)
    rank[ranked] = torch.arange(len(ranked), device=ranked.device)
    last = len(rank)
    first = rank.new_full((int(chosen.max()) + 1 if last else 0,), last).scatter_reduce(0, chosen, rank, "amin")
    return (rank > first[chosen]) & usable


def _is_duplicate(found: PointGuided, rows: Tensor, max_iou: float | None) -> Tensor:
    """Mark, among some rows, those whose mask a row of a higher score has; greedy within classes for None."""
    duplicate = torch.zeros_like(rows)
    index = torch.nonzero(rows).flatten()
    index = index[torch.argsort(found.score[index], descending=True, stable=True)]
    if not len(index):
        return duplicate
    masks = masks_above(found.kernels[index], found.features)
    if max_iou is None:
        keep = greedy_mask_nms(masks, found.class_id[index], found.score[index], max_iou=GREEDY_IOU)
        duplicate[index[~keep]] = True
        return duplicate
    for first in range(0, len(index), _CHUNK_ROWS):
        end = min(first + _CHUNK_ROWS, len(index))
        same = (mask_iou(masks[first:end], masks[:end]) > max_iou).tril_(diagonal=first - 1)
        duplicate[index[first:end][same.any(dim=1)]] = True
    return duplicate


def scale_points(
    points_xy: npt.NDArray[np.float64], *, from_hw: tuple[int, int], to_hw: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Bring points of an image to its resized form; pixel centres are at whole numbers in both."""
    factor = np.array([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]])
    scaled: npt.NDArray[np.float64] = (np.asarray(points_xy, dtype=np.float64) + 0.5) * factor - 0.5
    return scaled


def guided_instances(
    found: PointGuided,
    *,
    size_hw: tuple[int, int],
    image_hw: tuple[int, int],
    point_id: npt.ArrayLike,
    points_xy: npt.NDArray[np.float64],
    radius_px: npt.ArrayLike | None = None,
    keep_prob: bool = False,
    round: int = 0,  # noqa: A002 - the column's name
) -> Instances:
    """Turn the lookup of one image into rows of a mask store, one for each point, masks at the size of the image.

    Rows that are not ok keep their mask, so that it can be ignored where it lies. A mask that has no pixel left at the
    size of the image is ``empty``.

    Args:
        found: Of :func:`point_guided`.
        size_hw: Size of the image in the network's input, as there.
        image_hw: Size of the image itself.
        point_id: (N,), the points' rows in points.parquet.
        points_xy: (N, 2), pixels of the image.
        radius_px: (N,), pixels of the image; NaN when None.
        keep_prob: Give ``prob_q8`` and ``class_probs`` too.
        round: Which round of self-training.
    """
    n = len(found)
    rows = soft_masks_to_instances(
        found.chunks(), size_hw=size_hw, image_hw=image_hw, keep_prob=keep_prob,
        point_id=point_id, points_xy=points_xy, radius_px=np.full(n, np.nan) if radius_px is None else radius_px,
        class_id=found.class_id.cpu().numpy(), score=found.score.cpu().numpy(),
        class_score=found.class_score.cpu().numpy(), mask_quality=found.maskness.cpu().numpy(),
        class_probs=found.class_probs.cpu().numpy() if keep_prob else None,
        source=[ALGORITHM] * n, status=list(found.status), round=round,
    )  # fmt: skip
    vanished = (rows.area_px == 0) & (rows.status != "collision")
    return replace(rows, status=np.where(vanished, "empty", rows.status))
