"""ShanghaiTech parts A and B: ``{train,test}_data/images/IMG_n.jpg`` with ``ground-truth/GT_IMG_n.mat``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline.datasets.annotation_files import (
    as_points_xy,
    files_by_stem,
    find_folder,
    image_files,
    load_mat,
    mat_variable,
    pair_entries,
)
from pipeline.datasets.base import RawEntry, RawImage
from pipeline.errors import PipelineError

SPLIT_FOLDERS = {"train": ("train_data", "train"), "test": ("test_data", "test")}
ANNOTATION_FOLDERS = ("ground-truth", "ground_truth", "groundtruth", "gt")
ANNOTATION_PREFIX = "GT_"


@dataclass(frozen=True)
class ShanghaiTechReader:
    """What both parts share. Coordinates are taken as the files give them, as all published work does."""

    name: ClassVar[str]
    part: ClassVar[str]
    published: ClassVar[Mapping[str, tuple[int, int | None]]]
    version: ClassVar[int] = 1

    def scan(self, root: Path) -> list[RawEntry]:
        """List the images of this part; ``root`` is the part's folder or one of the folders above it.

        Raises:
            PipelineError: If no train or test folder is found.
        """
        variants = [f"part_{self.part}", f"part_{self.part}_final"]
        above = ["", "ShanghaiTech/", "ShanghaiTech_Crowd_Counting_Dataset/", "shanghaitech_with_people_density_map/"]
        entries: list[RawEntry] = []
        for name in [f"{folder}{variant}" for folder in above for variant in variants] + [""]:
            part_root = find_folder(root, [name])
            if part_root is None:
                continue
            for split, folders in SPLIT_FOLDERS.items():
                folder = find_folder(part_root, folders)
                if folder is not None:
                    entries += self._scan_split(folder, split)
            if entries:
                return entries
        raise PipelineError(
            f"{root}: expected the layout of ShanghaiTech part {self.part}: part_{self.part}/train_data/images/"
            f"IMG_1.jpg and part_{self.part}/train_data/ground-truth/GT_IMG_1.mat; put or link the data set there"
        )

    def _scan_split(self, folder: Path, split: str) -> list[RawEntry]:
        images_folder = find_folder(folder, ["images"])
        mats_folder = find_folder(folder, ANNOTATION_FOLDERS)
        if images_folder is None or mats_folder is None:
            missing = "images" if images_folder is None else "ground-truth (or ground_truth)"
            raise PipelineError(f"{folder}: expected a folder {missing}; complete the data set")
        mats = files_by_stem(mats_folder, [".mat"])
        return pair_entries(
            image_files(images_folder),
            {stem.removeprefix(ANNOTATION_PREFIX): path for stem, path in mats.items()},
            split=split,
            id_prefix=f"{folder.name}/{images_folder.name}/",
            expected=f"{mats_folder}/{ANNOTATION_PREFIX}{{key}}.mat",
            lonely=f"{images_folder}/{{key}}.jpg",
        )

    def read(self, entry: RawEntry) -> RawImage:
        """Read ``image_info[0, 0][0, 0]``: the fields location (N×2, xy) and number."""
        assert entry.annotation_path is not None
        path = entry.annotation_path
        info = mat_variable(path, load_mat(path), "image_info")
        try:
            record = info[0, 0][0, 0]
            location = record["location"]
        except (IndexError, ValueError, TypeError, KeyError) as error:
            raise PipelineError(
                f"{path}: expected image_info{{1,1}} to be a struct with the fields location and number; "
                "is this an annotation of another data set?"
            ) from error
        points_xy = as_points_xy(location, path, "image_info location")
        notes: tuple[str, ...] = ()
        number = np.ravel(record["number"]) if "number" in (record.dtype.names or ()) else np.zeros(0)
        if number.size == 1 and number.dtype.kind in "iuf" and number[0] != len(points_xy):
            notes = (f"{path}: the field number says {number[0]}, location holds {len(points_xy)} points",)
        return RawImage(
            image_id=entry.image_id,
            path=entry.image_path,
            split=entry.split,
            points_xy=points_xy,
            class_id=np.zeros(len(points_xy), np.int64),
            notes=notes,
        )


@dataclass(frozen=True)
class ShanghaiTechAReader(ShanghaiTechReader):
    """Part A: crowds from the web, very dense."""

    name: ClassVar[str] = "sha"
    part: ClassVar[str] = "A"
    published: ClassVar[Mapping[str, tuple[int, int | None]]] = {
        "train": (300, None),
        "test": (182, None),
        "total": (482, 241_677),
    }


@dataclass(frozen=True)
class ShanghaiTechBReader(ShanghaiTechReader):
    """Part B: streets of Shanghai."""

    name: ClassVar[str] = "shb"
    part: ClassVar[str] = "B"
    published: ClassVar[Mapping[str, tuple[int, int | None]]] = {
        "train": (400, None),
        "test": (316, None),
        "total": (716, 88_488),
    }
