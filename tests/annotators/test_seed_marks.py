import numpy as np
import pytest

from pipeline.annotators.base import MarkedImage
from pipeline.annotators.seed_marks import SeedMarkOptions, seed_marks
from pipeline.geometry.point_owners import UNKNOWN


def mark(points_xy, radius_px, class_id, size_hw=(40, 60)) -> MarkedImage:
    image = np.full((*size_hw, 3), 90, np.uint8)
    image[5:25, 5:25] = (220, 40, 40)
    n = len(points_xy)
    return MarkedImage(
        "one", image, np.array(points_xy, float).reshape(n, 2), np.array(radius_px, float), np.arange(n),
        np.array(class_id, np.int64),
    )  # fmt: skip


def distance(x: float, y: float, size_hw=(40, 60)) -> np.ndarray:
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    return np.hypot(columns - x, rows - y)


def test_discs_and_what_is_far_from_all_points() -> None:
    marked = mark([[15, 15], [40, 20]], [12, 8], [0, 3])
    found = seed_marks(marked, SeedMarkOptions(disc_px=4.0))
    wanted = np.full((40, 60), UNKNOWN, np.uint8)
    wanted[(distance(15, 15) > 12) & (distance(40, 20) > 8)] = 0
    wanted[distance(15, 15) <= 4] = 1
    wanted[distance(40, 20) <= 4] = 4
    np.testing.assert_array_equal(found, wanted)


def test_background_may_begin_farther_away() -> None:
    marked = mark([[15, 15]], [5], [0])
    found = seed_marks(marked, SeedMarkOptions(background_frac=0.5))
    np.testing.assert_array_equal(found == 0, distance(15, 15) > 20)


def test_shares_of_circles_that_meet_go_to_the_nearer_point() -> None:
    marked = mark([[15, 15], [24, 15]], [20, 10], [0, 1])
    found = seed_marks(marked, SeedMarkOptions(object="circle", circle_frac=0.5))
    assert found[15, 18] == 1
    assert found[15, 20] == 2  # in both, nearer to the second
    assert found[15, 14] == 1
    turned = seed_marks(mark([[24, 15], [15, 15]], [10, 20], [1, 0]), SeedMarkOptions(object="circle", circle_frac=0.5))
    np.testing.assert_array_equal(turned, found)


def test_superpixels_follow_the_colour_inside_the_circle() -> None:
    found = seed_marks(mark([[15, 15]], [14], [2]), SeedMarkOptions(object="superpixel"))
    square = np.zeros((40, 60), bool)
    square[5:25, 5:25] = True
    assert ((found == 3) & ~square).sum() <= 0.15 * square.sum()
    assert ((found == 3) & square).sum() >= 0.9 * square.sum()


def test_points_outside_say_nothing_and_no_points_say_background() -> None:
    assert (seed_marks(mark([[-30, -30]], [5], [0]), SeedMarkOptions()) == 0).all()
    assert (seed_marks(mark([], [], []), SeedMarkOptions()) == 0).all()
    for kind in ("disc", "circle", "superpixel"):
        found = seed_marks(mark([[-2, 20]], [12], [0]), SeedMarkOptions(object=kind))
        assert set(np.unique(found)) == {0, UNKNOWN}  # near it may lie the rest of its object


@pytest.mark.parametrize("given", [{"disc_px": 0}, {"circle_frac": -1}, {"background_radii": -1}])
def test_impossible_values_are_refused(given) -> None:
    with pytest.raises(ValueError, match="expected"):
        SeedMarkOptions(**given)
