import numpy as np
import pytest

from pipeline.datasets.flags import PointFlag, flag_names, flags_to_column, inside_image, repeated_points
from pipeline.datasets.prepared import REGION


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (0, ""),
        (PointFlag.OUTSIDE, "outside"),
        (PointFlag.DUPLICATE | PointFlag.OUTSIDE, "outside|duplicate"),
        (PointFlag.REGION, REGION),
        (PointFlag.NO_MASK | PointFlag.BAD_BOX, "bad_box|no_mask"),
        (PointFlag.BLURRED | PointFlag.FULLY_OCCLUDED, "fully_occluded|blurred"),
    ],
)
def test_names_stand_in_the_order_of_bits(value: int, names: str) -> None:
    assert flag_names(int(value), PointFlag) == names


def test_column_of_names() -> None:
    column = flags_to_column(np.array([0, 3, 0, 1], np.uint8), PointFlag)
    assert column.to_pylist() == ["", "outside|duplicate", "", "outside"]
    assert flags_to_column(np.zeros(0, np.uint8), PointFlag).to_pylist() == []


@pytest.mark.parametrize(
    ("x", "y", "inside"),
    [
        (0, 0, True),
        (-0.5, -0.5, True),
        (-0.51, 0, False),
        (0, -0.51, False),
        (3.49, 1.49, True),
        (3.5, 0, False),
        (0, 1.5, False),
        (4, 2, False),
    ],
)
def test_the_image_ends_half_a_pixel_beyond_its_centres(x: float, y: float, inside: bool) -> None:
    assert inside_image(np.array([[x, y]], np.float64), (2, 4)).tolist() == [inside]


def test_all_copies_of_a_point_are_marked() -> None:
    points_xy = np.array([[1, 2], [3, 4], [1, 2], [2, 1], [0.0, 5], [-0.0, 5]])
    assert repeated_points(points_xy).tolist() == [True, False, True, False, True, True]
    assert repeated_points(np.zeros((0, 2))).tolist() == []
