"""COCO and everything in its form: an instances JSON and a folder of images for each split."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.base import NO_PUBLISHED_COUNTS, SPLITS, RawEntry, RawImage
from pipeline.datasets.coco_index import CocoIndex, index_coco, read_annotations
from pipeline.datasets.coco_masks import segmentation_to_window
from pipeline.datasets.images import image_size_hw
from pipeline.datasets.mask_points import PointRule
from pipeline.datasets.masked_image import MaskedObject, masked_image
from pipeline.errors import raise_all

ANNOTATIONS = {"train": "annotations/instances_train2017.json", "val": "annotations/instances_val2017.json"}
IMAGES = {"train": "train2017", "val": "val2017"}
PUBLISHED = {"train": (118_287, 860_001), "val": (5_000, 36_781)}
"""Images and annotations of COCO 2017, crowd regions counted."""


@dataclass(frozen=True)
class Classes:
    """The categories of a data set, in the order of our numbers from 0.

    Args:
        names: Their names.
        source_ids: The source's numbers, rising, maybe with gaps.
    """

    names: tuple[str, ...]
    source_ids: tuple[int, ...]


@dataclass(frozen=True)
class CocoPlace:
    """Where one image's annotations stand; small, since it travels to a worker.

    Args:
        spans: (N, 2) int64 bytes of the file.
        size_hw: Height and width as stated there; ``None`` where they are not.
        classes: The categories.
    """

    spans: NDArray[np.int64]
    size_hw: tuple[int, int] | None
    classes: Classes


@dataclass(frozen=True)
class CocoReader(PointRule):
    """Instances with a category and a mask; ``iscrowd`` (or ``ignore``) makes one a crowd region.

    Args:
        annotations: Split → instances file, below the raw folder.
        images: Split → folder that its file names start from, below the raw folder; ``""`` for the raw folder itself.
    """

    annotations: Mapping[str, str] = field(default_factory=lambda: dict(ANNOTATIONS))
    images: Mapping[str, str] = field(default_factory=lambda: dict(IMAGES))

    name: ClassVar[str] = "coco"
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Raise ValueError for splits that are none, or that one option names and the other does not."""
        super().__post_init__()
        unknown = sorted(set(self.annotations) - set(SPLITS))
        if unknown or not self.annotations:
            raise ValueError(f"annotations must name files of {', '.join(SPLITS)}, got {', '.join(unknown) or 'none'}")
        if set(self.annotations) - set(self.images):
            missing = ", ".join(sorted(set(self.annotations) - set(self.images)))
            raise ValueError(f"images must name the folder of every split of annotations; {missing} missing")

    @property
    def published(self) -> Mapping[str, tuple[int, int | None]]:
        """COCO 2017's counts, of the splits that are read from its own files."""
        own = {split: PUBLISHED[split] for split, file in self.annotations.items() if ANNOTATIONS.get(split) == file}
        return own or NO_PUBLISHED_COUNTS

    def scan(self, root: Path) -> list[RawEntry]:
        """Index the instances files.

        Raises:
            PipelineError: If a file is missing or broken, or the splits have different categories.
        """
        paths = {split: root / self.annotations[split] for split in SPLITS if split in self.annotations}
        missing = [str(path) for path in paths.values() if not path.is_file()]
        raise_all(
            missing,
            f"{root}: expected these instances files; put or link them there, or name those you have by the reader's "
            "option annotations",
        )
        indices = {split: index_coco(path) for split, path in paths.items()}
        first = next(iter(indices.values()))
        differ = [str(one.path) for one in indices.values() if one.categories != first.categories]
        raise_all(differ, f"{first.path}: the splits must have the same categories, these files have others")
        classes = Classes(tuple(first.categories.values()), tuple(first.categories))
        return [
            entry
            for split, index in indices.items()
            for entry in _entries(root, split, self.images[split], index, classes)
        ]

    def read(self, entry: RawEntry) -> RawImage:
        """Read one image's annotations.

        Raises:
            PipelineError: If an annotation has an unknown category, or a mask or box that cannot be used.
        """
        path, place = entry.annotation_path, entry.payload
        assert path is not None
        assert entry.image_path is not None
        size_hw = place.size_hw or image_size_hw(entry.image_path)
        number_of = {source_id: number for number, source_id in enumerate(place.classes.source_ids)}
        objects, faults = [], []
        for annotation in read_annotations(path, place.spans):
            try:
                objects.append(_object(annotation, number_of, size_hw))
            except ValueError as error:
                faults.append(f"annotation {annotation.get('id')}: {error}")
        raise_all(faults, f"{path}: mend or remove these annotations of {entry.image_path}")
        return masked_image(
            entry, objects, self,
            class_names=place.classes.names, class_source_ids=place.classes.source_ids, size_hw=place.size_hw,
        )  # fmt: skip


def _entries(root: Path, split: str, folder: str, index: CocoIndex, classes: Classes) -> list[RawEntry]:
    """One entry for each image of a file, and one for each image that its annotations name and it does not."""
    entries = []
    for image in index.images:
        name = PurePosixPath(folder, image.file_name.replace("\\", "/"))
        path = root / name
        fault = "" if path.is_file() else f"{index.path}: {image.file_name}: annotation without image; expected {path}"
        place = CocoPlace(image.spans, image.size_hw, classes)
        entries.append(RawEntry(str(name.with_suffix("")), split, path, index.path, fault, place))
    for image_id, count in sorted(index.orphans.items()):
        fault = (
            f"{index.path}: {count} annotations are of image {image_id}, which the list images does not have; "
            "remove them, or add the image"
        )
        entries.append(RawEntry(f"{PurePosixPath(folder, split)} no image {image_id}", split, None, index.path, fault))
    return entries


def _object(annotation: dict[str, Any], number_of: Mapping[int, int], size_hw: tuple[int, int]) -> MaskedObject:
    """Turn one annotation into an object; raise ValueError for what cannot be used."""
    category = annotation.get("category_id")
    if not isinstance(category, int) or category not in number_of:
        raise ValueError(f"category_id {category} is none of the file's categories")
    box = annotation.get("bbox")
    if box is not None:
        numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)
        if not (numbers and all(math.isfinite(side) for side in box)):
            raise ValueError(f"bbox: expected [x, y, width, height], got {str(box)[:60]}")
        box = tuple(float(side) for side in box)
    window = segmentation_to_window(annotation.get("segmentation"), size_hw)
    if box is None and not window.mask.any():
        raise ValueError("has neither a mask with pixels nor a bbox, so that no point can stand for it")
    region = bool(annotation.get("iscrowd")) or bool(annotation.get("ignore"))
    return MaskedObject(window, number_of[category], region, box)
