"""BDD100K instance segmentation: ``images/10k/<split>/*.jpg`` and ``labels/ins_seg/bitmasks/<split>/*.png``.

A bitmask is an RGBA image of numbers: R is the class, from 1; G has the bits truncated (8), occluded (4), crowd (2) and
ignore (1); the object's number is 256 B + A. Alpha is a number, too: a tool that takes it for transparency spoils it.
Test images have no public masks: they are listed in the split ``hidden``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline.datasets.annotation_files import files_by_stem, find_folder, image_files, pair_entries
from pipeline.datasets.base import HIDDEN_SPLIT, RawEntry, RawImage
from pipeline.datasets.flags import PointFlag
from pipeline.datasets.id_maps import id_windows, present_ids, read_id_map
from pipeline.datasets.mask_points import PointRule
from pipeline.datasets.masked_image import MaskedObject, masked_image
from pipeline.errors import PipelineError, raise_all

ROOTS = ("", "bdd100k")
IMAGES = "images/10k"
BITMASKS = "labels/ins_seg/bitmasks"
CLASS_NAMES = ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
"""The classes 0, 1, …; BDD100K counts them from 1."""
IGNORE, CROWD, OCCLUDED = 1, 2, 4


@dataclass(frozen=True)
class Bdd100kReader(PointRule):
    """Street scenes of 1280 × 720 pixels, 8 classes; objects marked as crowd or ignore are crowd regions."""

    name: ClassVar[str] = "bdd100k"
    version: ClassVar[int] = 1
    published: ClassVar[Mapping[str, tuple[int, int | None]]] = {
        "train": (7000, None),
        "val": (1000, None),
        HIDDEN_SPLIT: (2000, None),
    }

    def scan(self, root: Path) -> list[RawEntry]:
        """List the images of the three splits.

        Raises:
            PipelineError: If there are no training or validation images with bitmasks.
        """
        home = next((one for name in ROOTS if (one := find_folder(root, [name])) and (one / BITMASKS).is_dir()), None)
        entries: list[RawEntry] = []
        for split in ("train", "val"):
            if home is None:
                break
            images, masks = home / IMAGES / split, home / BITMASKS / split
            if images.is_dir() or masks.is_dir():
                entries += pair_entries(
                    image_files(images) if images.is_dir() else {},
                    files_by_stem(masks, [".png"]) if masks.is_dir() else {},
                    split=split,
                    id_prefix=f"{IMAGES}/{split}/",
                    expected=f"{masks}/{{key}}.png",
                    lonely=f"{images}/{{key}}.jpg",
                )
        if home is None or not entries:
            raise PipelineError(
                f"{root}: expected the layout of BDD100K: {IMAGES}/train/*.jpg and {BITMASKS}/train/*.png; put or link "
                "the data set there (its polygons are not read: they are curves, and its own evaluation uses the "
                "bitmasks)"
            )
        test = home / IMAGES / "test"
        hidden = image_files(test) if test.is_dir() else {}
        return entries + [RawEntry(f"{IMAGES}/test/{key}", HIDDEN_SPLIT, path) for key, path in hidden.items()]

    def read(self, entry: RawEntry) -> RawImage:
        """Read one image's objects.

        Raises:
            PipelineError: If the bitmask is broken, or an object has two classes or a class that is none of the eight.
        """
        objects, size_hw = [], None
        if entry.annotation_path is not None:
            path = entry.annotation_path
            rgba = read_id_map(path, modes=("RGBA",), expected="an RGBA bitmask as BDD100K publishes it")
            size_hw = (rgba.shape[0], rgba.shape[1])
            id_map = np.asarray(256 * rgba[..., 2].astype(np.uint16) + rgba[..., 3], np.uint16)
            faults = []
            ids = [number for number in present_ids(id_map) if number]
            for number, window in zip(ids, id_windows(id_map, ids), strict=True):
                height, width = window.mask.shape
                part = rgba[window.y0 : window.y0 + height, window.x0 : window.x0 + width][window.mask]
                classes, bits = np.unique(part[:, 0]).tolist(), int(np.bitwise_or.reduce(part[:, 1]))
                if len(classes) > 1 or not 1 <= classes[0] <= len(CLASS_NAMES):
                    faults.append(f"object {number} has class {', '.join(map(str, classes))}")
                    continue
                region = bool(bits & (IGNORE | CROWD))
                flags = PointFlag.PARTLY_OCCLUDED if bits & OCCLUDED else 0
                objects.append(MaskedObject(window, class_id=classes[0] - 1, region=region, flags=flags))
            raise_all(faults, f"{path}: expected one class from 1 to {len(CLASS_NAMES)} for each object; get it again")
        return masked_image(
            entry, objects, self,
            class_names=CLASS_NAMES,
            class_source_ids=tuple(range(1, len(CLASS_NAMES) + 1)),
            size_hw=size_hw,
        )  # fmt: skip
