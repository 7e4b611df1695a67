"""JHU-CROWD++: ``{train,val,test}/{images,gt}/nnnn.{jpg,txt}`` and ``{train,val,test}/image_labels.txt``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.annotation_files import files_by_stem, find_folder, image_files, pair_entries, read_lines
from pipeline.datasets.base import SPLITS, RawEntry, RawImage
from pipeline.datasets.flags import PointFlag
from pipeline.errors import PipelineError, raise_all

ROOTS = ("", "jhu_crowd_v2.0", "jhu_crowd", "JHU-CROWD++")
LABELS_FILE = "image_labels.txt"
LABEL_NAMES = ("count", "scene", "weather", "distractor")
OCCLUSION_FLAGS = {1: PointFlag(0), 2: PointFlag.PARTLY_OCCLUDED, 3: PointFlag.FULLY_OCCLUDED}


@dataclass(frozen=True)
class JhuCrowdReader:
    """Photographs in all weathers, with head boxes, occlusion and blur; a gt file may be empty."""

    name: ClassVar[str] = "jhu"
    version: ClassVar[int] = 1
    published: ClassVar[Mapping[str, tuple[int, int | None]]] = {
        "train": (2272, None),
        "val": (500, None),
        "test": (1600, None),
    }

    def scan(self, root: Path) -> list[RawEntry]:
        """List the images; ``root`` holds train, val and test, or the folder that does.

        Raises:
            PipelineError: If there is none of them, or one lacks its images or gt folder.
        """
        entries: list[RawEntry] = []
        faults: list[str] = []
        for split in SPLITS:
            folder = find_folder(root, [f"{name}/{split}" for name in ROOTS])
            if folder is None:
                continue
            images_folder, gt_folder = find_folder(folder, ["images"]), find_folder(folder, ["gt"])
            if images_folder is None or gt_folder is None:
                faults.append(f"{folder}: expected the folders images and gt")
                continue
            labels, label_faults = _read_labels(folder / LABELS_FILE)
            paired = pair_entries(
                image_files(images_folder),
                files_by_stem(gt_folder, [".txt"]),
                split=split,
                id_prefix=f"{folder.name}/{images_folder.name}/",
                expected=f"{gt_folder}/{{key}}.txt (an empty file where there are no heads)",
                lonely=f"{images_folder}/{{key}}.jpg",
                payloads=labels,
            )
            entries += paired
            faults += label_faults
        raise_all(faults, f"{root}: not the layout of JHU-CROWD++; complete or mend it")
        if not entries:
            raise PipelineError(
                f"{root}: expected the layout of JHU-CROWD++: train/images/0001.jpg, train/gt/0001.txt and "
                "train/image_labels.txt; put or link the data set there"
            )
        return entries

    def read(self, entry: RawEntry) -> RawImage:
        """Read lines of ``x y w h o b``: centre and size of the head box, occlusion 1 to 3, blur 0 or 1."""
        assert entry.annotation_path is not None
        path = entry.annotation_path
        rows: list[list[float]] = []
        faults: list[str] = []
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                continue
            fault, values = _parse_head(line)
            if fault:
                faults.append(f"line {number}: {fault}")
            else:
                rows.append(values)
        if faults:
            shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
            raise PipelineError(f"{path}: expected lines of 'x y w h o b': {shown}")
        table = np.array(rows, np.float64).reshape(-1, 6)
        boxes_wh_px = table[:, 2:4].copy()
        flags = _flags(table)
        boxes_wh_px[(flags & np.uint8(PointFlag.BAD_BOX)) > 0] = np.nan
        return RawImage(
            image_id=entry.image_id,
            path=entry.image_path,
            split=entry.split,
            points_xy=table[:, :2].copy(),
            class_id=np.zeros(len(table), np.int64),
            boxes_wh_px=boxes_wh_px,
            attributes=entry.payload or {},
            point_flags=flags,
        )


def _parse_head(line: str) -> tuple[str, list[float]]:
    """Parse one gt line into six numbers, or say what is wrong with it."""
    words = line.split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        return f"'{line.strip()}' is not six numbers", []
    if len(values) != 6:
        return f"{len(values)} numbers instead of six", []
    if not np.isfinite(values).all():
        return "NaN or infinity", []
    if values[4] not in OCCLUSION_FLAGS:
        return f"occlusion {words[4]} is not 1, 2 or 3", []
    if values[5] not in (0, 1):
        return f"blur {words[5]} is not 0 or 1", []
    return "", values


def _flags(table: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Turn the columns of the gt table into point flags."""
    flags = np.zeros(len(table), np.uint8)
    for occlusion, flag in OCCLUSION_FLAGS.items():
        flags[table[:, 4] == occlusion] |= np.uint8(flag)
    flags[table[:, 5] == 1] |= np.uint8(PointFlag.BLURRED)
    flags[(table[:, 2:4] <= 0).any(axis=1)] |= np.uint8(PointFlag.BAD_BOX)
    return flags


def _read_labels(path: Path) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Read ``id,count,scene,weather,distractor`` per image; without the file there are no attributes."""
    if not path.is_file():
        return {}, []
    labels: dict[str, dict[str, str]] = {}
    faults: list[str] = []
    for number, line in enumerate(read_lines(path), start=1):
        words = [word.strip() for word in line.split(",")]
        if not line.strip():
            continue
        if len(words) != 1 + len(LABEL_NAMES):
            faults.append(f"{path}: line {number}: expected 'id,count,scene,weather,distractor', got '{line.strip()}'")
        else:
            labels[words[0]] = dict(zip(LABEL_NAMES, words[1:], strict=True))
    return labels, faults
