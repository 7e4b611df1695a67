"""SOLOv2's targets and losses: which cell answers for which instance; 3·dice + focal (specs/pointwssis.md, §2)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.geometry.grid_cells import grid_cells
from pipeline.models.solov2 import MASK_STRIDE, SoloOutput

BACKGROUND = -1
IGNORED = -2
"""Cells that no loss looks at."""
CENTER_SCALE = 0.2
"""Share of the box, around the mass centre, whose cells are positive."""
DICE_WEIGHT = 3.0
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
DICE_SMOOTH = 0.002

RangesPx = tuple[tuple[float, float], ...]

TEACHER_RANGES_PX: RangesPx = ((1, 72), (72, 144), (144, 288), (288, 584), (584, 2048))
"""PointWSSIS's teacher: one level for each size, √(box area) in pixels of the network's input."""
STUDENT_RANGES_PX: RangesPx = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
"""PointWSSIS's student, and SOLOv2 as published: levels overlap."""


def disjoint_ranges(edges_px: Sequence[float]) -> RangesPx:
    """Make ranges that touch: (1, 72, 144) becomes ((1, 72), (72, 144))."""
    return tuple(itertools.pairwise(edges_px))


class SoloInstances(NamedTuple):
    """What is known of one image, on the pixels of the network's input.

    Args:
        masks: (N, H, W) bool; they may overlap. A mask without pixels gets no cell.
        class_id: (N,) int64.
        ignore: (H, W) bool, pixels of which nothing is known; None for none.
    """

    masks: Tensor
    class_id: Tensor
    ignore: Tensor | None = None


@dataclass(frozen=True)
class SoloTargets:
    """What the network should say of a batch.

    P is the number of positive cells, N that of all instances of the batch, image after image.

    Args:
        class_targets: Per level (B, S, S) int64: class_id, :data:`BACKGROUND` or :data:`IGNORED`.
        image: (P,) int64, image of each positive cell.
        level: (P,) int64.
        cell: (P,) int64, row · S + column.
        instance: (P,) int64, row of ``masks``.
        masks: (N, H/4, W/4) bool.
        ignore: (B, H/4, W/4) bool, pixels that no loss looks at.
        n_instances: Per image, how many rows of ``masks`` are its own.
        n_lost: Instances that have a mask but no cell, since smaller ones took theirs; a figure to log.
    """

    class_targets: list[Tensor]
    image: Tensor
    level: Tensor
    cell: Tensor
    instance: Tensor
    masks: Tensor
    ignore: Tensor
    n_instances: tuple[int, ...]
    n_lost: int

    @property
    def n_positive(self) -> int:
        """Number of positive cells, by which the losses are divided."""
        return len(self.cell)

    def to(self, device: torch.device | str) -> "SoloTargets":
        """Bring all tensors to a device."""
        tensors = {name: getattr(self, name).to(device) for name in ("image", "level", "cell", "instance", "masks")}
        levels = [level.to(device) for level in self.class_targets]
        return SoloTargets(
            class_targets=levels, **tensors, ignore=self.ignore.to(device), n_instances=self.n_instances,
            n_lost=self.n_lost,
        )  # fmt: skip


def solo_targets(
    images: Sequence[SoloInstances], *, grids: Sequence[int], ranges_px: RangesPx, size_hw: tuple[int, int]
) -> SoloTargets:
    """Choose the positive cells of a batch.

    An instance belongs to the levels with low ≤ √(box area) < high; sizes below the least low go to the levels of that
    low, sizes from the greatest high on to the levels of that high, so that no instance is background for its size. On
    a level it takes the cells that the 0.2-scaled box around its mass centre touches, at most 3×3 around the centre's.
    Where several instances want one cell, the one of smallest mask has it, of equal ones the first: a large instance
    has more cells to lose.

    A cell is ignored if it is not positive and any ignored pixel lies in it, on every level, since the size of what was
    not labelled is not known.

    Args:
        images: One for each image of the batch.
        grids: Cells along each side, per level.
        ranges_px: Least and greatest √(box area) of each level, pixels of the network's input.
        size_hw: Size of the network's input, the same for all images; multiples of 4.

    Raises:
        ValueError: If sizes do not fit together.
    """
    _check_inputs(images, grids, ranges_px, size_hw)
    masks = torch.cat([one.masks.bool() for one in images])
    class_id = torch.cat([one.class_id for one in images])
    nothing = masks.new_zeros(size_hw)
    hidden = torch.stack([nothing if one.ignore is None else one.ignore.bool() for one in images])
    counts = tuple(len(one.masks) for one in images)
    image_of = torch.repeat_interleave(torch.tensor(counts)).to(masks.device)

    area, center_xy, box_wh = _extents(masks)
    wanted = _wanted_cells(center_xy, box_wh, grids, size_hw)
    chosen = levels_of_sizes(box_wh.prod(dim=1).sqrt(), ranges_px) & (area > 0)[:, None]
    image, level, cell, instance = _smallest_first(wanted, chosen, area, image_of, len(images), grids)

    class_targets = []
    for k, grid in enumerate(grids):
        # Pooling windows hold every pixel that a cell touches; a grid need not divide the input.
        unknown = F.adaptive_max_pool2d(hidden[:, None].float(), grid)[:, 0] > 0
        targets = torch.where(unknown, IGNORED, BACKGROUND)
        here = level == k
        targets.view(len(images), -1)[image[here], cell[here]] = class_id[instance[here]]
        class_targets.append(targets)
    return SoloTargets(
        class_targets=class_targets, image=image, level=level, cell=cell, instance=instance,
        masks=shrink_masks(masks), ignore=F.max_pool2d(hidden[:, None].float(), MASK_STRIDE)[:, 0] > 0,
        n_instances=counts, n_lost=int((area > 0).sum()) - len(torch.unique(instance)),
    )  # fmt: skip


def _check_inputs(
    images: Sequence[SoloInstances], grids: Sequence[int], ranges_px: RangesPx, size_hw: tuple[int, int]
) -> None:
    if not images:
        raise ValueError("images: expected at least one")
    if len(grids) != len(ranges_px):
        raise ValueError(f"ranges_px: expected {len(grids)} ranges, one for each grid, got {len(ranges_px)}")
    if any(not low < high for low, high in ranges_px):
        raise ValueError(f"ranges_px: expected low < high in every range, got {ranges_px}")
    if size_hw[0] % MASK_STRIDE or size_hw[1] % MASK_STRIDE:
        raise ValueError(f"size_hw: expected multiples of {MASK_STRIDE}, got {size_hw}")
    for b, one in enumerate(images):
        if one.masks.shape != (len(one.class_id), *size_hw):
            expected = (len(one.class_id), *size_hw)
            raise ValueError(f"images: masks of image {b}: expected shape {expected}, got {tuple(one.masks.shape)}")
        if one.ignore is not None and one.ignore.shape != size_hw:
            raise ValueError(f"images: ignore of image {b}: expected {size_hw}, got {tuple(one.ignore.shape)}")


def shrink_masks(masks: Tensor) -> Tensor:
    """Bring (N, H, W) masks to quarter size: a pixel belongs to the mask if half of its 4×4 pixels do.

    A mask that fills no block by half keeps its fullest blocks, so that what has pixels has a target.
    """
    n, height, width = masks.shape
    blocks = (
        masks.bool().view(torch.uint8).view(n, height // MASK_STRIDE, MASK_STRIDE, width // MASK_STRIDE, MASK_STRIDE)
    )
    count = blocks.sum(dim=4, dtype=torch.uint8).sum(dim=2, dtype=torch.uint8)
    if not n:
        return count.bool()
    fullest = count.amax(dim=(1, 2), keepdim=True)
    return (count >= fullest.clamp(max=MASK_STRIDE**2 // 2)) & (count > 0)


def _wanted_cells(
    center_xy: Tensor, box_wh: Tensor, grids: Sequence[int], size_hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Cells that instances would take: (N, L, 9) row · S + column, and whether each of the nine is wanted."""
    reach = 0.5 * CENTER_SCALE * box_wh
    middle = grid_cells(center_xy, padded_hw=size_hw, grids=grids)
    low = grid_cells(center_xy - reach, padded_hw=size_hw, grids=grids)
    high = grid_cells(center_xy + reach, padded_hw=size_hw, grids=grids)
    around = torch.arange(-1, 2, device=center_xy.device)
    steps = torch.stack([around.repeat(3), around.repeat_interleave(3)], dim=1)
    cells = middle[:, :, None, :] + steps
    wanted = ((cells >= low[:, :, None, :]) & (cells <= high[:, :, None, :])).all(dim=-1)
    sides = torch.tensor(tuple(grids), device=center_xy.device)
    return cells[..., 1] * sides[:, None] + cells[..., 0], wanted


def _smallest_first(
    wanted: tuple[Tensor, Tensor], chosen: Tensor, area: Tensor, image_of: Tensor, n_images: int, grids: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give each wanted cell to the smallest of those who want it: image, level, cell and instance, in this order."""
    cells, takes = wanted
    n = len(area)
    order = torch.argsort(area, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(n, device=order.device)
    sides = torch.tensor(tuple(grids), device=order.device)
    start = torch.cumsum(sides.square(), 0) - sides.square()
    per_image = sum(grid * grid for grid in grids)
    row, level, slot = torch.nonzero(takes & chosen[:, :, None], as_tuple=True)
    spot = image_of[row] * per_image + start[level] + cells[row, level, slot]
    best = torch.full((n_images * per_image,), n, device=order.device).scatter_reduce(0, spot, rank[row], "amin")
    spot = torch.nonzero(best < n).flatten()
    image, within = spot // per_image, spot % per_image
    level = torch.searchsorted(start, within, right=True) - 1
    return image, level, within - start[level], order[best[spot]]


def _extents(masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Area (N,), mass centre (N, 2) and box width and height (N, 2) in pixels; zeros for an empty mask."""
    height, width = masks.shape[-2:]
    # Sums of four in bytes, before those in integers: four times as fast.
    n, block = len(masks), MASK_STRIDE
    pixels = masks.view(torch.uint8)
    fours = pixels.view(n, height // block, block, width).sum(dim=2, dtype=torch.uint8)
    per_column = fours.sum(dim=1, dtype=torch.int32).double()
    fours = pixels.view(n, height, width // block, block).sum(dim=3, dtype=torch.uint8)
    per_row = fours.sum(dim=2, dtype=torch.int32).double()
    area = per_column.sum(dim=1)
    center, extent = [], []
    for counts, side in ((per_column, width), (per_row, height)):
        place = torch.arange(side, device=masks.device, dtype=torch.float64)
        center.append(counts @ place / area.clamp(min=1))
        there = (counts > 0).double()
        first, last = (there * (side - place)).amax(dim=1), (there * (place + 1)).amax(dim=1)
        extent.append((last + first - side).clamp(min=0))
    return area, torch.stack(center, dim=1), torch.stack(extent, dim=1)


def levels_of_sizes(size_px: Tensor, ranges_px: RangesPx) -> Tensor:
    """(N, L) bool: the levels whose range holds each size; the least low and the greatest high are open ends."""
    low, high = torch.tensor(ranges_px, dtype=torch.float64, device=size_px.device).unbind(dim=1)
    low = low.where(low > low.min(), -torch.inf)
    high = high.where(high < high.max(), torch.inf)
    return (size_px[:, None] >= low) & (size_px[:, None] < high)


def solo_loss(
    output: SoloOutput,
    targets: SoloTargets,
    *,
    dice_weight: float = DICE_WEIGHT,
    instance_weights: Sequence[Tensor] | None = None,
    pixel_weights: Sequence[Tensor] | None = None,
    n_positive: Tensor | float | None = None,
    n_ranks: int = 1,
) -> dict[str, Tensor]:
    """Compute the loss of a batch.

    Args:
        output: The network's, with a gradient.
        targets: Of :func:`solo_targets`, on the same device.
        dice_weight: Factor of dice in the sum.
        instance_weights: Per image (N,), factor of the instance's dice and of its cells' focal loss; the divisors stay.
            Of weight 0, an instance is ignored.
        pixel_weights: Per image (H/4, W/4), or (N, H/4, W/4) for each instance its own; weights w of the dice,
            1 − 2Σwpt / (Σwp² + Σwt² + 0.002).
        n_positive: Positive cells that the sums are divided by; this batch's own when None. Under DDP the sum of all
            ranks, with ``n_ranks``, makes the mean of the gradients that of one large batch.
        n_ranks: See ``n_positive``.

    Returns:
        ``loss`` = dice_weight · dice + focal; ``dice``, mean over positive cells; ``focal``, summed / (N_pos + 1).
        Scalars of at least float32.
    """
    count = torch.as_tensor(targets.n_positive if n_positive is None else n_positive).to(output.mask_features)
    count = count.float() if count.dtype in (torch.float16, torch.bfloat16) else count
    weights = None if instance_weights is None else torch.cat(list(instance_weights)).to(count)[targets.instance]
    dice = _dice_sum(output, targets, weights, pixel_weights) / (count.clamp(min=1) / n_ranks)
    focal = _focal_sum(output, targets, weights) / ((count + 1) / n_ranks)
    return {"loss": dice_weight * dice + focal, "dice": dice, "focal": focal}


def _at_least_float(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _dice_sum(
    output: SoloOutput, targets: SoloTargets, weights: Tensor | None, pixel_weights: Sequence[Tensor] | None
) -> Tensor:
    """Sum the dice losses of all positive cells; image by image, since each has its own mask features."""
    flat = [level.flatten(2) for level in output.kernels]
    # The empty sums keep the kernels in the graph: DDP wants a gradient for every parameter, positives or none.
    total = _at_least_float(output.mask_features).sum() * 0.0
    total = total + sum((_at_least_float(level).sum() * 0.0 for level in flat), start=total.new_zeros(()))
    firsts = [sum(targets.n_instances[:b]) for b in range(len(targets.n_instances))]
    for b, features in enumerate(output.mask_features):
        mine = torch.nonzero(targets.image == b).flatten()
        if not len(mine):
            continue
        level, cell = targets.level[mine], targets.cell[mine]
        kernels = torch.cat([flat[k][b][:, cell[level == k]].T for k in range(len(flat))])
        order = torch.cat([mine[level == k] for k in range(len(flat))])
        prob = torch.sigmoid(_at_least_float(kernels @ features.flatten(1)))
        rows = targets.instance[order]
        look = (~targets.ignore[b]).flatten().to(prob)
        if pixel_weights is not None:
            given = pixel_weights[b].to(prob).flatten(-2)
            look = look * (given if given.dim() == 1 else given[rows - firsts[b]])
        loss = dice_loss(prob, targets.masks.flatten(1)[rows].to(prob), look)
        total = total + (loss if weights is None else loss * weights[order]).sum()
    return total


def dice_loss(prob: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 − 2Σwpt / (Σwp² + Σwt² + 0.002) of each row.

    Args:
        prob: (P, K), in [0, 1].
        target: (P, K), 0 or 1, or soft.
        weight: (P, K) or (K,); 1 when None.

    Returns:
        (P,).
    """
    weighted = prob if weight is None else prob * weight
    against = target if weight is None else target * weight
    overlap = (weighted * target).sum(dim=1)
    size = (weighted * prob).sum(dim=1) + (against * target).sum(dim=1)
    return 1.0 - 2.0 * overlap / (size + DICE_SMOOTH)


def _focal_sum(output: SoloOutput, targets: SoloTargets, weights: Tensor | None) -> Tensor:
    """Sum the focal losses of all cells that are not ignored, and all classes."""
    total = output.mask_features.new_zeros((), dtype=_at_least_float(output.mask_features[:0]).dtype)
    for k, (logits, classes) in enumerate(zip(output.class_logits, targets.class_targets, strict=True)):
        logits = _at_least_float(logits)
        present = torch.arange(logits.shape[1], device=logits.device)[:, None, None] == classes[:, None]
        look = (classes != IGNORED).to(logits)
        if weights is not None:
            here = targets.level == k
            look = look.flatten(1).index_put((targets.image[here], targets.cell[here]), weights[here].to(look))
            look = look.view_as(classes)
        total = total + (focal_loss(logits, present.to(logits)) * look[:, None]).sum()
    return total


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Sigmoid focal loss of each value, α 0.25 and γ 2: −α_t (1 − p_t)^γ log p_t; α_t is 1 − α for absent classes."""
    sign = 2.0 * target - 1.0
    log_right = F.logsigmoid(sign * logits)
    alpha = FOCAL_ALPHA * target + (1.0 - FOCAL_ALPHA) * (1.0 - target)
    return -alpha * torch.sigmoid(-sign * logits).pow(FOCAL_GAMMA) * log_right
