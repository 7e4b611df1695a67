"""What an experiment consists of: its data, the stages of a run, the rows of its tables."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.experiments.label_cost import Labels

REPOSITORY = Path(__file__).parents[2]

Found = Mapping[tuple[str, int, int], Mapping[str, float]]
"""(row, labelled share, seed) → figures of a run that is done."""


def figures_of(found: Found, key: str, labeled_pct: int) -> list[Mapping[str, float]]:
    """Give the figures of a row at one share, by seed."""
    return [figures for (row, share, _), figures in sorted(found.items()) if (row, share) == (key, labeled_pct)]


@dataclass(frozen=True)
class Step:
    """A stage of a run.

    Args:
        stage: Name of its command, ``python -m stages.<stage>``.
        sections: Sections of the parameters on which its output depends, beside those of the steps before.
        per_run: Whether it is done for each labelled share and seed, or once for a data set.
        output: Folder that it writes, below the data set's or the run's; None for one of its own name.
        options: Further options of the command; ``{cache}`` stands for a folder that all runs share.
        also: Files and folders that it writes beside ``output``, in the same place; those that are not there are none.
        timed: Whether its time counts in a run's ``minutes``: what lies between labels and the last network.
    """

    stage: str
    sections: tuple[str, ...]
    per_run: bool = True
    output: str | None = None
    options: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    timed: bool = False

    @property
    def folder(self) -> str:
        """Name of the folder that it writes."""
        return self.output or self.stage


@dataclass(frozen=True)
class Variant:
    """A row of a table.

    Args:
        key: Its name in files and on the command line.
        title: Its name in the table.
        table: Title of the table in which it stands.
        changes: Dotted parameter → value.
        labeled_pcts: Labelled shares, percent.
        leaves_out: Folders of the steps that this row does not need.
        params: Parameter file that it starts from, below the repository, where it is not the study's.
        steps: Its stages, where they are not the study's.
        labels: What people mark for it; its table then says so.
    """

    key: str
    title: str
    table: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    labeled_pcts: tuple[int, ...] = (10,)
    leaves_out: tuple[str, ...] = ()
    params: str | None = None
    steps: tuple[Step, ...] | None = None
    labels: Labels | None = None

    def describe_labels(self, labeled_pct: int) -> str:
        """Say what people mark, or how large the labelled share is."""
        return f"{labeled_pct} %" if self.labels is None else self.labels.describe(labeled_pct)


@dataclass(frozen=True)
class Study:
    """An experiment.

    Args:
        name: Its name on the command line, and the data set's.
        params: Parameter file that all rows start from, below the repository.
        reader: Reader of the data set.
        scenes: Content of its ``scenes.yaml``.
        changes: Dotted parameter → value, for all rows.
        steps: Stages, in order; the last one writes ``metrics.json``.
        rows: What is compared.
        figures: Figure in ``metrics.json`` → its name in the tables; a row that lacks it shows a dash.
        seeds: Number of seeds.
        measure: Gives further figures of a run from its data set's folder and its parameters.
        draw: Gives further files from all runs that are done: name → content.
    """

    name: str
    params: str
    reader: str
    scenes: Mapping[str, Any]
    changes: Mapping[str, Any]
    steps: tuple[Step, ...]
    rows: tuple[Variant, ...]
    figures: Mapping[str, str]
    seeds: int = 3
    measure: "Callable[[Run, Path, Mapping[str, Any]], Mapping[str, float]] | None" = None
    draw: Callable[[Sequence[Variant], Found], Mapping[str, bytes]] | None = None

    def steps_of(self, variant: Variant) -> tuple[Step, ...]:
        """Give the stages of a row, in order."""
        steps = self.steps if variant.steps is None else variant.steps
        return tuple(step for step in steps if step.folder not in variant.leaves_out)

    def params_of(self, variant: Variant) -> Path:
        """Give the parameter file that a row starts from."""
        return REPOSITORY / (variant.params or self.params)


@dataclass(frozen=True)
class Run:
    """One variant at one labelled share and seed."""

    variant: Variant
    labeled_pct: int
    seed: int

    def __str__(self) -> str:
        """Name it, as its folder is named."""
        return f"{self.variant.key}/labeled_{self.labeled_pct}/seed_{self.seed}"


def all_runs(rows: Iterable[Variant], seeds: Iterable[int]) -> list[Run]:
    """Every row at each of its shares and every seed, the first seed of all rows before the second."""
    listed = list(rows)
    return [Run(variant, pct, seed) for seed in seeds for variant in listed for pct in variant.labeled_pcts]


def merge(base: Mapping[str, Any], *changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay changes with dotted keys, ``{"retrain.w_bg": 0.0}``, over nested parameters.

    Raises:
        KeyError: If a key is not there already.
    """
    merged: dict[str, Any] = json.loads(json.dumps(base))
    for key, value in (pair for change in changes for pair in change.items()):
        *path, last = key.split(".")
        section = merged
        for part in path:
            section = section[part]
        if last not in section:
            raise KeyError(f"{key}: no such parameter")
        section[last] = value
    return merged
