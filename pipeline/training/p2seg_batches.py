"""Crops for P2Seg: pixels, the class map, the points of the whole image, and the static target of the offsets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.geometry.point_owners import UNKNOWN, component_offsets
from pipeline.geometry.scaling import nearest_index
from pipeline.models.network_input import IMAGE_MEAN
from pipeline.training.crops import random_span, step_generator
from pipeline.training.kept import Kept
from pipeline.training.options import CropOptions
from pipeline.training.strong_view import jitter_colors
from pipeline.training.view_options import ColorOptions

CROP_STREAM, ORDER_STREAM = 0, 1


@dataclass(frozen=True)
class SeedScene:
    """One image at its working size.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        classes: (H, W) uint8 class map: 0 background, k + 1 class_id k, 255 unknown.
        points_yx: (K, 2) float64, pixels of the working size.
        point_class: (K,) int64.
    """

    pixels: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]
    points_yx: npt.NDArray[np.float64]
    point_class: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        if self.classes.shape != self.pixels.shape[:2]:
            raise ValueError(f"classes {self.classes.shape} and pixels {self.pixels.shape} do not fit")
        if self.points_yx.shape != (len(self.point_class), 2):
            raise ValueError(f"points_yx {self.points_yx.shape} and point_class {self.point_class.shape} do not fit")

    @property
    def n_bytes(self) -> int:
        """Memory of the arrays."""
        return self.pixels.nbytes + self.classes.nbytes + self.points_yx.nbytes + self.point_class.nbytes


@dataclass(frozen=True)
class SeedCrop:
    """A piece of a scene, scaled and perhaps flipped.

    Args:
        rgb: (3, S, S) float32 in [0, 1].
        classes: (S, S) uint8; unknown beyond the image's edge.
        points_yx: (K, 2) float64 all points of the image, pixels of the crop, those outside it, too.
        point_class: (K,) int64.
    """

    rgb: Tensor
    classes: npt.NDArray[np.uint8]
    points_yx: npt.NDArray[np.float64]
    point_class: npt.NDArray[np.int64]


@dataclass(frozen=True)
class SeedBatch:
    """Crops as tensors; tuples go by crop.

    Args:
        images: (B, 3, S, S) float32.
        classes: (B, S, S) int64.
        points_yx: (K_i, 2) float32.
        point_class: (K_i,) int64.
        offsets: (B, 2, S, S) float32 static target (dy, dx), pixels.
        weight: (B, S, S) bool, where it holds.
    """

    images: Tensor
    classes: Tensor
    points_yx: tuple[Tensor, ...]
    point_class: tuple[Tensor, ...]
    offsets: Tensor
    weight: Tensor

    @classmethod
    def stack(cls, crops: Sequence[SeedCrop]) -> "SeedBatch":
        """Join crops of one size, and find their static targets."""
        targets = [component_offsets(crop.classes, crop.points_yx, crop.point_class) for crop in crops]
        return cls(
            images=torch.stack([crop.rgb for crop in crops]),
            classes=torch.from_numpy(np.stack([crop.classes for crop in crops])).long(),
            points_yx=tuple(torch.from_numpy(crop.points_yx).float() for crop in crops),
            point_class=tuple(torch.from_numpy(crop.point_class) for crop in crops),
            offsets=torch.from_numpy(np.stack([target.offsets for target in targets])),
            weight=torch.from_numpy(np.stack([target.weight for target in targets])),
        )

    def to(self, device: torch.device) -> "SeedBatch":
        """Copy to a device."""
        return SeedBatch(
            images=self.images.to(device),
            classes=self.classes.to(device),
            points_yx=tuple(each.to(device) for each in self.points_yx),
            point_class=tuple(each.to(device) for each in self.point_class),
            offsets=self.offsets.to(device),
            weight=self.weight.to(device),
        )


def random_seed_crop(
    scene: SeedScene, options: CropOptions, colors: ColorOptions, *, generator: np.random.Generator
) -> SeedCrop:
    """Cut a random square out of a scene, at a random scale and perhaps flipped; small scenes are padded.

    Args:
        scene: Any size.
        options: Size, scale and flip.
        colors: Changes of colour.
        generator: Randomness.
    """
    side = options.size_px
    window_px = max(1, round(side / generator.uniform(options.scale_min, options.scale_max)))
    x0, width, out_w = random_span(scene.pixels.shape[1], window_px, side, generator)
    y0, height, out_h = random_span(scene.pixels.shape[0], window_px, side, generator)
    flip = bool(generator.random() < options.flip_prob)
    window = np.ascontiguousarray(scene.pixels[y0 : y0 + height, x0 : x0 + width])
    shrinks = out_w < width or out_h < height
    scaled = cv2.resize(window, (out_w, out_h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    rgb = torch.tensor(IMAGE_MEAN)[:, None, None].expand(3, side, side).clone()
    rgb[:, :out_h, :out_w] = jitter_colors(np.asarray(scaled, np.uint8), colors, generator=generator)
    classes = np.full((side, side), UNKNOWN, np.uint8)
    rows, columns = y0 + nearest_index(height, out_h), x0 + nearest_index(width, out_w)
    classes[:out_h, :out_w] = scene.classes[np.ix_(rows, columns)]
    points_yx = (scene.points_yx - (y0, x0) + 0.5) * (out_h / height, out_w / width) - 0.5
    if flip:
        rgb, classes = rgb.flip(2), classes[:, ::-1]
        points_yx = points_yx * (1, -1) + (0, side - 1)
    return SeedCrop(rgb, np.ascontiguousarray(classes), points_yx, scene.point_class)


@dataclass(frozen=True)
class SeedBatches:
    """Makes the batch of any step; every image is used once before any is used again.

    Args:
        image_ids: The images; at least one.
        scenes: Gives the scene of an image.
        crops: Random crops.
        colors: Changes of colour.
        seed: Seed of the training.
    """

    image_ids: tuple[str, ...]
    scenes: Kept[str, SeedScene] | Callable[[str], SeedScene]
    crops: CropOptions
    colors: ColorOptions
    seed: int

    def __post_init__(self) -> None:
        """Refuse an empty set."""
        if not self.image_ids:
            raise ValueError("image_ids: expected at least one image")

    def scene(self, image_id: str) -> SeedScene:
        """Give the scene of an image."""
        return self.scenes(image_id) if callable(self.scenes) else self.scenes[image_id]

    def __call__(self, step: int) -> SeedBatch:
        """Make the batch of a step."""
        return SeedBatch.stack(
            [
                random_seed_crop(
                    self.scene(image_id), self.crops, self.colors,
                    generator=step_generator(self.seed, CROP_STREAM, step, k),
                )
                for k, image_id in enumerate(self._image_ids(step))
            ]
        )  # fmt: skip

    def describe(self, step: int) -> str:
        """Name the images of a step's batch."""
        return f"the images {', '.join(self._image_ids(step))}"

    def _image_ids(self, step: int) -> list[str]:
        draws = range(step * self.crops.batch, (step + 1) * self.crops.batch)
        return [self.image_ids[self._position(draw)] for draw in draws]

    def _position(self, draw: int) -> int:
        round_, place = divmod(draw, len(self.image_ids))
        return int(step_generator(self.seed, ORDER_STREAM, round_).permutation(len(self.image_ids))[place])
