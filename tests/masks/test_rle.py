import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.masks.rle import Window, empty_rle, encode_window, rle_to_window, rles_to_label_map, window_to_rle


def coco_counts(mask: np.ndarray) -> bytes:
    """COCO's compressed counts of a full-frame mask, written from the format's definition."""
    flat = mask.reshape(-1, order="F").astype(int)
    runs, value, length = [], 0, 0
    for pixel in flat:
        if pixel != value:
            runs.append(length)
            value, length = pixel, 0
        length += 1
    runs.append(length)
    out = bytearray()
    for i, run in enumerate(runs):
        x = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            c = x & 0x1F
            x >>= 5
            more = x != -1 if c & 0x10 else x != 0
            out.append((c | 0x20 if more else c) + 48)
    return bytes(out)


@st.composite
def framed_windows(draw: st.DrawFn) -> tuple[Window, tuple[int, int]]:
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    h, w = draw(st.integers(0, height)), draw(st.integers(0, width))
    mask = draw(hnp.arrays(np.bool_, (h, w)))
    return Window(mask, draw(st.integers(0, width - w)), draw(st.integers(0, height - h))), (height, width)


def paste(window: Window, size_hw: tuple[int, int]) -> np.ndarray:
    full = np.zeros(size_hw, dtype=bool)
    h, w = window.mask.shape
    full[window.y0 : window.y0 + h, window.x0 : window.x0 + w] = window.mask
    return full


@settings(deadline=None)
@given(framed_windows())
def test_a_window_encodes_as_the_full_frame_does(framed: tuple[Window, tuple[int, int]]) -> None:
    window, size_hw = framed
    full = paste(window, size_hw)
    encoded = encode_window(*window, size_hw)
    assert encoded.rle == coco_counts(full)
    assert encoded.area_px == full.sum()
    x, y, w, h = encoded.box_xywh
    if full.any():
        rows, columns = np.flatnonzero(full.any(axis=1)), np.flatnonzero(full.any(axis=0))
        assert (x, y, w, h) == (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    else:
        assert encoded.box_xywh == (0, 0, 0, 0)
    np.testing.assert_array_equal(rle_to_window(encoded.rle, size_hw, encoded.box_xywh), full[y : y + h, x : x + w])
    everything = rle_to_window(encoded.rle, size_hw, (0, 0, size_hw[1], size_hw[0]))
    assert everything.dtype == np.bool_
    np.testing.assert_array_equal(everything, full)


@settings(deadline=None)
@given(st.lists(framed_windows(), max_size=5), st.integers(1, 24), st.integers(1, 24))
def test_label_map_lets_later_masks_win(framed: list[tuple[Window, tuple[int, int]]], height: int, width: int) -> None:
    expected = np.zeros((height, width), dtype=np.int32)
    rles = []
    for k, (window, size_hw) in enumerate(framed):
        full = np.zeros((height, width), dtype=bool)
        part = paste(window, size_hw)[:height, :width]
        full[: part.shape[0], : part.shape[1]] = part
        expected[full] = k + 1
        rles.append(window_to_rle(full, 0, 0, (height, width)))
    painted = rles_to_label_map(rles, (height, width))
    assert painted.dtype == np.int32
    np.testing.assert_array_equal(painted, expected)


def test_labels_beyond_a_byte_and_beyond_two() -> None:
    size_hw = (4, 5)
    rles = [empty_rle(size_hw)] * 70_000
    for k, x in ((254, 0), (255, 1), (256, 2), (65_535, 3), (69_999, 4)):
        rles[k] = window_to_rle(np.ones((4, 1), dtype=bool), x, 0, size_hw)
    assert rles_to_label_map(rles, size_hw)[0].tolist() == [255, 256, 257, 65_536, 70_000]


def test_known_counts() -> None:
    assert window_to_rle(np.ones((1, 1), dtype=bool), 0, 0, (1, 1)) == b"01"
    assert empty_rle((2, 3)) == b"6"


@pytest.mark.parametrize(("x0", "y0"), [(-1, 0), (0, -1), (4, 0), (0, 4)])
def test_a_window_outside_the_image_is_refused(x0: int, y0: int) -> None:
    with pytest.raises(ValueError, match="leaves the image of 5 x 5; clip it first"):
        encode_window(np.ones((2, 2), dtype=bool), x0, y0, (5, 5))


def test_counts_of_another_size_are_refused() -> None:
    rle = window_to_rle(np.ones((3, 3), dtype=bool), 0, 0, (9, 9))
    with pytest.raises(ValueError, match="do not fit an image of 4 x 4"):
        rle_to_window(rle, (4, 4), (0, 0, 3, 3))
    with pytest.raises(ValueError, match="do not fit an image of 20 x 4"):
        rles_to_label_map([rle], (20, 4))
