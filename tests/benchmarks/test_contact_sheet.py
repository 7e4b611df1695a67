import numpy as np
import pytest

from benchmarks.contact_sheet import CELL_PX, MASK_RGB, TRUTH_RGB, Example, draw_example, draw_sheet, encode_below


def example(point_xy=(20.0, 15.0), radius_px=8.0, caption="dense 0.50 head") -> Example:
    y, x = np.mgrid[:40, :50]
    mask = (x - point_xy[0]) ** 2 + (y - point_xy[1]) ** 2 <= 25
    return Example(np.full((40, 50, 3), 99, np.uint8), mask, mask & (x <= point_xy[0]), point_xy, radius_px, caption)


def extent(picture, color) -> tuple[float, float]:
    columns = np.nonzero((picture == color).all(2))[1]
    return columns.min(), columns.max()


def test_outlines_lie_where_the_masks_do() -> None:
    photo, outlined = draw_example(example())
    assert photo.shape == outlined.shape == (CELL_PX, CELL_PX, 3)
    assert not (photo == MASK_RGB).all(2).any()
    scale = CELL_PX / (2 * 1.6 * 8.0)
    left, right = extent(outlined, MASK_RGB)
    assert left == pytest.approx(CELL_PX / 2 - 5.5 * scale, abs=2)
    assert right == pytest.approx(CELL_PX / 2 + 5.5 * scale, abs=2)
    assert (outlined == TRUTH_RGB).all(2).any()


@pytest.mark.parametrize("point_xy", [(0.0, 0.0), (49.0, 39.0), (-3.0, 20.0)])
def test_a_head_at_the_border_has_its_cell(point_xy) -> None:
    photo, outlined = draw_example(example(point_xy))
    assert (photo == 255).all(2).any()
    assert outlined.dtype == np.uint8


def test_a_sheet_has_a_row_per_kind_that_occurs() -> None:
    two = draw_sheet({"good": [example()] * 3, "bad": [example()], "none": []}, "title")
    one = draw_sheet({"good": [example()]}, "title")
    assert two.shape[0] - one.shape[0] > 2 * CELL_PX
    assert two.shape[1] == one.shape[1] == 760
    assert draw_sheet({"good": [example()] * 12}, "title").shape[1] > 12 * CELL_PX
    assert draw_sheet({}, "nothing").shape[0] < CELL_PX


def test_quality_gives_way_to_size() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    large = encode_below(noise, 10**9)
    assert len(encode_below(noise, len(large) // 2)) < len(large) // 2
