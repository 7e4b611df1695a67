"""Figures of several seeds as mean ± standard deviation, in a Markdown table like the papers'."""

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, raise_all

DEFAULT_FIGURES = (
    "mae",
    "rmse",
    "nae",
    "mae_calibrated",
    "matched_iou_truth",
    "matched_iou_annotator",
    "localization_f1_4px",
    "localization_f1_8px",
    "localization_f1_radius",
    "ap",
    "ap_50",
    "ap_75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "teacher_ap",
    "pseudo_label_mean_iou",
)
"""Columns of the table unless others are asked for; those that no run has are left out."""

SAME_TEST_SET = ("n_images", "n_heads", "n_true_instances")
"""Figures that runs of one data set share when they were made on the same test images."""

_HEADS = {
    "mae": "MAE",
    "rmse": "RMSE",
    "nae": "NAE",
    "mae_calibrated": "MAE, calibrated",
    "matched_iou_truth": "matched IoU with true masks",
    "matched_iou_annotator": "matched IoU with the annotator's masks",
    "localization_f1_4px": "F1 within 4 px",
    "localization_f1_8px": "F1 within 8 px",
    "localization_f1_radius": "F1 in the head",
    "ap": "AP",
    "ap_50": "AP50",
    "ap_75": "AP75",
    "ap_small": "AP small",
    "ap_medium": "AP medium",
    "ap_large": "AP large",
    "teacher_ap": "AP of the teacher",
    "pseudo_label_mean_iou": "mean IoU of the weak masks",
}
_PERCENT = (
    "matched_iou", "annotator_matched_iou", "f1_", "mean_iou", "localization_", "ap", "ar", "teacher_ap",
    "pseudo_label_mean_iou",
)  # fmt: skip


@dataclass(frozen=True)
class RunFigures:
    """What one run found.

    Args:
        dataset: Name of the data set.
        labeled_pct: Labelled share of the training images, percent.
        seed: Seed of the run.
        path: Its ``metrics.json``.
        figures: Contents of that file; None where a figure is undefined.
        settings: Where the records of its networks stand: what each was built and trained with, less the seed.
            None if a record is missing.
    """

    dataset: str
    labeled_pct: int
    seed: int
    path: Path
    figures: Mapping[str, float | int | None]
    settings: Mapping[str, Any] | None


@dataclass(frozen=True)
class SeedSummary:
    """All seeds of one data set and share.

    Args:
        dataset: Name of the data set.
        labeled_pct: Labelled share of the training images, percent.
        seeds: The seeds, rising.
        values: Figure → its values by seed; empty where the runs do not have it or one run's is undefined.
        compared: Whether the parameters of all runs were there to be compared.
    """

    dataset: str
    labeled_pct: int
    seeds: tuple[int, ...]
    values: Mapping[str, tuple[float, ...]]
    compared: bool


def read_run(metrics: Path, records: Sequence[Path], *, dataset: str, labeled_pct: int, seed: int) -> RunFigures:
    """Read the figures of one run, and what its networks were trained with.

    Args:
        metrics: ``metrics.json`` of the stage evaluate.
        records: ``model.json`` of teacher and student.
        dataset: Name of the data set.
        labeled_pct: Labelled share, percent.
        seed: Seed.

    Raises:
        PipelineError: If a file is there that does not hold what it should.
    """
    figures = _read_object(metrics)
    odd = [
        name for name, value in figures.items() if isinstance(value, bool) or not isinstance(value, int | float | None)
    ]
    if odd:
        raise PipelineError(f"{metrics}: expected a number or null for {', '.join(odd)}; run the evaluate stage again")
    settings: dict[str, Any] | None = None
    if all(path.is_file() for path in records):
        settings = {}
        for path in records:
            record = _read_object(path)
            for part in ("architecture", "parameters"):
                settings |= _flat(f"{path.parent.name}.{part}", record.get(part))
        settings = {name: value for name, value in settings.items() if not name.endswith(".parameters.seed")}
    return RunFigures(dataset, labeled_pct, seed, metrics, figures, settings)


def summarize_seeds(runs: Sequence[RunFigures]) -> list[SeedSummary]:
    """Group runs by data set and share.

    Args:
        runs: In any order.

    Raises:
        PipelineError: If runs of one data set and share were made with different parameters, on different test
            images, or have different figures; names both files and what differs.
    """
    order = sorted(runs, key=lambda run: (run.dataset, run.labeled_pct, run.seed))
    summaries: list[SeedSummary] = []
    faults: list[str] = []
    for (dataset, labeled_pct), group in itertools.groupby(order, key=lambda run: (run.dataset, run.labeled_pct)):
        first, *others = group
        faults += [fault for other in others for fault in _differences(first, other)]
        seeds = [first, *others]
        values: dict[str, tuple[float, ...]] = {}
        for name in first.figures:
            found = [run.figures.get(name) for run in seeds]
            values[name] = tuple(float(value) for value in found if value is not None) if None not in found else ()
        summaries.append(
            SeedSummary(
                dataset,
                labeled_pct,
                tuple(run.seed for run in seeds),
                values,
                compared=not others or all(run.settings is not None for run in seeds),
            )
        )
    raise_all(
        faults, "these runs do not belong together; run dvc repro, or choose runs with --dataset, --labeled-pct, --seed"
    )
    return summaries


def markdown_table(summaries: Sequence[SeedSummary], figures: Sequence[str] = ()) -> str:
    """Lay out one row for each data set and share.

    Args:
        summaries: Rows, in order.
        figures: Names from ``metrics.json`` for the columns; :data:`DEFAULT_FIGURES` when empty.

    Returns:
        The table, with an empty cell's dash where a figure is undefined, and a line on what ± is.

    Raises:
        PipelineError: If a figure is asked for that no run has.
    """
    known = list(dict.fromkeys(name for summary in summaries for name in summary.values))
    unknown = [f"'{name}'" for name in figures if name not in known]
    if unknown:
        raise PipelineError(f"no run has the figure {', '.join(unknown)}; there are: {', '.join(known)}")
    columns = list(figures) or [
        name for name in DEFAULT_FIGURES if any(summary.values.get(name) for summary in summaries)
    ]
    rows = [["data set", "labelled %", "seeds", *(_head(name) for name in columns)]]
    rows.append(["---", "--:", ":--", *("--:" for _ in columns)])
    for summary in summaries:
        seeds = f"{len(summary.seeds)} ({', '.join(map(str, summary.seeds))})"
        cells = [_cell(name, summary.values.get(name, ())) for name in columns]
        rows.append([summary.dataset, str(summary.labeled_pct), seeds, *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\nMean ± sample standard deviation over the seeds; a single seed has no ±.\n"


def _differences(first: RunFigures, other: RunFigures) -> list[str]:
    """Say what keeps two runs apart, at most one line."""
    pair = f"{first.path} and {other.path}"
    if first.settings is not None and other.settings is not None and first.settings != other.settings:
        names = sorted(
            name for name in {*first.settings, *other.settings} if first.settings.get(name) != other.settings.get(name)
        )
        shown = ", ".join(f"{name} {first.settings.get(name)!r} and {other.settings.get(name)!r}" for name in names[:3])
        return [f"{pair}: made with different parameters: {shown}{' …' if len(names) > 3 else ''}"]
    for name in SAME_TEST_SET:
        if first.figures.get(name) != other.figures.get(name):
            values = f"{first.figures.get(name)} and {other.figures.get(name)}"
            return [f"{pair}: made on different test images: {name} is {values}"]
    lacking = sorted(first.figures.keys() ^ other.figures.keys())
    if lacking:
        return [f"{pair}: made with different options of evaluate: only one of them has {', '.join(lacking[:3])}"]
    return []


def _head(name: str) -> str:
    """Head of a column; shares are in percent, as papers have them."""
    return f"{_HEADS.get(name, name)}{', %' if name.startswith(_PERCENT) else ''}"


def _cell(name: str, values: Sequence[float]) -> str:
    """Write mean ± standard deviation with as many decimals as the mean is worth."""
    if not values:
        return "–"
    scaled = [100 * value for value in values] if name.startswith(_PERCENT) else list(values)
    mean = statistics.fmean(scaled)
    decimals = 1 if name.startswith(_PERCENT) or abs(mean) >= 10 else 2 if abs(mean) >= 1 else 3
    text = f"{mean:.{decimals}f}"
    return text if len(scaled) < 2 else f"{text} ± {statistics.stdev(scaled):.{decimals}f}"


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path}: cannot be read as JSON ({error}); run dvc repro, or dvc checkout") from error
    if not isinstance(found, dict):
        raise PipelineError(f"{path}: expected a JSON object, got {type(found).__name__}; run dvc repro")
    return found


def _flat(at: str, value: Any) -> dict[str, Any]:
    """Give key path → plain value of everything below a mapping."""
    if not isinstance(value, Mapping):
        return {at: value}
    return {name: one for key, below in value.items() for name, one in _flat(f"{at}.{key}", below).items()}
