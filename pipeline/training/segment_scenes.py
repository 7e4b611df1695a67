"""Images with their instances as SOLOv2's training sees them: masks, classes, and regions of which nothing is known.

Training reads true masks through :func:`segment_scenes` alone, of the images that it is told are strong; the weak ones
come from a store of pseudo-labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import Prepared
from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.store import MaskStore
from pipeline.training.kept import Kept


@dataclass(frozen=True)
class SegmentScene:
    """One image.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        rows: Its instances; those that are not ``ok`` are ignored where their mask lies.
        pseudo: Whether they are a teacher's.
    """

    pixels: npt.NDArray[np.uint8]
    rows: Instances
    pseudo: bool = False

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        if self.rows.size_hw != self.pixels.shape[:2]:
            raise ValueError(f"masks of {self.rows.size_hw} and pixels {self.pixels.shape} do not fit")

    @property
    def n_bytes(self) -> int:
        """Memory, roughly: pixels and run lengths."""
        soft = sum(len(blob) for blob in self.rows.prob_q8 or () if blob is not None)
        return self.pixels.nbytes + sum(len(rle) for rle in self.rows.rle) + soft + 200 * len(self.rows)


@dataclass(frozen=True)
class SegmentScenes:
    """Scenes by position.

    Args:
        image_ids: The images, in order.
        kept: Gives a scene by its image.
    """

    image_ids: tuple[str, ...]
    kept: Kept[str, SegmentScene]

    def __len__(self) -> int:
        """Give the number of images."""
        return len(self.image_ids)

    def __getitem__(self, position: int) -> SegmentScene:
        """Give the scene at a position."""
        return self.kept[self.image_ids[position]]


def segment_scenes(
    prepared: Prepared, strong: MaskStore, strong_ids: Sequence[str], weak: MaskStore | None, *, n_classes: int,
    cache_mib: int,
) -> SegmentScenes:  # fmt: skip
    """Give the strong images with their true masks, then the weak ones with their pseudo-labels.

    Args:
        prepared: The data set; no points are read.
        strong: True masks, or an annotator's; read for the strong images only.
        strong_ids: Strong images.
        weak: Pseudo-labels of the weak images, if they are to be learnt from.
        n_classes: Number of classes.
        cache_mib: Memory for decoded images.

    Raises:
        PipelineError: If a strong image has no masks, or an image has both kinds.
    """
    missing = sorted(set(strong_ids) - set(strong.image_ids))
    if missing:
        raise PipelineError(
            f"{strong.path}: lacks {len(missing)} strong images ({', '.join(missing[:5])} …); run the annotate stage "
            "again, on the same prepared tables"
        )
    weak_ids = [] if weak is None else list(weak.image_ids)
    both = sorted(set(strong_ids) & set(weak_ids))
    if both:
        raise PipelineError(
            f"{'' if weak is None else weak.path}: holds pseudo-labels of {len(both)} strong images "
            f"({', '.join(both[:5])} …): it belongs to another split; run the pseudo_label stage again"
        )
    known = set(strong_ids)

    def read(image_id: str) -> SegmentScene:
        store = strong if weak is None or image_id in known else weak
        rows = store.instances(image_id)
        if len(rows) and not (rows.class_id.min() >= 0 and rows.class_id.max() < n_classes):
            raise PipelineError(
                f"{store.path}: {image_id} has rows of class {int(rows.class_id.min())} to {int(rows.class_id.max())}, "
                f"expected 0 to {n_classes - 1}; run the stage that makes the store again"
            )
        return SegmentScene(read_image_rgb(prepared.image(image_id).path), rows, pseudo=store is weak)

    return SegmentScenes((*strong_ids, *weak_ids), Kept(read, cache_mib=cache_mib))


def unseen_classes(
    strong: MaskStore, strong_ids: Sequence[str], weak: MaskStore | None, *, class_names: Sequence[str]
) -> tuple[str, ...]:
    """Name the classes of which a training sees no instance: no row that is ``ok`` and has pixels, on any image.

    Args:
        strong: As for :func:`segment_scenes`.
        strong_ids: As there.
        weak: As there.
        class_names: Names of the classes 0, 1, ….
    """
    seen: set[int] = set()
    for store, image_ids in ((strong, strong_ids), (weak, None)):
        if store is None:
            continue
        rows = store.read_columns(["image_id", "class_id", "status", "area_px"])
        learnt = pc.and_(pc.equal(rows["status"], "ok"), pc.greater(rows["area_px"], 0))
        if image_ids is not None:
            learnt = pc.and_(learnt, pc.is_in(rows["image_id"], value_set=pa.array(image_ids, pa.string())))
        seen |= set(pc.unique(rows["class_id"].filter(learnt)).to_pylist())
    return tuple(name for class_id, name in enumerate(class_names) if class_id not in seen)
