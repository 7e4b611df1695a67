"""``synthetic``: seeded, endlessly generated crowds with head points and the exact visible mask of every person."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.datasets.base import NO_PUBLISHED_COUNTS, SPLITS, RawEntry, RawImage
from pipeline.datasets.crowd_scene.scene import render_scene
from pipeline.errors import PipelineError, raise_all

SCENES_FILE = "scenes.yaml"
MAX_HEADS = 20_000
MAX_SIDE_PX = 8192


@dataclass(frozen=True)
class SplitPlan:
    """What one split consists of.

    Args:
        images: Number of scenes.
        height_px: Height of each, px.
        width_px: Width of each, px.
        heads: Fewest and most heads in a scene; drawn log-uniformly, or uniformly where the fewest is 0.
        head_px: Height of a head at the back and at the front, px; None draws it to fit the number of heads.
        roughness: How much light, lens and sensor trouble the picture, from 0 to 1.
    """

    images: int
    height_px: int
    width_px: int
    heads: tuple[int, int]
    head_px: tuple[float, float] | None = None
    roughness: float = 1.0


@dataclass(frozen=True)
class SyntheticReader:
    """Draws the scenes that ``scenes.yaml`` asks for; see :mod:`pipeline.datasets.crowd_scene`."""

    name: ClassVar[str] = "synthetic"
    version: ClassVar[int] = 1
    published: ClassVar[Mapping[str, tuple[int, int | None]]] = NO_PUBLISHED_COUNTS

    def scan(self, root: Path) -> list[RawEntry]:
        """List the scenes of ``root/scenes.yaml``.

        Raises:
            PipelineError: If the file is missing or asks for something impossible; all faults are told at once.
        """
        seed, plans = read_plans(root / SCENES_FILE)
        return [
            RawEntry(image_id=f"{split}/{number:04d}", split=split, payload=(seed, SPLITS.index(split), number, plan))
            for split, plan in plans.items()
            for number in range(plan.images)
        ]

    def read(self, entry: RawEntry) -> RawImage:
        """Draw one scene."""
        seed, split_number, number, plan = entry.payload
        rng = np.random.default_rng([seed, split_number, number])
        fewest, most = plan.heads
        n_heads = (
            int(np.clip(np.exp(rng.uniform(np.log(fewest), np.log(most + 1))), fewest, most))
            if fewest
            else int(rng.integers(0, most + 1))
        )
        scene = render_scene(
            rng,
            size_hw=(plan.height_px, plan.width_px),
            n_heads=n_heads,
            unit_px_range=(plan.head_px[0] / 2, plan.head_px[1] / 2) if plan.head_px else None,
            roughness=plan.roughness,
        )
        return RawImage(
            image_id=entry.image_id,
            path=None,
            split=entry.split,
            points_xy=scene.points_xy,
            class_id=np.zeros(len(scene.points_xy), np.int64),
            boxes_wh_px=scene.boxes_wh_px,
            pixels=scene.image,
            truth=scene.label_map,
            class_names=("person",),
        )


def read_plans(path: Path) -> tuple[int, dict[str, SplitPlan]]:
    """Read ``scenes.yaml``.

    Returns:
        The seed, and a plan for each split in the order train, val, test.

    Raises:
        PipelineError: As :meth:`SyntheticReader.scan`.
    """
    if not path.is_file():
        raise PipelineError(f"{path}: no such file; a synthetic data set is described there, see docs/datasets.md")
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(content.get("splits"), dict) or not content["splits"]:
        raise PipelineError(f"{path}: expected the keys seed and splits; see docs/datasets.md for an example")
    faults = [f"{key}: unknown key; expected seed and splits" for key in content if key not in ("seed", "splits")]
    seed = content.get("seed", 0)
    if not _is_whole(seed, 0, 2**63 - 1):
        faults.append(f"seed: expected a whole number of at least 0, got {seed!r}")
    plans = {}
    for split, fields in content["splits"].items():
        if split not in SPLITS:
            faults.append(f"splits.{split}: unknown split; expected one of {', '.join(SPLITS)}")
            continue
        found = _plan_faults(fields)
        faults += [f"splits.{split}{fault}" for fault in found]
        if not found:
            head_px = tuple(fields["head_px"]) if fields.get("head_px") else None
            plans[split] = SplitPlan(**{**fields, "heads": tuple(fields["heads"]), "head_px": head_px})
    raise_all(faults, f"{path}: mend these entries")
    return seed, {split: plans[split] for split in SPLITS if split in plans}


BOUNDS = {"images": (0, 10**7), "height_px": (16, MAX_SIDE_PX), "width_px": (16, MAX_SIDE_PX)}
KEYS = (*BOUNDS, "heads", "head_px", "roughness")


def _plan_faults(fields: Any) -> list[str]:
    """Say what is wrong with one split, each fault beginning at its key."""
    if not isinstance(fields, dict):
        return [f": expected the keys {', '.join(KEYS)}, got {fields!r}"]
    faults = [f".{key}: unknown key; expected {', '.join(KEYS)}" for key in fields if key not in KEYS]
    for key, (low, high) in BOUNDS.items():
        if not _is_whole(fields.get(key), low, high):
            faults.append(f".{key}: expected a whole number from {low} to {high}, got {fields.get(key)!r}")
    heads: Any = fields.get("heads")
    whole = isinstance(heads, list) and len(heads) == 2 and all(_is_whole(one, 0, MAX_HEADS) for one in heads)
    if not (whole and heads[0] <= heads[1]):
        faults.append(f".heads: expected [fewest, most] with whole numbers from 0 to {MAX_HEADS}, got {heads!r}")
    head_px: Any = fields.get("head_px")
    numbers = isinstance(head_px, list) and len(head_px) == 2 and all(_is_number(one, 2, 1000) for one in head_px)
    if head_px is not None and not (numbers and head_px[0] <= head_px[1]):
        faults.append(f".head_px: expected [far, near] with numbers from 2 to 1000, got {head_px!r}")
    if not _is_number(fields.get("roughness", 1.0), 0, 1):
        faults.append(f".roughness: expected a number from 0 to 1, got {fields['roughness']!r}")
    return faults


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
