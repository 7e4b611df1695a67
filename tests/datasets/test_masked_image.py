import numpy as np
import pytest

from pipeline.datasets.base import RawEntry
from pipeline.datasets.flags import PointFlag
from pipeline.datasets.mask_points import PointRule
from pipeline.datasets.masked_image import MaskedObject, masked_image, tight_sides
from pipeline.masks.rle import Window

ENTRY = RawEntry("a", "train")
MASK = Window(np.ones((3, 5), np.bool_), 10, 20)
EMPTY = Window(np.zeros((0, 0), np.bool_), 0, 0)


def build(*objects: MaskedObject):
    return masked_image(ENTRY, objects, PointRule(), class_names=("x", "y"))


def test_regions_come_last_and_the_rest_stays_in_order() -> None:
    raw = build(
        MaskedObject(MASK, 0, region=True),
        MaskedObject(MASK, 1, flags=PointFlag.PARTLY_OCCLUDED),
        MaskedObject(MASK, 1, region=True),
        MaskedObject(MASK, 0),
    )
    assert raw.class_id.tolist() == [1, 0, 0, 1]
    assert raw.point_flags is not None
    assert raw.point_flags.tolist() == [PointFlag.PARTLY_OCCLUDED, 0, PointFlag.REGION, PointFlag.REGION]
    assert raw.is_region.tolist() == [False, False, True, True]
    assert raw.truth == (MASK,) * 4


def test_boxes_are_the_sources_or_those_of_the_masks() -> None:
    raw = build(
        MaskedObject(MASK, 0),
        MaskedObject(MASK, 0, box_xywh=(9, 9, 7.5, 4)),
        MaskedObject(MASK, 0, box_xywh=(1, 2, 0, 4)),
    )
    assert raw.boxes_wh_px is not None
    np.testing.assert_array_equal(raw.boxes_wh_px, [[5, 3], [7.5, 4], [np.nan, np.nan]])
    assert raw.point_flags is not None
    assert raw.point_flags.tolist() == [0, 0, PointFlag.BAD_BOX]
    np.testing.assert_array_equal(raw.points_xy, [[12, 21]] * 3)


def test_an_empty_mask_takes_the_middle_of_its_box() -> None:
    raw = build(MaskedObject(EMPTY, 1, box_xywh=(4, 6, 3, 1)))
    np.testing.assert_array_equal(raw.points_xy, [[5, 6]])  # pixels 4, 5, 6 and 6
    assert raw.point_flags is not None
    assert raw.point_flags.tolist() == [PointFlag.NO_MASK]
    with pytest.raises(ValueError, match="neither a mask nor a box"):
        build(MaskedObject(EMPTY, 1))


def test_an_image_without_objects() -> None:
    raw = build()
    assert raw.points_xy.shape == (0, 2)
    assert raw.truth == ()


def test_tight_sides() -> None:
    mask = np.zeros((6, 9), np.bool_)
    mask[2, 3] = mask[4, 8] = True
    assert tight_sides(mask) == (6, 3)
