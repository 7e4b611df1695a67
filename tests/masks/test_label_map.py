import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.masks.label_map import disc_label_map

HALVES = st.integers(-10, 50).map(lambda v: v / 2)


def plain_disc_label_map(points_xy: np.ndarray, radius_px: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    share = ((x - points_xy[:, 0, None, None]) ** 2 + (y - points_xy[:, 1, None, None]) ** 2) / (
        radius_px[:, None, None] ** 2
    )
    share = np.where(share <= 1, share.astype(np.float32), np.inf)
    return np.where(np.isinf(share.min(axis=0)), 0, share.argmin(axis=0) + 1)


@settings(deadline=None)
@given(st.lists(st.tuples(HALVES, HALVES, st.integers(1, 24).map(lambda v: v / 2)), min_size=1, max_size=6))
def test_discs_equal_the_plain_form(circles: list[tuple[float, float, float]]) -> None:
    table = np.array(circles)
    points_xy, radius_px = table[:, :2], table[:, 2]
    drawn = disc_label_map(points_xy, radius_px, (17, 21))
    np.testing.assert_array_equal(drawn, plain_disc_label_map(points_xy, radius_px, (17, 21)))


def test_no_points_give_an_empty_map() -> None:
    drawn = disc_label_map(np.zeros((0, 2)), np.zeros(0), (3, 4))
    assert drawn.shape == (3, 4)
    assert not drawn.any()


def test_the_rim_belongs_to_the_disc() -> None:
    assert disc_label_map(np.array([[2.0, 0.0]]), np.array([1.0]), (1, 5)).tolist() == [[0, 1, 1, 1, 0]]
