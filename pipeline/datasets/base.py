"""What a data set reader is, and the registry of readers.

Adding a data set takes one file with a reader class, one line in ``READERS`` and one test. A reader does three things:
it says what the published counts are, it lists the images (``scan``), and it reads one image's points (``read``).
``prepare`` does the rest: it decodes every image, checks and flags the points, and writes the tables.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.flags import PointFlag
from pipeline.errors import PipelineError
from pipeline.masks.rle import Window

SPLITS = ("train", "val", "test")
HIDDEN_SPLIT = "hidden"
"""Split of images whose points nobody but the publisher has (NWPU's test images): no training and no evaluation."""

READERS: dict[str, str] = {
    "sha": "pipeline.datasets.shanghaitech:ShanghaiTechAReader",
    "shb": "pipeline.datasets.shanghaitech:ShanghaiTechBReader",
    "qnrf": "pipeline.datasets.ucf_qnrf:UcfQnrfReader",
    "jhu": "pipeline.datasets.jhu_crowd:JhuCrowdReader",
    "nwpu": "pipeline.datasets.nwpu:NwpuReader",
    "folder": "pipeline.datasets.folder:FolderReader",
    "synthetic": "pipeline.datasets.synthetic:SyntheticReader",
    "coco": "pipeline.datasets.coco:CocoReader",
    "voc": "pipeline.datasets.voc:VocReader",
    "cityscapes": "pipeline.datasets.cityscapes:CityscapesReader",
    "bdd100k": "pipeline.datasets.bdd100k:Bdd100kReader",
    "synthetic_shapes": "pipeline.datasets.synthetic_shapes:SyntheticShapesReader",
}
"""Name of a reader → ``module:class``. Modules are imported when asked for."""


@dataclass(frozen=True)
class RawEntry:
    """One image of a raw data set, found but not read yet.

    Args:
        image_id: Path below the data set's own root without extension, ``/`` kept; unique, never leaves the root.
        split: ``train``, ``val``, ``test``, or ``hidden`` where the points are not public.
        image_path: The image file; ``None`` where the reader renders it, or where it is missing (then ``fault``).
        annotation_path: The file of its points, where there is one file per image.
        fault: Why this entry cannot be read, naming the file and the remedy; empty for a sound one. Scans report
            images without annotation and annotations without image this way, so that all are told at once.
        payload: What the scan has read already and ``read`` needs; must pickle.
    """

    image_id: str
    split: str
    image_path: Path | None = None
    annotation_path: Path | None = None
    fault: str = ""
    payload: Any = None


@dataclass(frozen=True)
class RawImage:
    """One image's annotation as its source gives it, and its pixels where the reader makes them.

    Args:
        image_id: As in the entry.
        path: The image file; ``None`` if ``pixels`` are given.
        split: As in the entry.
        points_xy: (N, 2) float64, pixels of the image after EXIF rotation, finite; may lie outside the image. Crowd
            regions come after all others.
        class_id: (N,) int64, from 0.
        boxes_wh_px: (N, 2) float64 width and height of the boxes, NaN where one is unknown; ``None`` without.
        attributes: What the source says about the whole image (scene, weather, …).
        point_flags: (N,) uint8, bits of :class:`~pipeline.datasets.flags.PointFlag` that only the source knows.
        pixels: (H, W, 3) uint8 where the reader renders; ``prepare`` saves them as PNG.
        truth: Masks, where the source has them: a (H, W) int32 label map, in which point k has value k + 1 and 0 is
            background; or a tuple of one window for each point, which may overlap, without pixels for an empty mask.
        size_hw: Height and width that the annotation states, for ``prepare`` to compare with the image's; ``None``
            where it states none.
        class_names: Names of the classes 0, 1, …, the same for all images of a data set; empty without.
        class_source_ids: The source's own numbers of the classes 0, 1, …, for exports; empty where it has none.
        notes: Oddities that are no faults; ``prepare`` prints them.
    """

    image_id: str
    path: Path | None
    split: str
    points_xy: NDArray[np.float64]
    class_id: NDArray[np.int64]
    boxes_wh_px: NDArray[np.float64] | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    point_flags: NDArray[np.uint8] | None = None
    pixels: NDArray[np.uint8] | None = None
    truth: NDArray[np.int32] | tuple[Window, ...] | None = None
    size_hw: tuple[int, int] | None = None
    class_names: tuple[str, ...] = ()
    class_source_ids: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError where the arrays do not fit each other: a mistake of the reader."""
        count = len(self.points_xy)
        if self.points_xy.shape != (count, 2):
            raise ValueError(f"{self.image_id}: points_xy must have shape (N, 2), got {self.points_xy.shape}")
        shapes: dict[str, tuple[NDArray[Any] | None, tuple[int, ...]]] = {
            "class_id": (self.class_id, (count,)),
            "boxes_wh_px": (self.boxes_wh_px, (count, 2)),
            "point_flags": (self.point_flags, (count,)),
        }
        for name, (array, shape) in shapes.items():
            if array is not None and array.shape != shape:
                raise ValueError(f"{self.image_id}: {name} must have shape {shape}, got {array.shape}")
        if isinstance(self.truth, np.ndarray):
            if self.pixels is not None and self.truth.shape != self.pixels.shape[:2]:
                raise ValueError(f"{self.image_id}: truth {self.truth.shape} must fit pixels {self.pixels.shape[:2]}")
        elif self.truth is not None and len(self.truth) != count:
            raise ValueError(f"{self.image_id}: truth must have a mask for each point, {count}, not {len(self.truth)}")
        if self.class_source_ids and len(self.class_source_ids) != len(self.class_names):
            raise ValueError(f"{self.image_id}: class_source_ids must have one number for each of class_names")
        if (np.diff(self.is_region.astype(np.int8)) < 0).any():
            raise ValueError(f"{self.image_id}: crowd regions must come after all other points")

    @property
    def is_region(self) -> NDArray[np.bool_]:
        """(N,) bool: which points stand for a crowd region."""
        if self.point_flags is None:
            return np.zeros(len(self.points_xy), np.bool_)
        found: NDArray[np.bool_] = (self.point_flags & np.uint8(PointFlag.REGION)) > 0
        return found


class DatasetReader(Protocol):
    """Reads one layout. A frozen dataclass whose fields are its options in ``prepare.sources``; it must pickle."""

    @property
    def name(self) -> str:
        """Name in the registry."""

    @property
    def version(self) -> int:
        """Raised by hand whenever the same raw files would give other tables."""

    @property
    def published(self) -> Mapping[str, tuple[int, int | None]]:
        """Split, or ``total`` → published (images, heads), heads ``None`` where not published; empty if unknown."""

    def scan(self, root: Path) -> list[RawEntry]:
        """List the images below ``root``; entries that cannot be read carry a ``fault``.

        Raises:
            PipelineError: If ``root`` does not have the layout at all.
        """

    def read(self, entry: RawEntry) -> RawImage:
        """Read the points of one sound entry (and render its pixels and truth, where the reader does that).

        Raises:
            PipelineError: If the annotation is broken; the message names its file.
        """


NO_PUBLISHED_COUNTS: Mapping[str, tuple[int, int | None]] = {}
"""For data sets of one's own. A plain dict, since readers travel between processes."""


def get_reader(name: str, options: Mapping[str, Any] | None = None) -> DatasetReader:
    """Build the reader registered under ``name`` with the options of its entry in ``prepare.sources``.

    Raises:
        PipelineError: If the name or an option is unknown, or an option's value is refused.
    """
    if name not in READERS:
        raise PipelineError(f"prepare.sources: unknown reader '{name}'; expected one of {', '.join(sorted(READERS))}")
    module_name, class_name = READERS[name].split(":")
    reader_class = getattr(importlib.import_module(module_name), class_name)
    given = dict(options or {})
    known = [option.name for option in dataclasses.fields(reader_class) if option.init]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise PipelineError(
            f"prepare.sources: reader '{name}' has no option {', '.join(unknown)}; "
            f"it takes {', '.join(known) if known else 'none'}"
        )
    try:
        reader: DatasetReader = reader_class(**given)
    except (TypeError, ValueError) as error:
        raise PipelineError(f"prepare.sources: reader '{name}': {error}") from error
    return reader
