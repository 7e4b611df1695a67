r"""Exclusivity loss: pixels of one head lie near its centre in embedding space, others far (arXiv 2603.16241, §3.2).

For a predicted head p on instance G(p), with its disc D_p of radius r_p (distance to the nearest predicted head):

    pos = D_p ∩ {G = G(p)},  neg = D_p \ pos,  d(x) = ‖ẽ(x) − ẽ(p)‖₂
    L_p = mean_pos [d − (τ − m)]₊ + mean_neg [(τ + 4m) − d]₊

The image's loss is the mean of L_p over the heads with a pos, the batch's the mean over its images.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.geometry.circles import circle_pixels
from pipeline.geometry.nnec import nnec_radii
from pipeline.models.embedding import pixel_rows, sample_bilinear, smooth_embedding

MIN_RADIUS_PX = 3.0
MAX_RADIUS_FRAC = 0.5
INVALID_RADIUS_PX = 16.0


def exclusivity_loss(
    embedding: Tensor,
    points_xy: Sequence[Tensor],
    label_maps: Tensor,
    *,
    cut_out: Tensor | None = None,
    invalid_points_xy: Sequence[Tensor] | None = None,
    tau: float = 0.6,
    margin: float = 0.1,
    blur_sigma: float = 1.5,
) -> Tensor:
    """Average the exclusivity loss over a batch.

    Args:
        embedding: (B, C, h, w), of unit length in every cell.
        points_xy: Per image (N, 2), the predicted heads, image pixels; no gradient goes through them.
        label_maps: (B, H, W) integer, the true or pseudo instances, 0 background.
        cut_out: (B, H, W) bool, pixels that take no part.
        invalid_points_xy: Per image (M, 2), pseudo points that are not confident; discs of 16 px around them take no
            part.
        tau: Radius of an instance in embedding space.
        margin: Margin m around tau; others are pushed beyond tau + 4 m.
        blur_sigma: Sigma of the 7×7 blur of the upsampled embedding, image pixels.

    Returns:
        Scalar; 0 (with a gradient of 0) when no predicted head lies on an instance.
    """
    size_hw = (label_maps.shape[-2], label_maps.shape[-1])
    excluded = excluded_pixels(label_maps, cut_out, invalid_points_xy)
    discs = batch_discs(points_xy, label_maps, excluded)
    field = pixel_rows(smooth_embedding(embedding, size_hw=size_hw, blur_sigma=blur_sigma))
    first_pixel = discs.image * (size_hw[0] * size_hw[1])
    center = sample_bilinear(field, discs.heads_xy, size_hw=size_hw, first_pixel=first_pixel)

    p, x, pos = discs.p, discs.x, discs.pos
    d = torch.linalg.vector_norm(field.index_select(0, x) - center.index_select(0, p), dim=1)
    pull = _mean_per_group(torch.relu(d - (tau - margin)), p, pos, len(discs.heads_xy))
    push = _mean_per_group(torch.relu((tau + 4 * margin) - d), p, ~pos, len(discs.heads_xy))

    with_pos = torch.bincount(p[pos], minlength=len(discs.heads_xy)) > 0
    per_image = _mean_per_group(pull + push, discs.image, with_pos, len(label_maps))
    return per_image.mean()


class Discs(NamedTuple):
    """The discs of a batch: its heads on instances, and every pixel x in the disc of a head p.

    Args:
        heads_xy: (P, 2) float64, image pixels.
        image: (P,) int64, the head's image in the batch.
        p: (K,) int64, row of the head.
        x: (K,) int64, flat pixel in (B, H, W).
        pos: (K,) bool, whether the pixel is of the head's own instance.
    """

    heads_xy: Tensor
    image: Tensor
    p: Tensor
    x: Tensor
    pos: Tensor


def batch_discs(points_xy: Sequence[Tensor], label_maps: Tensor, excluded: Tensor) -> Discs:
    """Enumerate D_p without the excluded pixels, for every predicted head p that falls on an instance."""
    size_hw = (label_maps.shape[-2], label_maps.shape[-1])
    found = [heads_on_instances(heads, labels) for heads, labels in zip(points_xy, label_maps, strict=True)]
    heads_xy, radius_px, label = (torch.cat(column) for column in zip(*found, strict=True))
    counts = torch.tensor([len(heads) for heads, _, _ in found], device=label.device)
    image = torch.repeat_interleave(counts)
    pairs = circle_pixels(heads_xy, radius_px, size_hw=size_hw)
    p, x = pairs.circle, (image[pairs.circle] * size_hw[0] + pairs.y_px) * size_hw[1] + pairs.x_px
    taking_part = ~excluded.flatten()[x]
    p, x = p[taking_part], x[taking_part]
    return Discs(heads_xy, image, p, x, pos=label_maps.flatten()[x] == label[p])


def excluded_pixels(label_maps: Tensor, cut_out: Tensor | None, invalid_points_xy: Sequence[Tensor] | None) -> Tensor:
    """Mark the pixels that take no part: (B, H, W) bool, the cut-out and discs of 16 px around the invalid points."""
    excluded = torch.zeros_like(label_maps, dtype=torch.bool) if cut_out is None else cut_out.clone()
    for mask, points in zip(excluded, invalid_points_xy or [], strict=invalid_points_xy is not None):
        places = points.to(mask.device, torch.float64).reshape(-1, 2)
        radii = torch.full_like(places[:, 0], INVALID_RADIUS_PX)
        disc = circle_pixels(places, radii, size_hw=(mask.shape[0], mask.shape[1]))
        mask[disc.y_px, disc.x_px] = True
    return excluded


def heads_on_instances(heads_xy: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the heads that fall on an instance inside the image: places, radii among *all* heads, instance labels.

    Args:
        heads_xy: (N, 2), image pixels.
        labels: (H, W) integer.
    """
    height, width = labels.shape
    heads_xy = heads_xy.detach().to(labels.device, torch.float64).reshape(-1, 2)
    nearest = nnec_radii(
        heads_xy.cpu().numpy(), size_hw=(height, width), min_radius_px=MIN_RADIUS_PX, max_radius_frac=MAX_RADIUS_FRAC
    )
    x, y = torch.floor(heads_xy + 0.5).long().unbind(dim=1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    label = torch.where(inside, labels[y.clamp(0, height - 1), x.clamp(0, width - 1)], 0)
    on = label > 0
    return heads_xy[on], torch.from_numpy(nearest.radius_px).to(heads_xy.device)[on], label[on]


def misplaced_share(points_xy: Sequence[Tensor], label_maps: Tensor) -> float:
    """Figure to log: (predicted heads on background + images with none on an instance) / (heads + instances).

    The reference adds it to the loss, but it counts detached decisions and carries no gradient.
    """
    misplaced = total = 0
    for heads_xy, labels in zip(points_xy, label_maps, strict=True):
        found = len(heads_on_instances(heads_xy, labels)[0])
        misplaced += len(heads_xy) - found + (found == 0)
        total += len(heads_xy) + int((torch.bincount(labels.flatten().long())[1:] > 0).sum())
    return misplaced / max(total, 1)


def _mean_per_group(values: Tensor, group: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Average the chosen values of each group; 0 for a group without any."""
    chosen_values = torch.where(chosen, values, 0.0)
    sums = values.new_zeros(count).index_add(0, group, chosen_values)
    return sums / torch.bincount(group[chosen], minlength=count).clamp(min=1)
