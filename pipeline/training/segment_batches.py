"""Batches for SOLOv2: whole images, resized and perhaps flipped, as a function of the seed and the step alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.losses.solo import SoloInstances
from pipeline.masks.instances import Instances
from pipeline.models.network_input import IMAGE_MEAN
from pipeline.models.solov2 import MASK_STRIDE, SIZE_MULTIPLE
from pipeline.pseudo_labels.soft_view import View
from pipeline.pseudo_labels.uncertainty import PixelWeights, pixel_weights
from pipeline.training.crops import step_generator
from pipeline.training.segment_scenes import SegmentScene, SegmentScenes
from pipeline.training.segmenter_options import ViewOptions
from pipeline.training.strong_view import jitter_colors, random_cut_out
from pipeline.training.view_options import StrongViewOptions

VIEW_STREAM, ORDER_STREAM = 0, 1


@dataclass(frozen=True)
class SegmentView:
    """An image as it is shown.

    Args:
        rgb: (3, H, W) float32 in [0, 1].
        masks: (N, H, W) bool, instances to learn; a mask may have lost all its pixels in shrinking.
        class_id: (N,) int64.
        ignore: (H, W) bool, pixels of which nothing is known.
        weights: (N, h, w) float32 in [0, 1], how far the cells of stride 4 are to be trusted, on the least multiple of
            32 that holds the view; None for fully.
        weak_rgb: (3, H, W), what a teacher sees where ``rgb`` is a strong view.
    """

    rgb: Tensor
    masks: npt.NDArray[np.bool_]
    class_id: npt.NDArray[np.int64]
    ignore: npt.NDArray[np.bool_]
    weights: Tensor | None = None
    weak_rgb: Tensor | None = None

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        return self.rgb.shape[1], self.rgb.shape[2]


@dataclass(frozen=True)
class SegmentBatch:
    """Images of one size: labelled ones, then pseudo-labelled ones that have a loss of their own, if any.

    Args:
        images: (B, 3, H, W) float32 RGB in [0, 1], padded below and to the right; H and W are multiples of 32.
        instances: Per image, its masks of that size.
        sizes_hw: Per image, its size without the padding.
        n_labeled: Images of the first kind; the loss of the others stands apart.
        weights: Per image (N, H/4, W/4) float32, weights of its instances' pixels; None for 1.
        weak_images: (B − n_labeled, 3, H, W), what a teacher sees of the others.
    """

    images: Tensor
    instances: tuple[SoloInstances, ...]
    sizes_hw: tuple[tuple[int, int], ...]
    n_labeled: int
    weights: tuple[Tensor, ...] | None = None
    weak_images: Tensor | None = None

    def to(self, device: torch.device) -> "SegmentBatch":
        """Copy to a device."""
        moved = [
            SoloInstances(masks.to(device), class_id.to(device), None if ignore is None else ignore.to(device))
            for masks, class_id, ignore in self.instances
        ]
        return replace(
            self,
            images=self.images.to(device),
            instances=tuple(moved),
            weights=None if self.weights is None else tuple(each.to(device) for each in self.weights),
            weak_images=None if self.weak_images is None else self.weak_images.to(device),
        )


def resized_hw(size_hw: tuple[int, int], *, short_side_px: int, long_side_px: int) -> tuple[int, int]:
    """Give the size of an image whose shorter side shall have a length, and whose longer one is bounded."""
    scale = min(short_side_px / min(size_hw), long_side_px / max(size_hw))
    return max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale))


def resize_rgb(pixels: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Resize (H, W, 3): bilinear to enlarge, mean of the pixels to shrink."""
    shrinks = size_hw[0] < pixels.shape[0] or size_hw[1] < pixels.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, size_hw[::-1], interpolation=method), dtype=np.uint8)


def random_view(
    scene: SegmentScene,
    options: ViewOptions,
    *,
    generator: np.random.Generator,
    strong: StrongViewOptions | None = None,
    weigh: PixelWeights = "off",
) -> SegmentView:
    """Resize a scene at random, and perhaps flip it.

    Args:
        scene: Any size.
        options: Sides and flip.
        generator: Randomness.
        strong: Colours and cut-out of a student's view, in place of the options' colours; nothing moves.
        weigh: How the pixels of a teacher's masks are weighed.

    Raises:
        PipelineError: If they shall be weighed and have no soft masks.
    """
    short = int(generator.integers(options.short_side_min_px, options.short_side_max_px + 1))
    size_hw = resized_hw(scene.rows.size_hw, short_side_px=short, long_side_px=options.long_side_px)
    flip = bool(generator.random() < options.flip_prob)
    rows = scene.rows[scene.rows.area_px > 0]
    masks = _resized_masks(rows, size_hw)
    pixels = resize_rgb(scene.pixels, size_hw)
    if flip:
        pixels, masks = np.ascontiguousarray(pixels[:, ::-1]), np.ascontiguousarray(masks[:, :, ::-1])
    learnt = rows.status == "ok"
    unknown = masks[~learnt].any(axis=0) & ~masks[learnt].any(axis=0)
    weights = None
    if weigh != "off" and scene.pseudo:
        view = View.whole(scene.rows.size_hw, size_hw, padded_hw([size_hw]), flip=flip)
        weights = pixel_weights(rows[learnt], view, mode=weigh)
    weak_rgb = None
    if strong is None:
        rgb = jitter_colors(pixels, options.colors, generator=generator)
    else:
        weak_rgb = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255.0
        rgb = jitter_colors(pixels, strong.colors, generator=generator)
        cut_out = random_cut_out(size_hw, strong, generator=generator)
        rgb = torch.where(cut_out, torch.tensor(IMAGE_MEAN)[:, None, None], rgb)
    return SegmentView(rgb, masks[learnt], rows.class_id[learnt], unknown, weights, weak_rgb)


def _resized_masks(rows: Instances, size_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Read the masks of an image at another size, (N, h, w): each pixel takes the one its centre falls on."""
    height, width = rows.size_hw
    y = ((np.arange(size_hw[0]) + 0.5) * (height / size_hw[0])).astype(np.int64)
    x = ((np.arange(size_hw[1]) + 0.5) * (width / size_hw[1])).astype(np.int64)
    masks = np.zeros((len(rows), *size_hw), np.bool_)
    for k in range(len(rows)):
        window = rows.window(k)
        inside_y = np.flatnonzero((y >= window.y0) & (y < window.y0 + window.mask.shape[0]))
        inside_x = np.flatnonzero((x >= window.x0) & (x < window.x0 + window.mask.shape[1]))
        masks[k][np.ix_(inside_y, inside_x)] = window.mask[np.ix_(y[inside_y] - window.y0, x[inside_x] - window.x0)]
    return masks


def padded_hw(sizes_hw: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Give the least size, in multiples of 32, that holds all."""
    height, width = (-(-max(size[axis] for size in sizes_hw) // SIZE_MULTIPLE) * SIZE_MULTIPLE for axis in (0, 1))
    return height, width


def pad_rgb(rgb: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Grow (3, h, w) float32 to (3, H, W), with ImageNet's mean colour below and to the right."""
    padded = torch.tensor(IMAGE_MEAN)[:, None, None].expand(3, *size_hw).clone()
    padded[:, : rgb.shape[1], : rgb.shape[2]] = rgb
    return padded


def stack_views(views: Sequence[SegmentView], *, n_labeled: int | None = None) -> SegmentBatch:
    """Pad views to one size; the padding is background.

    Args:
        views: At least one.
        n_labeled: How many of the first have their loss with each other; all when None. The others are strong views.
    """
    size_hw = padded_hw([view.size_hw for view in views])
    n_labeled = len(views) if n_labeled is None else n_labeled

    def grown(values: npt.NDArray[np.bool_]) -> Tensor:
        full = np.zeros((*values.shape[:-2], *size_hw), np.bool_)
        full[..., : values.shape[-2], : values.shape[-1]] = values
        return torch.from_numpy(full)

    def weights(view: SegmentView) -> Tensor:
        full = torch.ones(len(view.masks), size_hw[0] // MASK_STRIDE, size_hw[1] // MASK_STRIDE)
        if view.weights is not None:
            full[:, : view.weights.shape[1], : view.weights.shape[2]] = view.weights
        return full

    weak = [pad_rgb(view.weak_rgb, size_hw) for view in views[n_labeled:] if view.weak_rgb is not None]
    weighed = any(view.weights is not None for view in views)
    return SegmentBatch(
        images=torch.stack([pad_rgb(view.rgb, size_hw) for view in views]),
        instances=tuple(
            SoloInstances(grown(view.masks), torch.from_numpy(view.class_id), grown(view.ignore)) for view in views
        ),
        sizes_hw=tuple(view.size_hw for view in views),
        n_labeled=n_labeled,
        weights=tuple(weights(view) for view in views) if weighed else None,
        weak_images=torch.stack(weak) if weak else None,
    )


@dataclass(frozen=True)
class SegmentBatches:
    """Makes the batch of any step; every image is used once before any is used again.

    Args:
        scenes: Where images come from; at least one.
        options: How they are shown.
        seed: Seed of the training.
        rank: Which of the ranks this is, from 0; each takes its part of every batch.
        ranks: How many divide the batch, which is a multiple of it.
        strong: Show strong views.
        weigh: How the pixels of a teacher's masks are weighed.
        stream: Tells those of one training apart.
    """

    scenes: SegmentScenes
    options: ViewOptions
    seed: int
    rank: int = 0
    ranks: int = 1
    strong: StrongViewOptions | None = None
    weigh: PixelWeights = "off"
    stream: int = 0

    def __post_init__(self) -> None:
        """Refuse an empty set, and a batch that cannot be divided."""
        if not len(self.scenes):
            raise ValueError("scenes: expected at least one image")
        if self.options.batch % self.ranks:
            raise ValueError(f"ranks: expected a divisor of the batch of {self.options.batch}, got {self.ranks}")

    def __call__(self, step: int) -> SegmentBatch:
        """Make this rank's part of the batch of a step."""
        return stack_views(self.views(step))

    def views(self, step: int) -> list[SegmentView]:
        """Make this rank's views of a step."""
        part = self.options.batch // self.ranks
        return [self._view(step, k) for k in range(self.rank * part, (self.rank + 1) * part)]

    def _view(self, step: int, k: int) -> SegmentView:
        scene = self.scenes[self._position(step * self.options.batch + k)]
        generator = step_generator(self.seed, VIEW_STREAM + 2 * self.stream, step, k)
        return random_view(scene, self.options, generator=generator, strong=self.strong, weigh=self.weigh)

    def describe(self, step: int) -> str:
        """Name the images of a step's batch, on all ranks."""
        batch = self.options.batch
        names = [self.scenes.image_ids[self._position(step * batch + k)] for k in range(batch)]
        return f"the images {', '.join(names)}"

    def _position(self, draw: int) -> int:
        round_, place = divmod(draw, len(self.scenes))
        order = step_generator(self.seed, ORDER_STREAM + 2 * self.stream, round_)
        return int(order.permutation(len(self.scenes))[place])


@dataclass(frozen=True)
class PairedBatches:
    """Joins labelled images with pseudo-labelled ones, in strong views.

    Args:
        labeled: Batches of the first.
        unlabeled: Batches of the second, of another stream.
    """

    labeled: SegmentBatches
    unlabeled: SegmentBatches

    def __call__(self, step: int) -> SegmentBatch:
        """Make this rank's part of the batch of a step."""
        labeled = self.labeled.views(step)
        return stack_views([*labeled, *self.unlabeled.views(step)], n_labeled=len(labeled))

    def describe(self, step: int) -> str:
        """Name the images of a step's batch, on all ranks."""
        return f"{self.labeled.describe(step)} and, pseudo-labelled, {self.unlabeled.describe(step)}"
