"""``scenes.yaml``: how many scenes of what kind a synthetic data set has, for each split."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.datasets.base import SPLITS
from pipeline.errors import PipelineError, raise_all

SCENES_FILE = "scenes.yaml"
MAX_SIDE_PX = 8192
BOUNDS = {"images": (0, 10**7), "height_px": (16, MAX_SIDE_PX), "width_px": (16, MAX_SIDE_PX)}
"""Keys that every split has, and their least and largest values."""
COUNT_LIMIT = 20_000


def read_scene_file(
    path: Path,
    *,
    plan_faults: Callable[[Mapping[str, Any]], list[str]],
    plan_keys: tuple[str, ...],
    file_faults: Callable[[Mapping[str, Any]], list[str]] | None = None,
    file_keys: tuple[str, ...] = (),
) -> tuple[int, dict[str, dict[str, Any]], dict[str, Any]]:
    """Read and check the description of a synthetic data set.

    Args:
        path: The file.
        plan_faults: Says what is wrong with a split beside the keys of :data:`BOUNDS`, each fault beginning at its key.
        plan_keys: Keys that a split may have beside those.
        file_faults: Says what is wrong with the keys beside seed and splits.
        file_keys: Those keys.

    Returns:
        The seed; the fields of each split in the order train, val, test; and the values of ``file_keys`` that stand
        there.

    Raises:
        PipelineError: If the file is missing or asks for something impossible; all faults are told at once.
    """
    if not path.is_file():
        raise PipelineError(f"{path}: no such file; a synthetic data set is described there, see docs/datasets.md")
    try:
        content: Any = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(content.get("splits"), dict) or not content["splits"]:
        raise PipelineError(f"{path}: expected the keys seed and splits; see docs/datasets.md for an example")
    known = " and ".join([", ".join(["seed", *file_keys]), "splits"])
    faults = [f"{key}: unknown key; expected {known}" for key in content if key not in ("seed", "splits", *file_keys)]
    seed = content.get("seed", 0)
    if not is_whole(seed, 0, 2**63 - 1):
        faults.append(f"seed: expected a whole number of at least 0, got {seed!r}")
    faults += file_faults(content) if file_faults else []
    keys = (*BOUNDS, *plan_keys)
    wanted: dict[str, Any] = content["splits"]
    for split, fields in wanted.items():
        if split not in SPLITS:
            faults.append(f"splits.{split}: unknown split; expected one of {', '.join(SPLITS)}")
        elif not isinstance(fields, dict):
            faults.append(f"splits.{split}: expected the keys {', '.join(keys)}, got {fields!r}")
        else:
            mine = [f".{key}: unknown key; expected {', '.join(keys)}" for key in fields if key not in keys]
            for key, (low, high) in BOUNDS.items():
                if not is_whole(fields.get(key), low, high):
                    mine.append(f".{key}: expected a whole number from {low} to {high}, got {fields.get(key)!r}")
            faults += [f"splits.{split}{fault}" for fault in mine + plan_faults(fields)]
    raise_all(faults, f"{path}: mend these entries")
    splits = {split: dict(wanted[split]) for split in SPLITS if split in wanted}
    return seed, splits, {key: value for key, value in content.items() if key in file_keys}


def count_fault(fields: Mapping[str, Any], key: str) -> list[str]:
    """Check a pair of fewest and most."""
    value: Any = fields.get(key)
    whole = isinstance(value, list) and len(value) == 2 and all(is_whole(one, 0, COUNT_LIMIT) for one in value)
    if whole and value[0] <= value[1]:
        return []
    return [f".{key}: expected [fewest, most] with whole numbers from 0 to {COUNT_LIMIT}, got {value!r}"]


def roughness_fault(fields: Mapping[str, Any]) -> list[str]:
    """Check a share of trouble, which may be missing."""
    if is_number(fields.get("roughness", 1.0), 0, 1):
        return []
    return [f".roughness: expected a number from 0 to 1, got {fields['roughness']!r}"]


def is_number(value: Any, low: float, high: float) -> bool:
    """Tell whether a value is a number between two bounds, these included."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def is_number_pair(value: Any, low: float, high: float) -> bool:
    """Tell whether a value is a list of two rising numbers between two bounds."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(is_number(one, low, high) for one in value)
        and value[0] <= value[1]
    )


def is_whole(value: Any, low: int, high: int) -> bool:
    """Tell whether a value is a whole number between two bounds, these included."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
