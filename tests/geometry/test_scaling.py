"""Nearest neighbours by centres."""

import numpy as np
import pytest

from pipeline.geometry.scaling import nearest_index, scale_nearest


@pytest.mark.parametrize(("length", "out_length"), [(12, 12), (12, 6), (12, 5), (5, 12), (1, 3), (7, 1), (3000, 2048)])
def test_every_pixel_takes_the_one_under_its_centre(length, out_length):
    centres = (np.arange(out_length) + 0.5) / out_length
    under = nearest_index(length, out_length)
    assert ((under / length <= centres) & (centres <= (under + 1) / length)).all()


@pytest.mark.parametrize("factor", [2, 3, 4, 1.46484375])
def test_nothing_shifts(factor):
    """A block in the middle stays in the middle: what is mirrored and scaled is what is scaled and mirrored."""
    side = round(24 * factor)
    values = np.arange(side * side).reshape(side, side) % 7
    odd = values + values[::-1, ::-1]  # point-symmetric
    small = scale_nearest(odd, (24, 24))
    if factor % 2:  # an even factor has two pixels equally near
        np.testing.assert_array_equal(small, small[::-1, ::-1])
    edge = np.zeros((side, side), np.uint8)
    edge[:, side // 2 :] = 1
    assert abs(scale_nearest(edge, (24, 24))[0].argmax() - side // 2 / factor) <= 0.5


def test_up_and_down_again_is_what_it_was():
    values = np.random.default_rng(0).integers(0, 9, (20, 31))
    np.testing.assert_array_equal(scale_nearest(scale_nearest(values, (33, 57)), (20, 31)), values)
