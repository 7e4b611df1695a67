"""Read a COCO instances file of any size: where each annotation stands, not what is in it.

The file of COCO's training images has 860,001 annotations. It is walked through once, one annotation in memory at a
time; what stays is the place of each in the file, by image. A single annotation is read from there when it is needed.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.images import read_bytes
from pipeline.errors import PipelineError, raise_all

LISTS = ("images", "annotations", "categories")
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_BOM = "\xef\xbb\xbf"


@dataclass(frozen=True)
class CocoImage:
    """One image of the file.

    Args:
        file_name: As it stands there.
        size_hw: Height and width as stated there; ``None`` where they are not.
        spans: (N, 2) int64: byte at which each of its annotations begins and ends, in the order of the file.
    """

    file_name: str
    size_hw: tuple[int, int] | None
    spans: NDArray[np.int64]


@dataclass(frozen=True)
class CocoIndex:
    """What a file holds.

    Args:
        path: The file.
        images: Its images, in its order.
        categories: Its numbers of the categories, which may have gaps, in rising order → name.
        orphans: Image id → number of annotations, for images that the file does not list.
    """

    path: Path
    images: list[CocoImage]
    categories: dict[int, str]
    orphans: dict[str, int]


def index_coco(path: Path) -> CocoIndex:
    """Walk through an instances file.

    Raises:
        PipelineError: If it is missing or no such file; all that is wrong with its images and categories comes at once.
    """
    # One byte is one character in Latin-1, so that places in the text are places in the file; JSON's own characters
    # are the same in UTF-8, and items with others are decoded again.
    text = read_bytes(path).decode("latin-1")
    images: list[dict[str, Any]] = []
    categories: list[dict[str, Any]] = []
    owner: list[Any] = []
    spans: list[int] = []
    found = set()
    try:
        for name, item, start, end in _items(text):
            found.add(name)
            if item is None:
                continue
            if not isinstance(item, dict):
                raise ValueError(f"{name} holds {str(item)[:40]}, expected objects")
            if name == "annotations":
                owner.append(item.get("image_id"))
                spans += (start, end)
            else:
                (images if name == "images" else categories).append(item)
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"{path}: not a readable COCO file ({error}); get the file again") from error
    del text
    missing = [name for name in LISTS if name not in found]
    if missing:
        raise PipelineError(
            f"{path}: expected the lists images, annotations and categories, {' and '.join(missing)} missing; "
            "is it another kind of COCO file?"
        )
    row_of = _rows_by_id(path, images)
    of_image = np.array([row_of.get(_key(one), -1) for one in owner], np.int64)
    order = np.argsort(of_image, kind="stable")
    ends = np.searchsorted(of_image[order], np.arange(len(images)), side="right")
    begins = np.searchsorted(of_image[order], np.arange(len(images)), side="left")
    places = np.array(spans, np.int64).reshape(-1, 2)[order]
    orphans: dict[str, int] = {}
    for row in order[: int((of_image < 0).sum())]:
        orphans[str(owner[row])] = orphans.get(str(owner[row]), 0) + 1
    return CocoIndex(
        path=path,
        images=[
            CocoImage(image["file_name"], _size_hw(image), places[begin:end].copy())
            for image, begin, end in zip(images, begins.tolist(), ends.tolist(), strict=True)
        ],
        categories=_categories(path, categories),
        orphans=orphans,
    )


def read_annotations(path: Path, spans: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Read some annotations from where :func:`index_coco` found them.

    Raises:
        PipelineError: If the file has changed since.
    """
    try:
        with path.open("rb") as file:
            texts = [os.pread(file.fileno(), end - start, start) for start, end in spans.tolist()]
        items = [json.loads(text) for text in texts]
        if not all(isinstance(item, dict) for item in items):
            raise ValueError("no annotation stands where one stood")
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path}: has changed while it was read ({error}); run again") from error
    return items


def _items(text: str) -> Iterator[tuple[str, Any, int, int]]:
    """Give every item of the three lists with its place, and ``None`` as the first item of each list."""
    at = _after_space(text, len(_BOM) if text.startswith(_BOM) else 0)
    if text[at : at + 1] != "{":
        raise ValueError("expected an object with the lists images, annotations and categories")
    at = _after_space(text, at + 1)
    while text[at : at + 1] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _after_space(text, _expect(text, at, ":"))
        if name in LISTS and text[at : at + 1] == "[":
            yield name, None, at, at
            at = _after_space(text, at + 1)
            while text[at : at + 1] != "]":
                item, end = _DECODER.raw_decode(text, at)
                own = text[at:end]
                yield name, item if own.isascii() else json.loads(own.encode("latin-1")), at, end
                at = _after_comma(text, end, "]")
            at += 1
        else:
            _, at = _DECODER.raw_decode(text, at)
        at = _after_comma(text, at, "}")


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _expect(text: str, at: int, mark: str) -> int:
    at = _after_space(text, at)
    if text[at : at + 1] != mark:
        raise ValueError(f"expected '{mark}' at byte {at}, got '{text[at : at + 1]}'")
    return at + 1


def _after_comma(text: str, at: int, close: str) -> int:
    """Go to the next item, or to the mark that closes the list."""
    at = _after_space(text, at)
    return at if text[at : at + 1] == close else _after_space(text, _expect(text, at, ","))


def _key(image_id: Any) -> Any:
    """Number or text that an image is known by; ``None`` for what can be neither."""
    return image_id if isinstance(image_id, int | str) and not isinstance(image_id, bool) else None


def _size_hw(image: dict[str, Any]) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    return (int(height), int(width)) if height and width else None


def _rows_by_id(path: Path, images: list[dict[str, Any]]) -> dict[Any, int]:
    row_of: dict[Any, int] = {}
    faults = []
    for row, image in enumerate(images):
        key, name = _key(image.get("id")), image.get("file_name")
        if key is None or not isinstance(name, str) or not name:
            faults.append(f"images, row {row}: expected an id and a file_name, got {str(image)[:80]}")
        elif key in row_of:
            faults.append(f"images, row {row}: id {key} stands twice")
        elif any(not isinstance(image.get(side, 0), int) for side in ("height", "width")):
            faults.append(f"images, row {row}: height and width must be whole numbers")
        row_of[key] = row
    raise_all(faults, f"{path}: mend these images")
    return row_of


def _categories(path: Path, categories: list[dict[str, Any]]) -> dict[int, str]:
    names: dict[int, str] = {}
    faults = []
    for row, category in enumerate(categories):
        number, name = category.get("id"), category.get("name")
        if not isinstance(number, int) or isinstance(number, bool) or not isinstance(name, str):
            faults.append(f"categories, row {row}: expected a whole id and a name, got {str(category)[:80]}")
        elif number in names:
            faults.append(f"categories, row {row}: id {number} stands twice")
        else:
            names[number] = name
    if not categories:
        faults.append("categories: there are none")
    raise_all(faults, f"{path}: mend these categories")
    return dict(sorted(names.items()))
