"""What the stages of one run share: its data set and how its images are divided."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.table import Table

from pipeline.datasets.prepared import Prepared
from pipeline.datasets.splits import Splits, split_images
from stages.command import console
from stages.data_sections import DataParams
from stages.paths import RunPaths


@dataclass(frozen=True)
class RunInputs:
    """Inputs of warmup, pseudo_label, retrain and evaluate.

    Args:
        prepared: The data set.
        splits: Labelled, held-out, unlabelled and test images.
    """

    prepared: Prepared
    splits: Splits

    @classmethod
    def open(cls, paths: RunPaths, params: DataParams) -> "RunInputs":
        """Open the tables of one run and divide its images.

        Raises:
            PipelineError: If the stage prepare has not run, or there are too few images.
        """
        prepared = Prepared.open(paths.prepared)
        splits = split_images(
            prepared.images,
            labeled_pct=paths.labeled_pct,
            seed=paths.seed,
            held_out_frac=params.splits.held_out_frac,
            list_file=params.splits.list_file(paths.dataset, paths.labeled_pct),
        )
        return cls(prepared, splits)


def print_figures(title: str, figures: Mapping[str, float]) -> None:
    """Print the figures of a training as a table; ranks that have none print nothing."""
    if not figures:
        return
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:,.3f}")
    console.print(table)
