"""A reader that renders its images, with true masks; at module level, so that worker processes can load it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline.datasets.base import NO_PUBLISHED_COUNTS, RawEntry, RawImage
from pipeline.errors import PipelineError


@dataclass(frozen=True)
class RenderingReader:
    """``count`` images with one square per point; image 1 is broken if ``broken``."""

    count: int = 3
    broken: bool = False

    name: ClassVar[str] = "rendering"
    version: ClassVar[int] = 4
    published: ClassVar[Mapping[str, tuple[int, int | None]]] = NO_PUBLISHED_COUNTS

    def scan(self, root: Path) -> list[RawEntry]:
        splits = ("train", "val", "test")
        return [RawEntry(f"{splits[k % 3]}/{k:04d}", splits[k % 3], payload=k) for k in range(self.count)]

    def read(self, entry: RawEntry) -> RawImage:
        if self.broken and entry.payload == 1:
            raise PipelineError("scene 1: cannot be drawn")
        rng = np.random.default_rng(entry.payload)
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        points_xy = np.array([[4.0, 5.0], [14.0, 9.0], [25.0, 12.0]])[: entry.payload % 4]
        truth = np.zeros((20, 30), np.int32)
        for k, (x, y) in enumerate(points_xy.astype(int)):
            if k < 2:  # the third person is hidden altogether
                truth[y - 2 : y + 3, x - 2 : x + 3] = k + 1
        return RawImage(
            image_id=entry.image_id,
            path=None,
            split=entry.split,
            points_xy=points_xy,
            class_id=np.zeros(len(points_xy), np.int64),
            attributes={"scene": str(entry.payload)},
            pixels=pixels,
            truth=truth,
            class_names=("person",),
        )
