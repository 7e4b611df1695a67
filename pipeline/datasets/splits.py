"""Which images are labelled, held out, unlabelled, or for the test: seeded and nested, or from a list file."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.datasets.prepared import ImageRow
from pipeline.errors import PipelineError, raise_all


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How the labelled images are divided.

    Args:
        held_out_frac: Share of the labelled images that is kept for choosing a checkpoint where the source has no
            validation images, above 0 and below 1.
    """

    held_out_frac: float = 0.2

    def __post_init__(self) -> None:
        """Raise ValueError for a share out of range."""
        if not 0 < self.held_out_frac < 1:
            raise ValueError(f"held_out_frac must be above 0 and below 1, got {self.held_out_frac}")


@dataclass(frozen=True)
class Splits:
    """Image ids, each group sorted; no image is in two of them.

    Args:
        labeled_train: Training images whose points may be used.
        labeled_val: Images with points for choosing a checkpoint, never test images.
        unlabeled: Training images whose points must not be used.
        test: Test images. Where the source has none with public points, its validation images.
    """

    labeled_train: tuple[str, ...]
    labeled_val: tuple[str, ...]
    unlabeled: tuple[str, ...]
    test: tuple[str, ...]


def split_images(
    images: Sequence[ImageRow], *, labeled_pct: int, seed: int, held_out_frac: float, list_file: Path | None = None
) -> Splits:
    """Divide a data set's images.

    The labelled share is a prefix of one seeded order of the training images, so shares of one seed are nested
    (5 % ⊂ 10 % ⊂ 40 %); so are the held-out images within it. Where images must be held out, a share of one image
    becomes two: one to train on and one to choose by.

    Args:
        images: All images of the data set, in any order.
        labeled_pct: Labelled share of the training images, 1 to 100 percent. A list file takes its place.
        seed: Seed of the order.
        held_out_frac: Share of the labelled images held out where the source has no validation images of its own.
        list_file: Names of the labelled images, one per line, with or without folders and extension.

    Raises:
        PipelineError: If there are too few training images, the share gives none, or the list names unknown ones.
    """
    if not 1 <= labeled_pct <= 100:
        raise PipelineError(f"labeled_pct: expected 1 to 100, got {labeled_pct}")
    by_split: dict[str, list[str]] = defaultdict(list)
    for row in images:
        by_split[row.split].append(row.image_id)
    train, val, test = (sorted(by_split[split]) for split in ("train", "val", "test"))
    if not test:
        # NWPU keeps the points of its test images: its validation images are what one can report on.
        val, test = [], val
    least = 1 if val else 2
    if len(train) < least:
        raise PipelineError(f"the data set has {len(train)} training images; at least {least} are needed")

    order = [train[index] for index in np.random.default_rng(seed).permutation(len(train))]
    if list_file is None:
        share = (labeled_pct * len(train) + 50) // 100
        if share == 0:
            raise PipelineError(
                f"labeled_pct: {labeled_pct} % of {len(train)} training images is no image; give at least "
                f"{-(-50 // len(train))} %, or name the labelled images in a file (splits.lists in params.yaml)"
            )
        labeled = order[: max(least, share)]
    else:
        listed = set(_read_list(list_file, train))
        labeled = [image_id for image_id in order if image_id in listed]
        if len(labeled) < least:
            raise PipelineError(f"{list_file}: names {len(labeled)} training images; at least {least} are needed")
    held_out = [] if val else [name for position, name in enumerate(labeled) if _is_held_out(position, held_out_frac)]
    return Splits(
        labeled_train=tuple(sorted(set(labeled) - set(held_out))),
        labeled_val=tuple(val or sorted(held_out)),
        unlabeled=tuple(sorted(set(train) - set(labeled))),
        test=tuple(test),
    )


def _is_held_out(position: int, frac: float) -> bool:
    """Spread the held-out images evenly: the second of the order is one, the first never; a prefix decides alone."""
    return position > 0 and int(1 + (position - 1) * frac) > (int(1 + (position - 2) * frac) if position > 1 else 0)


def _read_list(path: Path, train: Sequence[str]) -> list[str]:
    """Read a list of image names and find each among the training images; CRLF, blank lines and a BOM are fine."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path}: the list of labelled images cannot be read ({error})") from error
    by_name: dict[str, list[str]] = defaultdict(list)
    for image_id in train:
        by_name[PurePosixPath(image_id).name].append(image_id)
    known = set(train)
    found: list[str] = []
    faults: list[str] = []
    for number, line in enumerate(lines, start=1):
        name = line.strip().replace("\\", "/")
        if not name:
            continue
        exact = next((text for text in (name, _without_image_suffix(name)) if text in known), None)
        short = PurePosixPath(name).name
        matches = [exact] if exact else by_name.get(short) or by_name.get(_without_image_suffix(short), [])
        if len(matches) == 1:
            found.append(matches[0])
        elif matches:
            faults.append(f"line {number}: '{name}' fits {len(matches)} images, such as {matches[0]} and {matches[1]}")
        else:
            faults.append(f"line {number}: '{name}' is no training image")
    raise_all(faults, f"{path}: every line must name one training image")
    return found


def _without_image_suffix(name: str) -> str:
    """Drop a file extension, but not the end of a name such as ``scene.12``."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix[1:].isalpha() else name
