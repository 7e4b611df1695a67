"""UCF-QNRF: ``{Train,Test}/img_nnnn.jpg`` beside ``img_nnnn_ann.mat``."""

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

ANNOTATION_SUFFIX = "_ann"
ROOTS = ("", "UCF-QNRF_ECCV18", "UCF-QNRF", "UCF_QNRF")


@dataclass(frozen=True)
class UcfQnrfReader:
    """Large photographs from the web, up to 12,865 heads."""

    name: ClassVar[str] = "qnrf"
    version: ClassVar[int] = 1
    published: ClassVar[Mapping[str, tuple[int, int | None]]] = {
        "train": (1201, None),
        "test": (334, None),
        "total": (1535, 1_251_642),
    }

    def scan(self, root: Path) -> list[RawEntry]:
        """List the images; ``root`` holds Train and Test, or the folder that does.

        Raises:
            PipelineError: If there is neither.
        """
        entries: list[RawEntry] = []
        for split in ("train", "test"):
            folder = find_folder(root, [f"{name}/{split}" for name in ROOTS])
            if folder is not None:
                mats = files_by_stem(folder, [".mat"])
                entries += pair_entries(
                    image_files(folder),
                    {stem.removesuffix(ANNOTATION_SUFFIX): path for stem, path in mats.items()},
                    split=split,
                    id_prefix=f"{folder.name}/",
                    expected=f"{folder}/{{key}}{ANNOTATION_SUFFIX}.mat",
                    lonely=f"{folder}/{{key}}.jpg",
                )
        if not entries:
            raise PipelineError(
                f"{root}: expected the layout of UCF-QNRF: Train/img_0001.jpg and Train/img_0001_ann.mat; "
                "put or link the data set there"
            )
        return entries

    def read(self, entry: RawEntry) -> RawImage:
        """Read ``annPoints`` (N×2, xy)."""
        assert entry.annotation_path is not None
        path = entry.annotation_path
        points_xy = as_points_xy(mat_variable(path, load_mat(path), "annPoints"), path, "annPoints")
        return RawImage(
            image_id=entry.image_id,
            path=entry.image_path,
            split=entry.split,
            points_xy=points_xy,
            class_id=np.zeros(len(points_xy), np.int64),
        )
