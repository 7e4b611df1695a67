"""``synthetic``: seeded, endlessly generated crowds with head points and the exact visible mask of every person."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.datasets.base import NO_PUBLISHED_COUNTS, SPLITS, RawEntry, RawImage
from pipeline.datasets.crowd_scene.scene import render_scene
from pipeline.datasets.scene_file import SCENES_FILE, count_fault, is_number_pair, read_scene_file, roughness_fault


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
    seed, splits, _ = read_scene_file(path, plan_faults=_plan_faults, plan_keys=("heads", "head_px", "roughness"))
    plans = {}
    for split, fields in splits.items():
        head_px = tuple(fields["head_px"]) if fields.get("head_px") else None
        plans[split] = SplitPlan(**{**fields, "heads": tuple(fields["heads"]), "head_px": head_px})
    return seed, plans


def _plan_faults(fields: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with one split, each fault beginning at its key."""
    faults = count_fault(fields, "heads")
    head_px: Any = fields.get("head_px")
    if head_px is not None and not is_number_pair(head_px, 2, 1000):
        faults.append(f".head_px: expected [far, near] with numbers from 2 to 1000, got {head_px!r}")
    return faults + roughness_fault(fields)
