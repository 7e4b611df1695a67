"""A contact sheet of heads: photo with circle, and the same with the true mask's and the found mask's outlines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.report.overlay import encode_jpeg

CELL_PX, GAP_PX, CAPTION_PX, TITLE_PX = 128, 6, 18, 30
RADII_SHOWN = 1.6
MIN_REACH_PX = 8.0
CIRCLE_RGB, TRUTH_RGB, MASK_RGB = (76, 201, 240), (64, 220, 90), (255, 45, 135)
INK_RGB, PAPER_RGB = (28, 32, 36), (255, 255, 255)
MAX_BYTES = 300_000
LEGEND = "blue: exclusion circle   green: true visible mask   pink: mask found   caption: density, IoU, source"


@dataclass(frozen=True)
class Example:
    """One head to show.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, the mask that was found.
        truth: (H, W) bool, the person's true visible mask.
        point_xy: The head, image pixels.
        radius_px: Its circle.
        caption: Text below.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    truth: NDArray[np.bool_]
    point_xy: tuple[float, float]
    radius_px: float
    caption: str


def draw_sheet(kinds: Mapping[str, Sequence[Example]], title: str) -> NDArray[np.uint8]:
    """Draw one row of examples per kind, two pictures each, photo above outlines.

    Args:
        kinds: Heading → examples; a kind without any is left out.
        title: Text above all.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    shown = {name: examples for name, examples in kinds.items() if examples}
    columns = max((len(examples) for examples in shown.values()), default=1)
    row_px = TITLE_PX + 2 * CELL_PX + CAPTION_PX + GAP_PX
    width = max(columns * (CELL_PX + GAP_PX) + GAP_PX, 760)
    page = Image.new("RGB", (width, 2 * TITLE_PX + len(shown) * row_px + GAP_PX), PAPER_RGB)
    pen = ImageDraw.Draw(page)
    large, small = ImageFont.load_default(16), ImageFont.load_default(12)
    pen.text((GAP_PX, 6), title, INK_RGB, large)
    pen.text((GAP_PX, TITLE_PX + 4), LEGEND, INK_RGB, small)
    for number, (name, examples) in enumerate(shown.items()):
        top = 2 * TITLE_PX + number * row_px
        pen.text((GAP_PX, top + 6), name, INK_RGB, large)
        for column, example in enumerate(examples):
            left = GAP_PX + column * (CELL_PX + GAP_PX)
            photo, outlined = draw_example(example)
            page.paste(Image.fromarray(photo), (left, top + TITLE_PX))
            page.paste(Image.fromarray(outlined), (left, top + TITLE_PX + CELL_PX))
            pen.text((left, top + TITLE_PX + 2 * CELL_PX + 1), example.caption, INK_RGB, small)
    return np.asarray(page)


def draw_example(example: Example) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Give the surroundings of a head with its circle, and with both outlines: (s, s, 3) uint8 each, s the cell."""
    reach = max(RADII_SHOWN * example.radius_px, MIN_REACH_PX)
    x, y = example.point_xy
    scale = CELL_PX / (2 * reach)
    # The head comes to lie in the middle of the cell, at (CELL_PX - 1) / 2.
    shift = np.array([[scale, 0, scale * (reach - x) - 0.5], [0, scale, scale * (reach - y) - 0.5]])
    size = (CELL_PX, CELL_PX)
    photo = cv2.warpAffine(example.image, shift, size, flags=cv2.INTER_LINEAR, borderValue=PAPER_RGB)
    outlined = photo.copy()
    for mask, color in ((example.truth, TRUTH_RGB), (example.mask, MASK_RGB)):
        large = cv2.warpAffine(mask.astype(np.uint8), shift, size, flags=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(outlined, outlines, -1, color, 1)
    middle = (CELL_PX // 2, CELL_PX // 2)
    for picture in (photo, outlined):
        cv2.circle(picture, middle, round(scale * example.radius_px), CIRCLE_RGB, 1, cv2.LINE_AA)
    cv2.circle(photo, middle, 2, CIRCLE_RGB, -1, cv2.LINE_AA)
    return photo.astype(np.uint8, copy=False), outlined.astype(np.uint8, copy=False)


def encode_below(pixels: NDArray[np.uint8], max_bytes: int) -> bytes:
    """Encode a picture as JPEG, with as much quality as fits."""
    encoded = b""
    for quality in range(90, 20, -6):
        encoded = encode_jpeg(pixels, quality)
        if len(encoded) < max_bytes:
            break
    return encoded
