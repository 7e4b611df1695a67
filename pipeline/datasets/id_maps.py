"""Images whose pixels are numbers of objects: read them, and cut out each number's mask."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipeline.datasets.images import DECODER_ERRORS
from pipeline.errors import PipelineError
from pipeline.masks.rle import Window

MAX_ID = 2**16 - 1


def read_id_map(path: Path, *, modes: Sequence[str], expected: str) -> NDArray[np.uint16 | np.uint8]:
    """Read an annotation image as it is stored: palette entries and channels are numbers, not colours.

    Args:
        path: The image.
        modes: Pillow's modes that the layout may have: P, L, I;16, I, RGBA.
        expected: What the layout's own images are, for the message.

    Returns:
        (H, W) uint8 or uint16, or (H, W, 4) uint8 for RGBA.

    Raises:
        PipelineError: If the file is missing, damaged or of another mode, which means that a tool saved it anew.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in modes:
                raise PipelineError(
                    f"{path}: expected {expected}, got an image of mode {image.mode}; take the file as published, "
                    "some tools turn numbers into colours"
                )
            values = np.array(image)
    except DECODER_ERRORS as error:
        raise PipelineError(f"{path}: not a readable image ({error}); get the file again") from error
    if values.dtype.itemsize > 2:
        if values.size and (values.min() < 0 or values.max() > MAX_ID):
            raise PipelineError(f"{path}: expected numbers from 0 to {MAX_ID}, got {values.min()} to {values.max()}")
        values = values.astype(np.uint16)
    return values


def present_ids(id_map: NDArray[np.uint16 | np.uint8]) -> list[int]:
    """List the numbers that stand in a map, in rising order."""
    found: list[int] = np.flatnonzero(np.bincount(id_map.ravel())).tolist()
    return found


def id_windows(id_map: NDArray[np.uint16 | np.uint8], ids: Iterable[int]) -> list[Window]:
    """Cut out the masks of some numbers, each in its tight box; all of them must stand in the map."""
    wanted = list(ids)
    labels = np.zeros(int(id_map.max(initial=0)) + 1, np.int32)
    labels[wanted] = np.arange(1, len(wanted) + 1)
    label_map = labels[id_map]
    windows = []
    for label, box in enumerate(ndimage.find_objects(label_map, max_label=len(wanted)), start=1):
        assert box is not None
        windows.append(Window(label_map[box] == label, box[1].start, box[0].start))
    return windows
