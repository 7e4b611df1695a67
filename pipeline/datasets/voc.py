"""PASCAL VOC 2012: ``JPEGImages/*.jpg`` and the palette images of ``SegmentationObject`` and ``SegmentationClass``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline.datasets.annotation_files import find_folder, read_lines
from pipeline.datasets.base import RawEntry, RawImage
from pipeline.datasets.id_maps import id_windows, present_ids, read_id_map
from pipeline.datasets.mask_points import PointRule
from pipeline.datasets.masked_image import MaskedObject, masked_image
from pipeline.errors import PipelineError, raise_all

ROOTS = ("", "VOC2012", "VOCdevkit/VOC2012", "VOCtrainval/VOCdevkit/VOC2012")
LISTS = "ImageSets/Segmentation"
BORDER = 255
"""Pixels around every object that VOC leaves open; they belong to no mask."""
CLASS_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The classes 0, 1, …; VOC counts them from 1."""


@dataclass(frozen=True)
class VocReader(PointRule):
    """Photographs of everyday objects, 20 classes, with the mask of every object in the segmentation share."""

    name: ClassVar[str] = "voc"
    version: ClassVar[int] = 1
    published: ClassVar[Mapping[str, tuple[int, int | None]]] = {"train": (1464, None), "val": (1449, None)}

    def scan(self, root: Path) -> list[RawEntry]:
        """List the images of ``ImageSets/Segmentation/{train,val}.txt``.

        Raises:
            PipelineError: If the lists are missing, or an image is in both.
        """
        homes = (find_folder(root, [name]) for name in ROOTS)
        home = next((folder for folder in homes if folder and (folder / LISTS / "train.txt").is_file()), None)
        if home is None:
            raise PipelineError(
                f"{root}: expected the layout of VOC 2012: {LISTS}/train.txt and val.txt, JPEGImages, "
                "SegmentationObject and SegmentationClass; put or link the data set there"
            )
        entries, split_of = [], dict[str, str]()
        twice: list[str] = []
        for split in ("train", "val"):
            path = home / LISTS / f"{split}.txt"
            for name in sorted({line.strip() for line in read_lines(path) if line.strip()}):
                if name in split_of:
                    twice.append(f"{name}: in {split_of[name]} and {split}")
                split_of[name] = split
                image, objects = home / "JPEGImages" / f"{name}.jpg", home / "SegmentationObject" / f"{name}.png"
                classes = home / "SegmentationClass" / f"{name}.png"
                missing = [str(one) for one in (image, objects, classes) if not one.is_file()]
                fault = f"{path}: {name}: expected {' and '.join(missing)}; get the files again" if missing else ""
                entries.append(RawEntry(f"JPEGImages/{name}", split, image, objects, fault, payload=classes))
        raise_all(twice, f"{home / LISTS}: an image stands twice in train.txt and val.txt")
        return entries

    def read(self, entry: RawEntry) -> RawImage:
        """Read one image's objects; the class is that of most of an object's pixels.

        Raises:
            PipelineError: If an image of numbers is broken, the two differ in size, or an object has no class.
        """
        assert entry.annotation_path is not None
        path, expected = entry.annotation_path, "a palette image as VOC publishes it"
        object_map, class_map = (read_id_map(one, modes=("P", "L"), expected=expected) for one in (path, entry.payload))
        if object_map.shape != class_map.shape:
            raise PipelineError(
                f"{path}: is {object_map.shape[1]} × {object_map.shape[0]} pixels, {entry.payload} is "
                f"{class_map.shape[1]} × {class_map.shape[0]}; get both files again"
            )
        objects, faults = [], []
        ids = [number for number in present_ids(object_map) if number not in (0, BORDER)]
        for number, window in zip(ids, id_windows(object_map, ids), strict=True):
            height, width = window.mask.shape
            part = class_map[window.y0 : window.y0 + height, window.x0 : window.x0 + width]
            votes = np.bincount(part[window.mask], minlength=len(CLASS_NAMES) + 1)[: len(CLASS_NAMES) + 1]
            if not votes[1:].any():
                faults.append(f"object {number} has pixels of no class in {entry.payload}")
                continue
            objects.append(MaskedObject(window, class_id=int(votes[1:].argmax())))
        raise_all(faults, f"{path}: get this file and {entry.payload.name} of SegmentationClass again")
        return masked_image(
            entry, objects, self,
            class_names=CLASS_NAMES,
            class_source_ids=tuple(range(1, len(CLASS_NAMES) + 1)),
            size_hw=(object_map.shape[0], object_map.shape[1]),
        )  # fmt: skip
