"""``synthetic_shapes``: seeded scenes of shapes of several classes, with the exact mask of what shows of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.datasets.base import NO_PUBLISHED_COUNTS, SPLITS, RawEntry, RawImage
from pipeline.datasets.id_maps import id_windows
from pipeline.datasets.mask_points import PointRule
from pipeline.datasets.masked_image import MaskedObject, masked_image
from pipeline.datasets.scene_file import (
    SCENES_FILE,
    count_fault,
    is_number,
    is_number_pair,
    read_scene_file,
    roughness_fault,
)
from pipeline.datasets.shape_scene.outlines import KINDS
from pipeline.datasets.shape_scene.scene import render_shapes

DEFAULT_CLASSES = ("disc", "square", "triangle", "star", "cross", "crescent")
DEFAULT_ROUGHNESS = 0.3
DEFAULT_HUE_SPREAD = 0.04


@dataclass(frozen=True)
class ShapePlan:
    """What one split consists of.

    Args:
        images: Number of scenes.
        height_px: Height of each, px.
        width_px: Width of each, px.
        objects: Fewest and most objects in a scene; any number between them is as likely.
        size_px: Least and largest √(box area) of a whole object, px, log-uniform.
        roughness: How hard it is to see what is there, from 0 to 1: patterns, contrast, light, lens and sensor.
    """

    images: int
    height_px: int
    width_px: int
    objects: tuple[int, int]
    size_px: tuple[float, float]
    roughness: float = DEFAULT_ROUGHNESS


@dataclass(frozen=True)
class ShapeClasses:
    """The classes of a data set.

    Args:
        names: Their names, in the order of their numbers from 0.
        weights: How often each is drawn, in proportion.
        hues: Hue of each class's objects, in turns (0 red, 1/3 green, 2/3 blue); None for any colour.
        hue_spread: Standard deviation of an object's hue from that of its class, in turns.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    hues: tuple[float | None, ...]
    hue_spread: float


@dataclass(frozen=True)
class SyntheticShapesReader(PointRule):
    """Draws the scenes that ``scenes.yaml`` asks for; see :mod:`pipeline.datasets.shape_scene`."""

    name: ClassVar[str] = "synthetic_shapes"
    version: ClassVar[int] = 1
    published: ClassVar[Mapping[str, tuple[int, int | None]]] = NO_PUBLISHED_COUNTS

    def scan(self, root: Path) -> list[RawEntry]:
        """List the scenes of ``root/scenes.yaml``.

        Raises:
            PipelineError: If the file is missing or asks for something impossible; all faults are told at once.
        """
        seed, classes, plans = read_shape_plans(root / SCENES_FILE)
        return [
            RawEntry(
                image_id=f"{split}/{number:04d}",
                split=split,
                payload=([seed, SPLITS.index(split), number], plan, classes),
            )
            for split, plan in plans.items()
            for number in range(plan.images)
        ]

    def read(self, entry: RawEntry) -> RawImage:
        """Draw one scene, which depends on the seed, the split and its number alone."""
        seeds: list[int]
        plan: ShapePlan
        classes: ShapeClasses
        seeds, plan, classes = entry.payload
        rng = np.random.default_rng(seeds)
        scene = render_shapes(
            rng,
            size_hw=(plan.height_px, plan.width_px),
            n_objects=int(rng.integers(plan.objects[0], plan.objects[1] + 1)),
            size_px=plan.size_px,
            classes=classes.names,
            weights=classes.weights,
            hues=classes.hues,
            hue_spread=classes.hue_spread,
            roughness=plan.roughness,
        )
        count = len(scene.class_index)
        windows = id_windows(scene.label_map.astype(np.uint16), range(1, count + 1))
        objects = [
            MaskedObject(window, class_id=class_id)
            for window, class_id in zip(windows, scene.class_index.tolist(), strict=True)
        ]
        return masked_image(entry, objects, self, class_names=classes.names, pixels=scene.image)


def read_shape_plans(path: Path) -> tuple[int, ShapeClasses, dict[str, ShapePlan]]:
    """Read ``scenes.yaml``.

    Returns:
        The seed, the classes, and a plan for each split in the order train, val, test.

    Raises:
        PipelineError: As :meth:`SyntheticShapesReader.scan`.
    """
    seed, splits, more = read_scene_file(
        path,
        plan_faults=_plan_faults,
        plan_keys=("objects", "size_px", "roughness"),
        file_faults=_class_faults,
        file_keys=("classes", "frequencies", "hues", "hue_spread"),
    )
    names = tuple(more.get("classes", DEFAULT_CLASSES))
    weights, hues = more.get("frequencies", {}), more.get("hues", {})
    plans = {
        split: ShapePlan(**{**fields, "objects": tuple(fields["objects"]), "size_px": tuple(fields["size_px"])})
        for split, fields in splits.items()
    }
    classes = ShapeClasses(
        names=names,
        weights=tuple(float(weights.get(name, 1.0)) for name in names),
        hues=tuple(hues.get(name) for name in names),
        hue_spread=float(more.get("hue_spread", DEFAULT_HUE_SPREAD)),
    )
    return seed, classes, plans


def _class_faults(content: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with the classes and how often they come."""
    faults = []
    names: Any = content.get("classes", list(DEFAULT_CLASSES))
    if not isinstance(names, list) or not names or any(name not in KINDS for name in map(str, names)):
        faults.append(f"classes: expected a list of some of {', '.join(KINDS)}, got {names!r}")
    elif len(set(names)) < len(names):
        faults.append(f"classes: expected each once, got {names!r}")
    per_class: dict[str, tuple[Any, str, Callable[[Any], bool]]] = {
        "frequencies": (
            content.get("frequencies", {}),
            "number above 0",
            lambda one: is_number(one, 0, 1e6) and one > 0,
        ),
        "hues": (content.get("hues", {}), "number from 0 to 1", lambda one: is_number(one, 0, 1)),
    }
    for key, (values, expected, is_sound) in per_class.items():
        if not isinstance(values, dict) or not all(is_sound(value) for value in values.values()):
            faults.append(f"{key}: expected class: {expected}, got {values!r}")
        elif isinstance(names, list):
            faults += [f"{key}.{name}: is none of the classes" for name in values if name not in names]
    spread: Any = content.get("hue_spread", DEFAULT_HUE_SPREAD)
    if not is_number(spread, 0, 1):
        faults.append(f"hue_spread: expected a number from 0 to 1, got {spread!r}")
    return faults


def _plan_faults(fields: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with one split, each fault beginning at its key."""
    faults = count_fault(fields, "objects")
    size_px: Any = fields.get("size_px")
    if not is_number_pair(size_px, 4, 4096):
        faults.append(f".size_px: expected [least, largest] with numbers from 4 to 4096, got {size_px!r}")
    return faults + roughness_fault(fields)
