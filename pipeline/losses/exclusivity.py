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

from pipeline.geometry.circles import CirclePixels, circle_pixels
from pipeline.geometry.nnec import nnec_radii
from pipeline.models.embedding import bilinear_corners, pixel_rows, smooth_embedding

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

    Raises:
        ValueError: If the numbers of images differ or a point is not finite.
    """
    _require_one_each("points_xy", points_xy, label_maps)
    size_hw = (label_maps.shape[-2], label_maps.shape[-1])
    excluded = excluded_pixels(label_maps, cut_out, invalid_points_xy)
    discs = batch_discs(points_xy, label_maps, excluded)
    field = pixel_rows(smooth_embedding(embedding, size_hw=size_hw, blur_sigma=blur_sigma))
    first_pixel = discs.image * (size_hw[0] * size_hw[1])
    corners = bilinear_corners(discs.heads_xy, size_hw=size_hw, first_pixel=first_pixel)
    # Read at once: the gradient of every reading is as large as the field.
    around, within = field.index_select(0, torch.cat([corners.row.flatten(), discs.x])).tensor_split(
        [corners.row.numel()]
    )
    center = corners.blend(around)

    p, pos, n_heads = discs.p, discs.pos, len(discs.heads_xy)
    d = torch.linalg.vector_norm(within - center.index_select(0, p), dim=1)
    hinge = torch.relu(torch.where(pos, d - (tau - margin), (tau + 4 * margin) - d))
    # Group 2 p is pos of head p, group 2 p + 1 its neg; an empty neg gives 0.
    loss = _mean_per_group(hinge, 2 * p + (~pos).long(), 2 * n_heads).view(n_heads, 2).sum(dim=1)

    with_pos = torch.zeros_like(discs.image, dtype=torch.bool).index_fill_(0, p[pos], True)
    per_image = _mean_per_group(loss[with_pos], discs.image[with_pos], len(label_maps))
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
    image = _image_of_each([heads for heads, _, _ in found], label.device)
    pairs = circle_pixels(heads_xy, radius_px, size_hw=size_hw)
    p, x = pairs.circle, _flat_pixels(pairs, image, size_hw)
    taking_part = torch.nonzero(~excluded.flatten().index_select(0, x)).flatten()
    p, x = p.index_select(0, taking_part), x.index_select(0, taking_part)
    return Discs(heads_xy, image, p, x, pos=label_maps.flatten().index_select(0, x) == label.index_select(0, p))


def excluded_pixels(label_maps: Tensor, cut_out: Tensor | None, invalid_points_xy: Sequence[Tensor] | None) -> Tensor:
    """Mark the pixels that take no part: (B, H, W) bool, the cut-out and discs of 16 px around the invalid points."""
    excluded = torch.zeros(label_maps.shape, dtype=torch.bool, device=label_maps.device)
    if cut_out is not None:
        excluded |= cut_out
    if invalid_points_xy is None:
        return excluded
    _require_one_each("invalid_points_xy", invalid_points_xy, label_maps)
    size_hw = (label_maps.shape[-2], label_maps.shape[-1])
    places = [points.to(excluded.device, torch.float64).reshape(-1, 2) for points in invalid_points_xy]
    places_xy = torch.cat(places)
    discs = circle_pixels(places_xy, torch.full_like(places_xy[:, 0], INVALID_RADIUS_PX), size_hw=size_hw)
    excluded.view(-1).index_fill_(0, _flat_pixels(discs, _image_of_each(places, excluded.device), size_hw), True)
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
    label = _labels_at(heads_xy, labels)
    on = label > 0
    return heads_xy[on], torch.from_numpy(nearest.radius_px).to(heads_xy.device)[on], label[on]


def misplaced_share(points_xy: Sequence[Tensor], label_maps: Tensor) -> Tensor:
    """Figure to log: (predicted heads on background + images with none on an instance) / (heads + instances).

    The reference adds it to the loss, but it counts detached decisions and carries no gradient.

    Args:
        points_xy: Per image (N, 2), the predicted heads, image pixels.
        label_maps: (B, H, W) integer, 0 background.

    Returns:
        Scalar float64 without a gradient; 0 without heads and instances.
    """
    misplaced, total = (torch.zeros((), dtype=torch.int64, device=label_maps.device) for _ in range(2))
    for heads_xy, labels in zip(points_xy, label_maps, strict=True):
        places = heads_xy.detach().to(labels.device, torch.float64).reshape(-1, 2)
        found = (_labels_at(places, labels) > 0).sum()
        misplaced = misplaced + len(places) - found + (found == 0)
        total = total + len(places) + (torch.bincount(labels.flatten().long())[1:] > 0).sum()
    return misplaced.double() / total.clamp(min=1)


def _require_one_each(name: str, per_image: Sequence[Tensor], label_maps: Tensor) -> None:
    if len(per_image) != len(label_maps):
        raise ValueError(f"{name}: expected one array for each of the {len(label_maps)} images, got {len(per_image)}")


def _labels_at(heads_xy: Tensor, labels: Tensor) -> Tensor:
    """Read a (H, W) label map at rounded points; 0 outside."""
    height, width = labels.shape
    x, y = torch.floor(heads_xy + 0.5).long().unbind(dim=1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return torch.where(inside, labels[y.clamp(0, height - 1), x.clamp(0, width - 1)], 0)


def _image_of_each(per_image: Sequence[Tensor], device: torch.device) -> Tensor:
    """Give the number of its image for each row of the joined tensors, int64."""
    return torch.repeat_interleave(torch.tensor([len(rows) for rows in per_image], device=device))


def _flat_pixels(pairs: CirclePixels, image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Give the flat pixel in (B, H, W) of each pair of a circle and a pixel, from the circles' images."""
    first_row = image.index_select(0, pairs.circle) * size_hw[0]
    return first_row.add_(pairs.y_px).mul_(size_hw[1]).add_(pairs.x_px)


def _mean_per_group(values: Tensor, group: Tensor, count: int) -> Tensor:
    """Average the values of each group; 0 for a group without any."""
    sums = values.new_zeros(count).index_add(0, group, values)
    return sums / torch.bincount(group, minlength=count).clamp(min=1)
