"""Tiny data sets with masks, in the layouts of COCO, VOC, Cityscapes and BDD100K."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.datasets.fake_layouts import SIZE_HW, write_image, write_json

HEIGHT, WIDTH = SIZE_HW
CATEGORIES = {18: "dog", 1: "person", 90: "toothbrush"}


def disc_mask(x: float, y: float, radius: float, size_hw: tuple[int, int] = SIZE_HW) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[: size_hw[0], : size_hw[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed counts, counted one pixel at a time."""
    counts, last = [0], False
    for value in mask.T.reshape(-1).tolist():
        if value != last:
            counts.append(0)
            last = value
        counts[-1] += 1
    return counts


def coco_annotation(number: int, image: int, category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {
        "segmentation": segmentation, "area": 1.0, "iscrowd": 0, "image_id": image, "bbox": [2.0, 3.0, 8.0, 6.0],
        "category_id": category, "id": number, **more,
    }  # fmt: skip


SQUARE = [[2.0, 3.0, 10.0, 3.0, 10.0, 9.0, 2.0, 9.0]]
CROWD = disc_mask(20, 12, 6)


def coco_content(**change: Any) -> dict[str, Any]:
    """Three images: polygons, run lengths and a crowd in the first; nothing in the second; two in the third."""
    images = [
        {"id": number, "file_name": f"{number:012d}.jpg", "height": HEIGHT, "width": WIDTH} for number in (9, 25, 30)
    ]
    counts = {"size": [HEIGHT, WIDTH], "counts": run_lengths(CROWD)}
    annotations = [
        coco_annotation(501, 9, 18, counts, iscrowd=1, bbox=[14.0, 6.0, 13.0, 13.0]),
        coco_annotation(502, 30, 90, SQUARE),
        coco_annotation(503, 9, 1, SQUARE),
        coco_annotation(504, 9, 90, [[5.0, 5.0, 14.0, 5.0, 14.0, 12.0, 5.0, 12.0]], bbox=[5.0, 5.0, 9.0, 7.0]),
        coco_annotation(505, 30, 1, {"size": [HEIGHT, WIDTH], "counts": run_lengths(disc_mask(5, 5, 3))}),
    ]
    return {
        "info": {"description": "{not [a list"},
        "images": images,
        "annotations": annotations,
        "categories": [{"supercategory": "x", "id": number, "name": name} for number, name in CATEGORIES.items()],
        **change,
    }


def write_coco(root: Path, train: Mapping[str, Any] | None = None, val: Mapping[str, Any] | None = None) -> Path:
    """The 2017 layout; by default the validation share has one image without an annotation."""
    empty = coco_content(images=coco_content()["images"][1:2], annotations=[])
    contents = {"train": train or coco_content(), "val": val or empty}
    for split, content in contents.items():
        write_json(root / f"annotations/instances_{split}2017.json", content)
        for image in content["images"]:
            write_image(root / f"{split}2017" / image["file_name"], SIZE_HW, seed=image["id"])
    return root


def save_palette(path: Path, values: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(path)


def voc_maps() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Objects 1 (person) and 3 (dog) with a border of 255 around each; the number 2 is left out."""
    objects, classes = np.zeros(SIZE_HW, np.uint8), np.zeros(SIZE_HW, np.uint8)
    for number, category, x, y in ((1, 15, 8, 9), (3, 12, 22, 14)):
        border, inside = disc_mask(x, y, 6), disc_mask(x, y, 5)
        objects[border], classes[border] = 255, 255
        objects[inside], classes[inside] = number, category
    return objects, classes


def write_voc(root: Path, names: Mapping[str, Sequence[str]] | None = None) -> Path:
    home = root / "VOCdevkit" / "VOC2012"
    objects, classes = voc_maps()
    for split, stems in (names or {"train": ["2007_000032", "2008_000008"], "val": ["2007_000129"]}).items():
        path = home / "ImageSets/Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{stem}\n" for stem in stems))
        for stem in stems:
            write_image(home / "JPEGImages" / f"{stem}.jpg")
            save_palette(home / "SegmentationObject" / f"{stem}.png", objects)
            save_palette(home / "SegmentationClass" / f"{stem}.png", classes)
    return root


def city_map() -> NDArray[np.uint16]:
    """Road, two cars, a person, a group of bicycles, a caravan (no class of the benchmark)."""
    ids = np.full(SIZE_HW, 7, np.uint16)
    ids[2:8, 2:9], ids[2:8, 9:14], ids[10:20, 3:6] = 26000, 26001, 24000
    ids[12:20, 15:25], ids[0:3, 25:30] = 33, 29000
    return ids


def write_cityscapes(root: Path, *, train: int = 2, ids: NDArray[np.uint16] | None = None) -> Path:
    """Every mask is :func:`city_map`, or the given one."""
    for split, city, count in (("train", "aachen", train), ("val", "lindau", 1), ("test", "berlin", 1)):
        for number in range(count):
            stem = f"{city}_{number:06d}_000019"
            write_image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", seed=number)
            mask = root / "gtFine" / split / city / f"{stem}_gtFine_instanceIds.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(city_map() if ids is None else ids).save(mask)
            write_json(mask.with_name(f"{stem}_gtFine_polygons.json"), {})
    return root


def bdd_bitmask() -> NDArray[np.uint8]:
    """A car (number 300, truncated and occluded), a pedestrian (5), a crowd of bicycles (7), an ignored car (8)."""
    rgba = np.zeros((*SIZE_HW, 4), np.uint8)
    for region, category, bits, number in (
        (np.s_[2:8, 2:9], 3, 8 | 4, 300),
        (np.s_[2:8, 9:14], 1, 0, 5),
        (np.s_[12:20, 15:25], 8, 2, 7),
        (np.s_[20:24, 0:5], 3, 1, 8),
    ):
        rgba[region] = category, bits, number >> 8, number & 255
    return rgba


def write_bdd100k(root: Path, *, train: int = 2) -> Path:
    for split, count in (("train", train), ("val", 1), ("test", 1)):
        for number in range(count):
            write_image(root / "images/10k" / split / f"0a{number}f.jpg", seed=number)
            if split != "test":
                mask = root / "labels/ins_seg/bitmasks" / split / f"0a{number}f.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(bdd_bitmask(), "RGBA").save(mask)
    return root
