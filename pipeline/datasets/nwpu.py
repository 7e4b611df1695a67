"""NWPU-Crowd: ``images/nnnn.jpg``, ``jsons/nnnn.json``, ``mats/nnnn.mat`` and ``{train,val,test}.txt``.

The points of the test images are not public: those images are listed in the split ``hidden``.
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.annotation_files import (
    as_numbers,
    as_points_xy,
    files_by_stem,
    find_folder,
    image_files,
    load_mat,
    mat_variable,
    read_lines,
)
from pipeline.datasets.base import HIDDEN_SPLIT, SPLITS, RawEntry, RawImage
from pipeline.datasets.flags import PointFlag
from pipeline.errors import PipelineError, raise_all

ROOTS = ("", "NWPU-Crowd", "NWPU_Crowd", "NWPU")


@dataclass(frozen=True)
class NwpuReader:
    """Photographs of crowds with head boxes, up to 20,033 heads, some without any."""

    name: ClassVar[str] = "nwpu"
    version: ClassVar[int] = 1
    published: ClassVar[Mapping[str, tuple[int, int | None]]] = {
        "train": (3109, None),
        "val": (500, None),
        HIDDEN_SPLIT: (1500, None),
    }

    def scan(self, root: Path) -> list[RawEntry]:
        """List the images of train.txt, val.txt and test.txt; JSON annotations win over .mat ones.

        Raises:
            PipelineError: If the images or the lists are missing, or an image is in no list or in two.
        """
        homes = [find_folder(root, [name]) for name in ROOTS]
        home = next((folder for folder in homes if folder and (folder / "train.txt").is_file()), None)
        images_folder = find_folder(home, ["images"]) if home else None
        if home is None or images_folder is None:
            raise PipelineError(
                f"{root}: expected the layout of NWPU-Crowd: images/0001.jpg, jsons/0001.json (or mats/0001.mat), "
                "train.txt, val.txt and test.txt; put or link the data set there"
            )
        annotations: dict[str, Path] = {}
        for name, suffix in (("mats", ".mat"), ("jsons", ".json")):
            folder = find_folder(home, [name])
            annotations |= files_by_stem(folder, [suffix]) if folder else {}
        images = _all_images(home)
        split_of = _read_lists(home)
        prefix = images_folder.name
        entries = []
        for key in sorted(images.keys() | annotations.keys() | split_of.keys()):
            image, annotation, split = images.get(key), annotations.get(key), split_of.get(key, "")
            fault = ""
            if image is None:
                source = str(annotation) if annotation else f"{home}/{split}.txt: {key}"
                fault = f"{source}: annotation without image; expected {images_folder}/{key}.jpg"
            elif not split:
                fault = f"{image}: stands in none of train.txt, val.txt and test.txt; add it to one or remove it"
            elif annotation is None and split == "test":
                split = HIDDEN_SPLIT
            elif annotation is None:
                fault = f"{image}: image without annotation; expected {home}/jsons/{key}.json or {home}/mats/{key}.mat"
            entries.append(RawEntry(f"{prefix}/{key}", split, image, annotation, fault))
        return entries

    def read(self, entry: RawEntry) -> RawImage:
        """Read ``points`` and ``boxes`` (xyxy) of the JSON, or ``annPoints`` and ``annBoxes`` of the .mat file."""
        path = entry.annotation_path
        if path is None:
            points_xy, boxes_xyxy, number = np.zeros((0, 2)), None, None
        elif path.suffix.lower() == ".json":
            points_xy, boxes_xyxy, number = _read_json(path)
        else:
            points_xy, boxes_xyxy, number = _read_mat(path)
        notes = []
        if number is not None and number != len(points_xy):
            notes.append(f"{path}: human_num says {number}, points holds {len(points_xy)} points")
        if boxes_xyxy is not None and len(boxes_xyxy) != len(points_xy):
            notes.append(f"{path}: {len(boxes_xyxy)} boxes do not fit {len(points_xy)} points; the boxes are left out")
            boxes_xyxy = None
        boxes_wh_px, flags = None, np.zeros(len(points_xy), np.uint8)
        if boxes_xyxy is not None:
            boxes_wh_px = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
            bad = (boxes_wh_px <= 0).any(axis=1)
            boxes_wh_px[bad] = np.nan
            flags[bad] = np.uint8(PointFlag.BAD_BOX)
        return RawImage(
            image_id=entry.image_id,
            path=entry.image_path,
            split=entry.split,
            points_xy=points_xy,
            class_id=np.zeros(len(points_xy), np.int64),
            boxes_wh_px=boxes_wh_px,
            point_flags=flags,
            notes=tuple(notes),
        )


Annotation = tuple[NDArray[np.float64], NDArray[np.float64] | None, int | None]


def _read_json(path: Path) -> Annotation:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path}: not a readable JSON file ({error}); get the file again") from error
    if not isinstance(content, dict) or "points" not in content:
        raise PipelineError(f"{path}: expected an object with the key 'points'; is it of another data set?")
    boxes = content.get("boxes")
    number = content.get("human_num")
    return (
        as_points_xy(content["points"], path, "points"),
        None if boxes is None else as_numbers(boxes, path, "boxes", columns=4),
        number if isinstance(number, int) else None,
    )


def _read_mat(path: Path) -> Annotation:
    variables = load_mat(path)
    points_xy = as_points_xy(mat_variable(path, variables, "annPoints"), path, "annPoints")
    boxes = variables.get("annBoxes")
    return points_xy, None if boxes is None else as_numbers(boxes, path, "annBoxes", columns=4), None


def _all_images(home: Path) -> dict[str, Path]:
    """Images of ``images`` and of ``images_part1`` …, as the archives unpack."""
    found: dict[str, Path] = {}
    for entry in sorted(os.scandir(home), key=lambda entry: entry.name):
        if entry.is_dir() and (entry.name.lower() == "images" or entry.name.lower().startswith("images_part")):
            found |= {key: path for key, path in image_files(home / entry.name).items() if key not in found}
    return found


def _read_lists(home: Path) -> dict[str, str]:
    """Image name → split; the name is the first word of a line."""
    splits_of: dict[str, list[str]] = defaultdict(list)
    for split in SPLITS:
        path = home / f"{split}.txt"
        if path.is_file() or split != "test":
            for line in read_lines(path):
                if line.strip():
                    splits_of[line.split()[0].removesuffix(".jpg")].append(split)
    twice = [f"{key}: in {' and '.join(splits)}" for key, splits in sorted(splits_of.items()) if len(splits) > 1]
    raise_all(twice, f"{home}: an image stands twice in train.txt, val.txt and test.txt")
    return {key: splits[0] for key, splits in splits_of.items()}
