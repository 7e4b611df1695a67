import numpy as np
import pytest
from faster_coco_eval.core import mask as reference
from hypothesis import given
from hypothesis import strategies as st

from pipeline.datasets.coco_masks import segmentation_to_window
from pipeline.masks.rle import Window
from tests.datasets.fake_masks import disc_mask, run_lengths

SIZE_HW = (17, 23)
COORDINATES = st.one_of(st.integers(-5, 28).map(float), st.floats(-6, 29).map(lambda value: round(value, 2)))
POLYGON = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=8)


def full(window: Window, size_hw: tuple[int, int] = SIZE_HW) -> np.ndarray:
    mask = np.zeros(size_hw, np.bool_)
    height, width = window.mask.shape
    mask[window.y0 : window.y0 + height, window.x0 : window.x0 + width] = window.mask
    return mask


@given(st.lists(POLYGON, min_size=1, max_size=3))
def test_polygons_cover_what_cocos_own_tools_say(polygons: list[list[tuple[float, float]]]) -> None:
    flat = [[value for corner in polygon for value in corner] for polygon in polygons]
    expected = reference.decode(reference.merge(reference.frPyObjects(flat, *SIZE_HW)))
    window = segmentation_to_window(flat, SIZE_HW)
    np.testing.assert_array_equal(full(window), expected.astype(np.bool_))
    if window.mask.any():  # the window is tight
        assert all(edge.any() for edge in (window.mask[0], window.mask[-1], window.mask[:, 0], window.mask[:, -1]))


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_in_both_forms(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random(SIZE_HW) < share
    packed = reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    for counts in (run_lengths(mask), packed):
        window = segmentation_to_window({"size": list(SIZE_HW), "counts": counts}, SIZE_HW)
        np.testing.assert_array_equal(full(window), mask)


@pytest.mark.parametrize(
    "segmentation", [None, [], [[]], [[1, 2, 3, 4]], [[50, 50, 60, 50, 60, 60]], {"size": [17, 23], "counts": [391]}]
)
def test_an_empty_mask_has_no_pixels(segmentation: object) -> None:
    window = segmentation_to_window(segmentation, SIZE_HW)
    assert window.mask.size == 0


def test_a_polygon_that_is_nothing_does_not_spoil_the_others() -> None:
    square = [3, 3, 9, 3, 9, 9, 3, 9]
    one, two = segmentation_to_window([square], SIZE_HW), segmentation_to_window([[], square, [1, 1]], SIZE_HW)
    np.testing.assert_array_equal(full(one), full(two))
    assert full(one).sum() == 36


COUNTS = run_lengths(disc_mask(9, 8, 5, SIZE_HW))


@pytest.mark.parametrize(
    ("segmentation", "match"),
    [
        ({"size": [23, 17], "counts": COUNTS}, r"its size is \[23, 17\] \(height, width\), the image's is \[17, 23\]"),
        ({"size": None, "counts": COUNTS}, "its size is None"),
        ({"size": [17, 23], "counts": [*COUNTS, 1]}, "its run lengths do not fit an image of"),
        ({"size": [17, 23], "counts": [-3, 394]}, "its run lengths do not fit an image of"),
        ({"size": [17, 23], "counts": [[1, 2], [3, 4]]}, "its run lengths do not fit an image of"),
        ({"size": [17, 23], "counts": None}, "its run lengths do not fit an image of"),
        ({"size": [17, 23], "counts": "0"}, "its run lengths do not fit an image of"),
        ({"size": [17, 23], "counts": "zz9é"}, "its run lengths do not fit an image of"),
        ({"counts": COUNTS}, "expected polygons or run lengths"),
        ("polygons", "expected polygons or run lengths, got polygons"),
        ([1, 2, 3, 4, 5, 6], "expected a list of polygons, got a list with 1"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon has 7 numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "coordinate nan"),
        ([[1, 2, 3, 4, 5, 1e12]], "coordinate 1000000000000.0"),
        ([[1, 2, 3, 4, 5, "6"]], "coordinate 6"),
    ],
)
def test_what_is_no_mask_of_this_image_is_refused(segmentation: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        segmentation_to_window(segmentation, SIZE_HW)
