"""Random crops, as a function of the seed and the step alone, so that a resumed run sees what an unbroken one does."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.geometry.scaling import nearest_index
from pipeline.masks.soft_format import Ticks, read_at
from pipeline.models.crowd_net import STRIDE, image_to_tensor
from pipeline.models.network_input import IMAGE_MEAN
from pipeline.training.options import CropOptions
from pipeline.training.scenes import Scene, SceneSource

T = TypeVar("T")

PADDING_RGB = tuple(round(255 * mean) for mean in IMAGE_MEAN)
"""Colour beyond the image's edge: the network's zero."""


@dataclass(frozen=True)
class Crop:
    """A piece of a scene, scaled and perhaps flipped.

    Args:
        pixels: (S, S, 3) uint8 RGB.
        points_xy: (N, 2) float64 heads inside the crop, pixels of the crop.
        point_prob: (N,) float64.
        labels: (N,) int64 value of each head's pixels in the label map.
        label_map: (S, S) int32, with the values of the scene.
        ignored: (S, S) bool, as the scene's.
        cell_weights: (S/4, S/4) float32, as the scene's; 1 beyond the image.
    """

    pixels: npt.NDArray[np.uint8]
    points_xy: npt.NDArray[np.float64]
    point_prob: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    label_map: npt.NDArray[np.int32]
    ignored: npt.NDArray[np.bool_] | None = None
    cell_weights: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class CropBatch:
    """Crops as tensors; (N_i,) lists go by crop.

    Args:
        images: (B, 3, S, S) float32, the network's input.
        points_xy: (N_i, 2) float32 heads, pixels of the crop.
        point_prob: (N_i,) float32.
        labels: (N_i,) int64 values in the label maps.
        label_maps: (B, S, S) int64.
        ignored: (B, S, S) bool, pixels that no loss looks at, if any.
        cell_weights: (B, S/4, S/4) float32 weights of the cells, if any.
    """

    images: Tensor
    points_xy: tuple[Tensor, ...]
    point_prob: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    label_maps: Tensor
    ignored: Tensor | None = None
    cell_weights: Tensor | None = None

    @classmethod
    def stack(cls, crops: list[Crop]) -> "CropBatch":
        """Join crops of one size."""
        return cls(
            images=torch.stack([image_to_tensor(crop.pixels) for crop in crops]),
            points_xy=tuple(torch.from_numpy(crop.points_xy).float() for crop in crops),
            point_prob=tuple(torch.from_numpy(crop.point_prob).float() for crop in crops),
            labels=tuple(torch.from_numpy(crop.labels) for crop in crops),
            label_maps=torch.from_numpy(np.stack([crop.label_map for crop in crops])).long(),
            ignored=_stack_if_any([crop.ignored for crop in crops]),
            cell_weights=_stack_if_any([crop.cell_weights for crop in crops]),
        )

    def to(self, device: torch.device) -> "CropBatch":
        """Copy to a device."""
        return CropBatch(
            images=self.images.to(device),
            points_xy=tuple(each.to(device) for each in self.points_xy),
            point_prob=tuple(each.to(device) for each in self.point_prob),
            labels=tuple(each.to(device) for each in self.labels),
            label_maps=self.label_maps.to(device),
            ignored=None if self.ignored is None else self.ignored.to(device),
            cell_weights=None if self.cell_weights is None else self.cell_weights.to(device),
        )


def _stack_if_any(parts: Sequence[npt.NDArray[Any] | None]) -> Tensor | None:
    """Join what all crops of a source have, or none."""
    there = [part for part in parts if part is not None]
    return torch.from_numpy(np.stack(there)) if there else None


def step_generator(seed: int, stream: int, *key: int) -> np.random.Generator:
    """Give the random numbers of one purpose at one step, the same in every run.

    Args:
        seed: Seed of the training.
        stream: Purpose; different purposes get unrelated numbers.
        *key: Step, and position in the batch.
    """
    return np.random.default_rng(np.random.SeedSequence([seed, stream, *key]))


class CropSampler:
    """Gives the crops of any step; every image is used once before any is used again.

    Args:
        scenes: Where crops come from; at least one.
        options: Size, scale and flip.
        seed: Seed of the training.
        stream: Tells samplers of one training apart.
        rank: Which of the ranks this is, from 0; each takes its part of every batch.
        ranks: How many divide the batch, which is a multiple of it.
    """

    def __init__(
        self, scenes: SceneSource, options: CropOptions, *, seed: int, stream: int, rank: int = 0, ranks: int = 1
    ) -> None:
        if not len(scenes):
            raise ValueError("scenes: expected at least one image to crop from")
        if options.batch % ranks:
            raise ValueError(f"ranks: expected a divisor of the batch of {options.batch} crops, got {ranks}")
        self._scenes, self._options, self._seed, self._stream = scenes, options, seed, 2 * stream
        part = options.batch // ranks
        self.places = range(rank * part, (rank + 1) * part)

    def crops(self, step: int) -> list[Crop]:
        """Give this rank's crops of a step, those at :attr:`places` of the batch."""
        return [
            random_crop(
                self._scenes[self._position(step * self._options.batch + k)],
                self._options,
                generator=step_generator(self._seed, self._stream, step, k),
            )
            for k in self.places
        ]

    def image_ids(self, step: int) -> list[str]:
        """Name the images of a step's whole batch, on all ranks."""
        batch = self._options.batch
        return [self._scenes.image_ids[self._position(step * batch + k)] for k in range(batch)]

    def _position(self, draw: int) -> int:
        round_, place = divmod(draw, len(self._scenes))
        return int(step_generator(self._seed, self._stream + 1, round_).permutation(len(self._scenes))[place])


def random_crop(scene: Scene, options: CropOptions, *, generator: np.random.Generator) -> Crop:
    """Cut a random square out of a scene, at a random scale and perhaps flipped; small scenes are padded.

    Args:
        scene: Any size.
        options: Size, scale and flip.
        generator: Randomness.
    """
    scale = generator.uniform(options.scale_min, options.scale_max)
    window_px = max(1, round(options.size_px / scale))
    x0, width, out_w = random_span(scene.pixels.shape[1], window_px, options.size_px, generator)
    y0, height, out_h = random_span(scene.pixels.shape[0], window_px, options.size_px, generator)
    flip = bool(generator.random() < options.flip_prob)

    window = np.ascontiguousarray(scene.pixels[y0 : y0 + height, x0 : x0 + width])
    shrinks = out_w < width or out_h < height
    scaled = cv2.resize(window, (out_w, out_h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    pixels = np.empty((options.size_px, options.size_px, 3), dtype=np.uint8)
    pixels[:] = PADDING_RGB
    pixels[:out_h, :out_w] = scaled
    label_map = np.zeros((options.size_px, options.size_px), dtype=np.int32)
    rows = y0 + nearest_index(height, out_h)
    columns = x0 + nearest_index(width, out_w)
    label_map[:out_h, :out_w] = scene.label_map[np.ix_(rows, columns)]

    ignored = weights = None
    if scene.ignored is not None:
        ignored = np.zeros(label_map.shape, dtype=np.bool_)
        ignored[:out_h, :out_w] = scene.ignored[np.ix_(rows, columns)]
    if scene.cell_weights is not None:
        places = _cells_read(y0, height, out_h, options.size_px), _cells_read(x0, width, out_w, options.size_px)
        weights = _read_cells(scene.cell_weights, *places)

    points_xy = (scene.points_xy - (x0, y0) + 0.5) * (out_w / width, out_h / height) - 0.5
    inside = ((points_xy >= -0.5) & (points_xy < (out_w - 0.5, out_h - 0.5))).all(axis=1)
    points_xy = points_xy[inside]
    if flip:
        pixels, label_map = pixels[:, ::-1], label_map[:, ::-1]
        points_xy = points_xy * (-1, 1) + (options.size_px - 1, 0)
        ignored = None if ignored is None else np.ascontiguousarray(ignored[:, ::-1])
        weights = None if weights is None else np.ascontiguousarray(weights[:, ::-1])
    return Crop(
        pixels=np.ascontiguousarray(pixels),
        points_xy=points_xy,
        point_prob=scene.point_prob[inside],
        labels=np.flatnonzero(inside).astype(np.int64) + 1,
        label_map=np.ascontiguousarray(label_map),
        ignored=ignored,
        cell_weights=weights,
    )


def random_span(side_px: int, window_px: int, size_px: int, generator: np.random.Generator) -> tuple[int, int, int]:
    """Give start and length in the scene, and length in the crop, along one axis."""
    length = min(side_px, window_px)
    start = int(generator.integers(0, side_px - length + 1))
    return start, length, size_px if length == window_px else min(size_px, max(1, round(length * size_px / window_px)))


def _cells_read(start: int, length: int, out_length: int, size_px: int) -> npt.NDArray[np.float64]:
    """Give along one axis where each cell of the crop has its centre, in cells of the scene; NaN beyond the image."""
    center = STRIDE * np.arange(size_px // STRIDE) + STRIDE / 2  # from the edge of the crop's first pixel
    place = (start + center * (length / out_length)) / STRIDE - 0.5
    return np.where(center < out_length, place, np.nan)


def _read_cells(
    cells: npt.NDArray[np.float32], y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Read a map of cells bilinearly at the crossings of rows and columns; 1 where there is no place."""
    read = np.ones((len(y), len(x)), dtype=np.float32)
    there = ~np.isnan(y), ~np.isnan(x)
    rows, columns = (Ticks.at(one[here], count) for one, here, count in zip((y, x), there, cells.shape, strict=True))
    read[np.ix_(*there)] = read_at(cells, rows, columns)
    return read


def made_ahead(make: Callable[[int], T], steps: range, *, workers: int) -> Generator[tuple[int, T]]:
    """Call ``make`` for each step in threads, a few steps ahead, and give the results in order."""
    with ThreadPoolExecutor(workers, thread_name_prefix="batches") as pool:
        waiting: deque[tuple[int, Future[T]]] = deque()
        try:
            for step in steps:
                waiting.append((step, pool.submit(make, step)))
                if len(waiting) > 2 * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
