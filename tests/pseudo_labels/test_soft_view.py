from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window
from pipeline.masks.soft_format import SoftMask, encode_soft
from pipeline.pseudo_labels.soft_view import CellWindow, View, read_coverage, read_soft, require_soft

IMAGE_HW = (24, 32)


def one_row(soft: SoftMask | None, mask: Window | None = None) -> Instances:
    window = mask or Window(np.ones((4, 4), bool), 0, 0)
    return Instances.from_windows(
        IMAGE_HW, [window], point_id=[0], points_xy=np.zeros((1, 2)), radius_px=[1.0], source="solov2", status="ok",
        prob_q8=[None if soft is None else encode_soft(soft)],
    )  # fmt: skip


def image_place(view: View, x: float, y: float) -> tuple[float, float] | None:
    """Where a place of the view lies in the image, both counted from the corner; None in the padding."""
    left, top, width, height = view.at_xywh
    u, v = (x - left) / width, (y - top) / height
    if not (0 < u < 1 and 0 < v < 1):
        return None
    u = 1 - u if view.flip else u
    x0, y0, w, h = view.window_xywh
    return x0 + u * w, y0 + v * h


def plain_read(soft: SoftMask, view: View, stride: int) -> np.ndarray:
    """Probability at the centre of every cell, NaN where the store has no cell."""
    height, width = view.cells_hw(stride)
    values = np.full((height, width), np.nan)
    rows, columns = soft.prob.shape
    for i in range(height):
        for j in range(width):
            place = image_place(view, stride * j + stride / 2, stride * i + stride / 2)
            if place is None:
                continue
            x, y = place[0] / 4 - 0.5 - soft.x0, place[1] / 4 - 0.5 - soft.y0
            if not (-0.5 <= x <= columns - 0.5 and -0.5 <= y <= rows - 0.5):
                continue
            x, y = min(max(x, 0), columns - 1), min(max(y, 0), rows - 1)
            values[i, j] = sum(
                float(soft.prob[k, m]) * max(0, 1 - abs(y - k)) * max(0, 1 - abs(x - m))
                for k in range(rows)
                for m in range(columns)
            )
    return values


def plain_coverage(mask: np.ndarray, view: View, stride: int) -> np.ndarray:
    """Share of each cell that a (H, W) mask covers, by many places in the cell; 0 if its centre shows no image."""
    height, width = view.cells_hw(stride)
    fine = 24
    values = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            if image_place(view, stride * (j + 0.5), stride * (i + 0.5)) is None:
                continue
            for a in range(fine):
                for b in range(fine):
                    place = image_place(view, stride * (j + (b + 0.5) / fine), stride * (i + (a + 0.5) / fine))
                    x, y = place or (-1.0, -1.0)
                    inside = 0 <= x < mask.shape[1] and 0 <= y < mask.shape[0]
                    values[i, j] += inside and mask[int(y), int(x)]
    return values / fine**2


def full(window: CellWindow, view: View, stride: int, outside: float) -> np.ndarray:
    values = np.full(view.cells_hw(stride), outside, np.float32)
    window.paste(values)
    return values


VIEWS = [
    View.whole(IMAGE_HW, IMAGE_HW, (32, 32)),
    View.whole(IMAGE_HW, (32, 44), (32, 64), flip=True),
    View.whole(IMAGE_HW, (15, 20), (32, 32)),
    View((7, 3, 20, 17), (0, 0, 32, 28), (32, 32)),
    View((7, 3, 20, 17), (4, 0, 28, 32), (32, 32), flip=True),
]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(VIEWS), st.sampled_from([4, 8]))
def test_soft_masks_are_read_at_the_centres_of_cells(seed: int, view: View, stride: int) -> None:
    rng = np.random.default_rng(seed)
    x0, y0 = int(rng.integers(0, 7)), int(rng.integers(0, 5))
    shape = int(rng.integers(1, 7 - y0)), int(rng.integers(1, 9 - x0))
    soft = SoftMask((rng.integers(0, 256, shape) / 255).astype(np.float32), x0, y0)
    [window] = read_soft(one_row(soft), view, stride=stride)
    expected = plain_read(soft, view, stride)
    # Rounding decides on the very edge of the store's cells, where a window may begin or end.
    found = full(window, view, stride, np.nan)
    both = ~np.isnan(found) & ~np.isnan(expected)
    np.testing.assert_allclose(found[both], expected[both], atol=1e-5)
    assert (np.isnan(found) == np.isnan(expected)).mean() > 0.8
    if view == VIEWS[0] and stride == 4:
        np.testing.assert_array_equal(window.values, soft.prob)
        assert (window.x0, window.y0) == (x0, y0)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("stride", [4, 8])
def test_coverage_is_the_share_of_the_cell(view: View, stride: int) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros(IMAGE_HW, bool)
    mask[5:17, 8:21] = rng.random((12, 13)) < 0.6
    [window] = read_coverage(one_row(None, Window(mask, 0, 0)), view, stride=stride)
    np.testing.assert_allclose(full(window, view, stride, 0.0), plain_coverage(mask, view, stride), atol=0.06)


def test_a_mask_smaller_than_a_cell_is_covered_and_not_lost() -> None:
    pixel = Window(np.ones((1, 1), bool), 0, 0)
    [window] = read_coverage(one_row(None, pixel), VIEWS[0])
    assert (window.x0, window.y0, window.values.tolist()) == (0, 0, [[1 / 16]])


def test_a_flipped_view_is_the_view_flipped() -> None:
    soft = SoftMask(np.random.default_rng(0).random((3, 4), dtype=np.float32), 2, 1)
    plain, flipped = (
        full(read_soft(one_row(soft), View.whole(IMAGE_HW, (36, 48), (36, 48), flip=flip))[0], View.whole(
            IMAGE_HW, (36, 48), (36, 48)), 4, 0.0)
        for flip in (False, True)
    )  # fmt: skip
    assert plain.max() > 0
    np.testing.assert_allclose(flipped, plain[:, ::-1], atol=1e-6)


def test_what_the_view_does_not_show_gives_no_cells() -> None:
    soft = SoftMask(np.ones((2, 2), np.float32), 6, 4)
    view = View((0, 0, 8, 8), (0, 0, 16, 16), (16, 16))
    assert read_soft(one_row(soft), view)[0].values.size == 0
    assert read_coverage(one_row(None, Window(np.ones((4, 4), bool), 20, 16)), view)[0].values.size == 0
    assert read_soft(one_row(None), view)[0].values.size == 0
    assert read_soft(Instances.empty(IMAGE_HW), view) == []


def test_a_value_is_read_instead_of_the_probability() -> None:
    soft = SoftMask(np.array([[0.2, 0.6]], np.float32), 0, 0)
    [window] = read_soft(one_row(soft), VIEWS[0], value=lambda prob: 1 - prob)
    np.testing.assert_allclose(window.values, [[0.8, 0.4]], atol=1 / 255)


@pytest.mark.parametrize(
    ("needed", "soft", "n_missing"), [(True, None, 1), (False, None, 0), (True, SoftMask(np.ones((1, 1)), 0, 0), 0)]
)
def test_missing_soft_masks_are_told(needed: bool, soft: Any, n_missing: int) -> None:
    rows, wanted = one_row(soft), np.array([needed])
    require_soft(one_row(None, Window(np.zeros((0, 0), bool), 0, 0)), wanted, why="this")
    if not n_missing:
        require_soft(rows, wanted, why="this")
        return
    with pytest.raises(PipelineError, match="prob_q8: 1 of 1 rows have no soft mask, as this needs; .*keep_prob: true"):
        require_soft(rows, wanted, why="this")


def test_a_stride_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="size_hw: expected multiples of the stride of 4, got .30, 32."):
        read_soft(one_row(None), View.whole(IMAGE_HW, IMAGE_HW, (30, 32)))
