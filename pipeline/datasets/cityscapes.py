"""Cityscapes: ``leftImg8bit/<split>/<city>/*_leftImg8bit.png`` and ``gtFine/…/*_gtFine_instanceIds.png``.

Test images have no public masks (the files there are empty on purpose): they are listed in the split ``hidden``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.datasets.annotation_files import files_by_stem, find_folder
from pipeline.datasets.base import HIDDEN_SPLIT, RawEntry, RawImage
from pipeline.datasets.id_maps import id_windows, present_ids, read_id_map
from pipeline.datasets.mask_points import PointRule
from pipeline.datasets.masked_image import MaskedObject, masked_image
from pipeline.errors import PipelineError

IMAGES, MASKS = "leftImg8bit", "gtFine"
IMAGE_END, MASK_END = "_leftImg8bit", "_gtFine_instanceIds"
CLASSES = {
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
"""Cityscapes' number of a class → its name: the eight that its instance benchmark evaluates."""
PER_CLASS = 1000
"""Object k of class c has the number 1000 c + k; a group of c that was outlined as one has c itself."""


@dataclass(frozen=True)
class CityscapesReader(PointRule):
    """Street scenes of 2048 × 1024 pixels, 8 classes; groups outlined as one are crowd regions."""

    name: ClassVar[str] = "cityscapes"
    version: ClassVar[int] = 1
    published: ClassVar[Mapping[str, tuple[int, int | None]]] = {
        "train": (2975, None),
        "val": (500, None),
        HIDDEN_SPLIT: (1525, None),
    }

    def scan(self, root: Path) -> list[RawEntry]:
        """List the images of all cities.

        Raises:
            PipelineError: If there are no training or validation images.
        """
        images = find_folder(root, [IMAGES])
        entries: list[RawEntry] = []
        for folder_name, split in (("train", "train"), ("val", "val"), ("test", HIDDEN_SPLIT)):
            folder = images / folder_name if images else None
            if folder is None or not folder.is_dir():
                continue
            for city in sorted(path for path in folder.iterdir() if path.is_dir()):
                masks = root / MASKS / folder_name / city.name
                for stem, image in files_by_stem(city, [".png"]).items():
                    mask, fault = masks / f"{stem.removesuffix(IMAGE_END)}{MASK_END}.png", ""
                    if split != HIDDEN_SPLIT and not mask.is_file():
                        fault = f"{image}: image without annotation; expected {mask}"
                    name = f"{IMAGES}/{folder_name}/{city.name}/{stem}"
                    entries.append(RawEntry(name, split, image, None if split == HIDDEN_SPLIT else mask, fault))
                entries += _lonely(masks, city, split)
        if all(entry.split == HIDDEN_SPLIT for entry in entries):
            raise PipelineError(
                f"{root}: expected the layout of Cityscapes: {IMAGES}/train/<city>/*{IMAGE_END}.png and "
                f"{MASKS}/train/<city>/*{MASK_END}.png; put or link the data set there"
            )
        return entries

    def read(self, entry: RawEntry) -> RawImage:
        """Read one image's objects of the eight classes.

        Raises:
            PipelineError: If the image of numbers is broken.
        """
        source_ids = tuple(CLASSES)
        objects, size_hw = [], None
        if entry.annotation_path is not None:
            id_map = read_id_map(
                entry.annotation_path,
                modes=("I;16", "I", "I;16B", "L"),
                expected="a 16-bit image of numbers as Cityscapes publishes it",
            )
            size_hw = (id_map.shape[0], id_map.shape[1])
            ids = [number for number in present_ids(id_map) if _class_of(number) in CLASSES]
            objects = [
                MaskedObject(window, class_id=source_ids.index(_class_of(number)), region=number < PER_CLASS)
                for number, window in zip(ids, id_windows(id_map, ids), strict=True)
            ]
        return masked_image(
            entry, objects, self,
            class_names=tuple(CLASSES.values()), class_source_ids=source_ids, size_hw=size_hw,
        )  # fmt: skip


def _class_of(number: int) -> int:
    return number if number < PER_CLASS else number // PER_CLASS


def _lonely(masks: Path, city: Path, split: str) -> list[RawEntry]:
    """Annotations of one city whose image is missing, as entries with a fault."""
    if split == HIDDEN_SPLIT or not masks.is_dir():
        return []
    entries = []
    for stem, mask in files_by_stem(masks, [".png"]).items():
        name = f"{stem.removesuffix(MASK_END)}{IMAGE_END}"
        image = city / f"{name}.png"
        if stem.endswith(MASK_END) and not image.is_file():
            fault = f"{mask}: annotation without image; expected {image}"
            entries.append(RawEntry(f"{IMAGES}/{city.parent.name}/{city.name}/{name}", split, None, mask, fault))
    return entries
