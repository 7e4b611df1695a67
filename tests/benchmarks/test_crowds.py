import numpy as np
import pytest

from benchmarks.crowds import mirrored_crowd
from pipeline.geometry.nnec import nnec_radii


@pytest.mark.parametrize(("n_heads", "size_hw"), [(2, (61, 83)), (40, (120, 160)), (300, (97, 130))])
def test_the_crowd_has_the_size_and_heads_asked_for(n_heads, size_hw) -> None:
    marked = mirrored_crowd(n_heads, size_hw=size_hw)
    assert marked.image.shape == (*size_hw, 3)
    assert marked.image.dtype == np.uint8
    assert marked.points_xy.shape == (n_heads, 2)
    assert (marked.points_xy >= 0).all()
    assert (marked.points_xy <= np.array(size_hw[::-1]) - 1).all()
    np.testing.assert_array_equal(marked.radius_px, nnec_radii(marked.points_xy, size_hw=size_hw).radius_px)
    assert marked.point_id.tolist() == list(range(n_heads))


def test_points_lie_on_the_same_pixels_in_every_copy() -> None:
    marked = mirrored_crowd(200, size_hw=(80, 120))
    part_hw = np.array([20, 30])
    seen = {}
    for x, y in marked.points_xy:
        copy_yx, at_yx = divmod(np.array([y + 0.5, x + 0.5]), part_hw)
        home = np.where(copy_yx % 2, part_hw - at_yx, at_yx)
        column, row = round(x), round(y)
        seen.setdefault(tuple(home.round(6)), set()).add(tuple(marked.image[row, column].tolist()))
    repeated = [colors for colors in seen.values() if len(colors) > 1]
    assert len(seen) < 100  # a scene of a few heads, in 16 copies
    assert len(repeated) <= 0.1 * len(seen)  # a point between two pixels may fall to either


def test_the_same_seed_gives_the_same_crowd() -> None:
    first, again, other = (mirrored_crowd(9, size_hw=(64, 64), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.points_xy, again.points_xy)
    np.testing.assert_array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
