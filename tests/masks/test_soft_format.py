import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.masks.soft_format import SoftMask, decode_soft, encode_soft


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 2**31), st.integers(0, 99))
def test_bytes_come_back(height: int, width: int, x0: int, y0: int) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (height, width))
    mask = SoftMask((levels / 255).astype(np.float32), x0, y0)
    back = decode_soft(encode_soft(mask))
    assert (back.x0, back.y0, back.stride) == (x0, y0, 4)
    np.testing.assert_array_equal(back.prob, mask.prob)
    assert len(encode_soft(mask)) == 20 + height * width


@pytest.mark.parametrize("data", [b"", b"\x00" * 19, b"\x04\x00\x00\x00" + b"\x01\x00\x00\x00" * 4, b"\x00" * 20])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=f"prob_q8: {len(data)} bytes that are no soft mask"):
        decode_soft(data)


def test_pixels_of_a_box_are_read_between_the_cells_centres() -> None:
    soft = SoftMask(np.array([[0.0, 1.0]], np.float32), 2, 1)  # centres at x = 9.5 and 13.5
    np.testing.assert_allclose(soft.in_box((9, 3, 6, 2)), [[0, 0.125, 0.375, 0.625, 0.875, 1]] * 2)
