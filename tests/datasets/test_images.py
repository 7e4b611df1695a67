import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.datasets.images import decode_image_rgb, encode_png, image_size_hw, read_image_rgb
from pipeline.errors import PipelineError
from tests.datasets.fake_layouts import pixels

RGB = pixels((5, 7))
GREY = RGB[:, :, 0]


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_png_is_read_as_it_is(tmp_path: Path) -> None:
    path = save(Image.fromarray(RGB), tmp_path / "a.png")
    assert np.array_equal(read_image_rgb(path), RGB)
    assert image_size_hw(path) == (5, 7)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_grey_becomes_three_equal_channels(tmp_path: Path, suffix: str) -> None:
    path = save(Image.fromarray(GREY), tmp_path / f"a{suffix}")
    assert np.array_equal(read_image_rgb(path), np.repeat(GREY[:, :, None], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_with_rounding(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 129, 257], [32896, 65535, 65406, 65407]], np.uint16)
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), values)
    expected = np.array([[0, 0, 1, 1], [128, 255, 254, 255]])
    assert np.array_equal(read_image_rgb(path), np.repeat(expected[:, :, None], 3, axis=2))


def test_sixteen_bit_colour_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), RGB[:, :, ::-1].astype(np.uint16) * 257)
    assert np.array_equal(read_image_rgb(path), RGB)


def test_transparent_pixels_are_laid_on_white(tmp_path: Path) -> None:
    alpha = np.full((5, 7), 255, np.uint8)
    alpha[0, 0] = 0
    path = save(Image.fromarray(np.dstack([RGB, alpha])), tmp_path / "a.png")
    expected = RGB.copy()
    expected[0, 0] = 255
    assert np.array_equal(read_image_rgb(path), expected)


def test_grey_with_alpha_and_palette_with_transparency(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)]), "LA"), tmp_path / "la.png")
    assert np.array_equal(read_image_rgb(path)[:, :, 1], GREY)
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    path = save(palette, tmp_path / "p.png", transparency=0)
    assert read_image_rgb(path).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_one_bit_image(tmp_path: Path) -> None:
    path = save(Image.fromarray(GREY > 127), tmp_path / "a.png")
    assert np.array_equal(read_image_rgb(path)[:, :, 0], np.where(GREY > 127, 255, 0))


def test_cmyk_keeps_its_colours(tmp_path: Path) -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    path = save(red.convert("CMYK"), tmp_path / "a.jpg", quality=100)
    assert Image.open(path).mode == "CMYK"
    assert np.abs(read_image_rgb(path).astype(int) - [255, 0, 0]).max() < 12


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).swapaxes(0, 1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_exif_rotation_is_undone(tmp_path: Path, orientation: int, upright: object) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(RGB), tmp_path / "a.png", exif=exif)
    expected = upright(RGB)  # type: ignore[operator]
    assert np.array_equal(read_image_rgb(path), expected)
    assert image_size_hw(path) == expected.shape[:2]


def test_one_pixel(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (1, 1), (1, 2, 3)), tmp_path / "a.png")
    assert read_image_rgb(path).tolist() == [[[1, 2, 3]]]


def jpeg(size_px: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels((size_px, size_px))).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (jpeg()[:-400], r"crowd\.jpg: not a readable image \(.*truncated"),
        (jpeg()[:100], r"crowd\.jpg: not a readable image"),
        (b"", r"crowd\.jpg: not a readable image \(unknown format"),
        (b"<html>not found</html>", r"crowd\.jpg: not a readable image \(unknown format"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "crowd.jpg"
    path.write_bytes(data)
    with pytest.raises(PipelineError, match=match):
        read_image_rgb(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"gone\.jpg: cannot be read"):
        read_image_rgb(tmp_path / "gone.jpg")
    with pytest.raises(PipelineError, match=r"gone\.jpg: not a readable image"):
        image_size_hw(tmp_path / "gone.jpg")


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.ones((2, 2), np.float32)), tmp_path / "a.tif")
    with pytest.raises(PipelineError, match=r"a\.tif: holds floating point pixels"):
        read_image_rgb(path)


def test_values_beyond_sixteen_bits_are_refused(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.array([[70000, 1]], np.int32)), tmp_path / "a.tif")
    with pytest.raises(PipelineError, match=r"a\.tif: expected pixel values from 0 to 65535, got 1 to 70000"):
        read_image_rgb(path)


def test_png_round_trip_and_equal_bytes() -> None:
    assert np.array_equal(decode_image_rgb(encode_png(RGB), "x"), RGB)
    assert encode_png(RGB) == encode_png(RGB.copy())


def pretend_size(path: Path, width: int, height: int) -> Path:
    """A bitmap whose header claims a size."""
    data = bytearray(save(Image.fromarray(RGB), path).read_bytes())
    data[18:26] = struct.pack("<ii", width, height)
    path.write_bytes(bytes(data))
    return path


def test_thirty_thousand_by_twenty_thousand_pixels_are_allowed(tmp_path: Path) -> None:
    assert image_size_hw(pretend_size(tmp_path / "aerial.bmp", 30_000, 20_000)) == (20_000, 30_000)


def test_more_pixels_than_can_be_read_are_refused_by_name(tmp_path: Path) -> None:
    path = pretend_size(tmp_path / "aerial.bmp", 2**16, 2**14 + 1)
    for read in (read_image_rgb, image_size_hw):
        with pytest.raises(PipelineError, match=r"aerial\.bmp: expected at most 1,073,741,824 pixels .*smaller images"):
            read(path)
