"""Decode photographs of any common kind to one form: (H, W, 3) uint8 RGB, upright."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pipeline.errors import PipelineError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
TURNED_BY_A_QUARTER = frozenset({5, 6, 7, 8})
DECODER_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for damaged files, depending on the format and on where the damage lies."""

MAX_PIXELS = 2**30
"""Images of more are refused: 3 GiB, decoded. Pillow's own limit, a sixth of it, is set too low for aerial pictures."""
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns there, and refuses beyond twice as many


def read_image_rgb(path: Path) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) uint8 RGB after EXIF rotation.

    16-bit values are scaled by 255/65535, grey, palette and CMYK images become RGB, transparent ones are laid on
    white; of a file with several frames the first is taken.

    Raises:
        PipelineError: If the file is missing, damaged, truncated or of an unknown kind; the message names it.
    """
    return decode_image_rgb(read_bytes(path), str(path))


def decode_image_rgb(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode the bytes of an image file, as :func:`read_image_rgb` does; ``name`` stands in messages.

    Raises:
        PipelineError: As in :func:`read_image_rgb`.
    """
    with _opened(data, name) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image, name)


def image_size_hw(path: Path) -> tuple[int, int]:
    """Read the height and width after EXIF rotation from the header, without decoding the pixels.

    Raises:
        PipelineError: If the file is missing or its header is damaged.
    """
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                turned = image.getexif().get(ExifTags.Base.Orientation) in TURNED_BY_A_QUARTER
                width_px, height_px = image.size
    except DECODER_ERRORS as error:
        raise _unreadable(str(path), error) from error
    return (width_px, height_px) if turned else (height_px, width_px)


def read_bytes(path: Path) -> bytes:
    """Read a file whole.

    Raises:
        PipelineError: If that fails; the message names the file.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read ({error.strerror})") from error


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode (H, W, 3) uint8 RGB as PNG; equal pixels give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGB" if pixels.ndim == 3 else "L").save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """Open an image; whatever Pillow raises in the block becomes a PipelineError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                yield image
    except DECODER_ERRORS as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: BaseException) -> PipelineError:
    if isinstance(error, Image.DecompressionBombError):
        return PipelineError(f"{name}: expected at most {MAX_PIXELS:,} pixels ({error}); cut it into smaller images")
    reason = "unknown format or no image at all" if isinstance(error, UnidentifiedImageError) else str(error)
    return PipelineError(f"{name}: not a readable image ({reason}); get the file again or take it out")


def _to_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Convert a decoded image of any mode."""
    if image.mode.startswith("I"):
        grey = _sixteen_to_eight(np.asarray(image), name)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise PipelineError(
            f"{name}: holds floating point pixels, whose range is not known; save it as an 8-bit or 16-bit image"
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _sixteen_to_eight(values: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    """Scale 0…65535 to 0…255, rounded."""
    wide = values.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise PipelineError(
            f"{name}: expected pixel values from 0 to 65535, got {wide.min()} to {wide.max()}; "
            "save it as an 8-bit or 16-bit image"
        )
    return ((wide * 255 + 32767) // 65535).astype(np.uint8)
