"""From the masks of one image to what a reader hands over: points by a rule, boxes, flags, regions last."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.base import RawEntry, RawImage
from pipeline.datasets.flags import PointFlag
from pipeline.datasets.mask_points import PointRule
from pipeline.masks.rle import Window


@dataclass(frozen=True)
class MaskedObject:
    """One annotated object or crowd region.

    Args:
        window: Its mask, without pixels where it has none; masks of one image may overlap.
        class_id: Its class, from 0.
        region: Whether it is a crowd or group that was outlined as one.
        box_xywh: Its box as the source gives it, image pixels; ``None``: the tight box of the mask.
        flags: Further bits of :class:`PointFlag`.
    """

    window: Window
    class_id: int
    region: bool = False
    box_xywh: tuple[float, float, float, float] | None = None
    flags: int = 0


def masked_image(
    entry: RawEntry,
    objects: Sequence[MaskedObject],
    rule: PointRule,
    *,
    class_names: tuple[str, ...],
    class_source_ids: tuple[int, ...] = (),
    size_hw: tuple[int, int] | None = None,
    pixels: NDArray[np.uint8] | None = None,
    notes: tuple[str, ...] = (),
) -> RawImage:
    """Build the annotation of one image; crowd regions come after all other objects, else the order stays.

    An object without a pixel gets the flag ``no_mask`` and the middle of its box as its point; a box whose sides are
    not both above 0 is left out, with the flag ``bad_box``.

    Args:
        entry: The image.
        objects: What is annotated in it.
        rule: Where the points lie.
        class_names: As in :class:`RawImage`; so are the arguments below.
        class_source_ids: As there.
        size_hw: As there.
        pixels: As there.
        notes: As there.

    Raises:
        ValueError: If an object has neither a mask nor a box: no point can stand for it.
    """
    ordered = sorted(objects, key=lambda one: one.region)
    windows = tuple(one.window for one in ordered)
    points_xy = rule.points_of(windows, entry.image_id)
    boxes_wh_px = np.full((len(ordered), 2), np.nan)
    flags = np.zeros(len(ordered), np.uint8)
    for row, one in enumerate(ordered):
        flags[row] = one.flags | (PointFlag.REGION if one.region else 0)
        empty = bool(np.isnan(points_xy[row, 0]))
        if empty:
            if one.box_xywh is None:
                raise ValueError(f"{entry.image_id}: an object has neither a mask nor a box")
            x, y, width, height = one.box_xywh
            # A box's sides are edges of pixels, whose centres are whole numbers.
            points_xy[row] = x + width / 2 - 0.5, y + height / 2 - 0.5
            flags[row] |= PointFlag.NO_MASK
        if one.box_xywh is None:
            boxes_wh_px[row] = tight_sides(one.window.mask)
        elif min(one.box_xywh[2:]) > 0:
            boxes_wh_px[row] = one.box_xywh[2:]
        else:
            flags[row] |= PointFlag.BAD_BOX
    return RawImage(
        image_id=entry.image_id,
        path=entry.image_path,
        split=entry.split,
        points_xy=points_xy,
        class_id=np.array([one.class_id for one in ordered], np.int64),
        boxes_wh_px=boxes_wh_px,
        point_flags=flags,
        pixels=pixels,
        truth=windows,
        size_hw=size_hw,
        class_names=class_names,
        class_source_ids=class_source_ids,
        notes=notes,
    )


def tight_sides(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Measure the tight box around a mask that has pixels: width and height."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1
