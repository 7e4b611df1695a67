"""Crops around rough masks: random ones to learn from, and the one to refine a mask with."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import Prepared
from pipeline.errors import PipelineError
from pipeline.geometry.scaling import nearest_index
from pipeline.masks.rle import rle_to_window
from pipeline.training.crops import PADDING_RGB, step_generator
from pipeline.training.kept import Kept
from pipeline.training.refine_options import RefineCropOptions
from pipeline.training.refine_pairs import RefinePair, Rough

CROP_STREAM, ORDER_STREAM = 200, 201

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class Box(NamedTuple):
    """A window of the image, in whole pixels."""

    x0: int
    y0: int
    width: int
    height: int


@dataclass(frozen=True)
class RefineCrop:
    """A crop around a rough mask.

    Args:
        pixels: (S, S, 3) uint8 RGB.
        heat: (S, S) float32, 1 at the point.
        class_id: Class of the point.
        rough: (S, S) bool.
    """

    pixels: Pixels
    heat: npt.NDArray[np.float32]
    class_id: int
    rough: Mask


@dataclass(frozen=True)
class TrainingCrop(RefineCrop):
    """A crop with its answer.

    Args:
        target: (S, S) bool, the true mask.
        valid: (S, S) bool, False beyond the window's edge.
    """

    target: Mask
    valid: Mask


@dataclass(frozen=True)
class RefineInputs:
    """Crops as tensors: what the network takes.

    Args:
        images: (B, 3, S, S) float32 in [0, 1].
        heat: (B, S, S) float32.
        class_id: (B,) int64.
        rough: (B, S, S) bool.
    """

    images: Tensor
    heat: Tensor
    class_id: Tensor
    rough: Tensor

    @classmethod
    def stack(cls, crops: "list[RefineCrop] | list[TrainingCrop]") -> "RefineInputs":
        """Join crops of one size."""
        return cls(
            images=torch.from_numpy(np.stack([crop.pixels for crop in crops])).permute(0, 3, 1, 2).float() / 255.0,
            heat=torch.from_numpy(np.stack([crop.heat for crop in crops])),
            class_id=torch.tensor([crop.class_id for crop in crops], dtype=torch.int64),
            rough=torch.from_numpy(np.stack([crop.rough for crop in crops])),
        )

    def to(self, device: torch.device) -> "RefineInputs":
        """Copy to a device."""
        parts = (self.images, self.heat, self.class_id, self.rough)
        return RefineInputs(*(part.to(device) for part in parts))


@dataclass(frozen=True)
class RefineBatch:
    """What one step learns from.

    Args:
        inputs: What the network takes.
        target: (B, S, S) bool.
        valid: (B, S, S) bool.
    """

    inputs: RefineInputs
    target: Tensor
    valid: Tensor


@dataclass(frozen=True)
class KeptImage:
    """A decoded image."""

    pixels: Pixels

    @property
    def n_bytes(self) -> int:
        """Memory of the pixels."""
        return self.pixels.nbytes


def kept_images(prepared: Prepared, *, cache_mib: int) -> Kept[str, KeptImage]:
    """Read images when they are asked for, and keep the last used ones."""
    return Kept(lambda image_id: KeptImage(read_image_rgb(prepared.image(image_id).path)), cache_mib=cache_mib)


def grown_box(rough: Rough, factor: float) -> Box:
    """Grow a rough mask's box about its centre, extend it to hold the point, and cut it at the image's edge."""
    spans = []
    for start, length, at, side in zip(
        rough.box_xywh[:2], rough.box_xywh[2:], rough.point_xy, reversed(rough.size_hw), strict=True
    ):
        center, half = start + length / 2, factor * length / 2
        pixel = min(max(int(np.floor(at + 0.5)), 0), side - 1)
        first = max(0, min(int(np.floor(center - half)), pixel))
        spans.append((first, min(side, max(int(np.ceil(center + half)), pixel + 1)) - first))
    (x0, width), (y0, height) = spans
    return Box(x0, y0, width, height)


def whole_crop(pixels: Pixels, rough: Rough, box: Box, options: RefineCropOptions) -> RefineCrop:
    """Bring a window to the crop's size, whatever its shape: what a mask is refined with."""
    _require_size(pixels, rough)
    out_hw = (options.size_px, options.size_px)
    return RefineCrop(
        pixels=_resized(pixels, box, out_hw),
        heat=_heat(rough, box, out_hw, options, flip=False),
        class_id=rough.class_id,
        rough=_resized_mask(rough.rle, rough.size_hw, box, out_hw),
    )


def random_crop(
    pixels: Pixels, pair: RefinePair, options: RefineCropOptions, *, generator: np.random.Generator
) -> TrainingCrop:
    """Cut a random piece around a rough mask, at a random scale and perhaps flipped; it holds the point.

    Args:
        pixels: (H, W, 3) uint8, the whole image.
        pair: Rough and true mask.
        options: Size, scales and flip.
        generator: Randomness.
    """
    rough, size = pair.rough, options.size_px
    _require_size(pixels, rough)
    grown = grown_box(rough, generator.uniform(1.0, options.context_max))
    scale = size * generator.uniform(options.scale_min, options.scale_max) / min(grown.width, grown.height)
    reach = max(1, round(size / scale))
    x0, width, out_w = _random_span(grown.x0, grown.width, rough.point_xy[0], reach, size, generator)
    y0, height, out_h = _random_span(grown.y0, grown.height, rough.point_xy[1], reach, size, generator)
    flip = bool(generator.random() < options.flip_prob)
    box, out_hw = Box(x0, y0, width, height), (out_h, out_w)

    canvas = np.empty((size, size, 3), dtype=np.uint8)
    canvas[:] = PADDING_RGB
    canvas[:out_h, :out_w] = _resized(pixels, box, out_hw)
    masks = np.zeros((3, size, size), dtype=np.bool_)
    masks[0, :out_h, :out_w] = _resized_mask(rough.rle, rough.size_hw, box, out_hw)
    masks[1, :out_h, :out_w] = _resized_mask(pair.truth, rough.size_hw, box, out_hw)
    masks[2, :out_h, :out_w] = True
    if flip:
        canvas, masks = canvas[:, ::-1], masks[:, :, ::-1]
    return TrainingCrop(
        pixels=np.ascontiguousarray(canvas),
        heat=_heat(rough, box, out_hw, options, flip=flip),
        class_id=rough.class_id,
        rough=masks[0],
        target=masks[1],
        valid=masks[2],
    )


class RefineBatches:
    """Makes the batch of any step; every pair is used once before any is used again.

    Args:
        pairs: Rough and true masks; at least one.
        images: Their images.
        options: Crops.
        seed: Seed of the training.
        rank: Which of the ranks this is, from 0; each takes its part of every batch.
        ranks: How many divide the batch, which is a multiple of it.
    """

    def __init__(
        self, pairs: list[RefinePair], images: Kept[str, KeptImage], options: RefineCropOptions, *, seed: int,
        rank: int = 0, ranks: int = 1,
    ) -> None:  # fmt: skip
        self._pairs, self._images, self._options, self._seed = pairs, images, options, seed
        part = options.batch // ranks
        self._places = range(rank * part, (rank + 1) * part)
        self._order = lru_cache(maxsize=2)(self._order_of_round)

    def __call__(self, step: int) -> RefineBatch:
        """Make this rank's part of the batch of a step."""
        crops = []
        for k in self._places:
            pair = self._pair(step, k)
            generator = step_generator(self._seed, CROP_STREAM, step, k)
            crops.append(random_crop(self._images[pair.image_id].pixels, pair, self._options, generator=generator))
        return RefineBatch(
            inputs=RefineInputs.stack(crops),
            target=torch.from_numpy(np.stack([crop.target for crop in crops])),
            valid=torch.from_numpy(np.stack([crop.valid for crop in crops])),
        )

    def describe(self, step: int) -> str:
        """Name the images of a step's batch, on all ranks."""
        return f"crops of the images {', '.join(self._pair(step, k).image_id for k in range(self._options.batch))}"

    def _pair(self, step: int, k: int) -> RefinePair:
        round_, place = divmod(step * self._options.batch + k, len(self._pairs))
        return self._pairs[int(self._order(round_)[place])]

    def _order_of_round(self, round_: int) -> npt.NDArray[np.int64]:
        return step_generator(self._seed, ORDER_STREAM, round_).permutation(len(self._pairs))


def _random_span(
    first: int, side: int, point: float, reach: int, size: int, generator: np.random.Generator
) -> tuple[int, int, int]:
    """Give start and length in the image, and length in the crop, along one axis; the point's pixel is within."""
    length = min(side, reach)
    pixel = min(max(int(np.floor(point + 0.5)) - first, 0), side - 1)
    low, high = max(0, pixel - length + 1), min(side - length, pixel)
    start = first + int(generator.integers(low, high + 1))
    return start, length, size if length == reach else min(size, max(1, round(length * size / reach)))


def _resized(pixels: Pixels, box: Box, out_hw: tuple[int, int]) -> Pixels:
    window = np.ascontiguousarray(pixels[box.y0 : box.y0 + box.height, box.x0 : box.x0 + box.width])
    shrinks = out_hw[0] < box.height or out_hw[1] < box.width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(window, (out_hw[1], out_hw[0]), interpolation=how), dtype=np.uint8)


def _resized_mask(rle: bytes, size_hw: tuple[int, int], box: Box, out_hw: tuple[int, int]) -> Mask:
    rows, columns = nearest_index(box.height, out_hw[0]), nearest_index(box.width, out_hw[1])
    return rle_to_window(rle, size_hw, box)[np.ix_(rows, columns)]


def _heat(
    rough: Rough, box: Box, out_hw: tuple[int, int], options: RefineCropOptions, *, flip: bool
) -> npt.NDArray[np.float32]:
    """Draw a Gaussian of peak 1 on the crop's pixel that the point falls on."""
    size, (out_h, out_w) = options.size_px, out_hw
    x, y = (
        min(max(round((at - start + 0.5) * out / length - 0.5), 0), out - 1)
        for at, start, out, length in zip(
            rough.point_xy, (box.x0, box.y0), (out_w, out_h), (box.width, box.height), strict=True
        )
    )
    if flip:
        x = size - 1 - x
    down, right = (np.exp(-((np.arange(size) - at) ** 2) / (2 * options.heat_sigma_px**2)) for at in (y, x))
    return np.outer(down, right).astype(np.float32)


def _require_size(pixels: Pixels, rough: Rough) -> None:
    if pixels.shape[:2] != rough.size_hw:
        raise PipelineError(
            f"an image is {pixels.shape[0]} x {pixels.shape[1]} pixels, but its masks are of one of {rough.size_hw[0]} "
            f"x {rough.size_hw[1]}: the file changed since prepare; run prepare again, and what follows"
        )
