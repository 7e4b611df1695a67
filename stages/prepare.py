"""Stage ``prepare``: raw data to tables of images and points."""

from typing import Annotated

import typer
from rich.table import Table

from pipeline.datasets.prepare import PrepareReport, prepare_dataset
from stages.command import (
    DEFAULT_DATASET,
    DEFAULT_PARAMS,
    DatasetOption,
    ParamsOption,
    console,
    fails_clearly,
    stage_app,
)
from stages.params import load_data_params
from stages.paths import DatasetPaths

app = stage_app("Read a raw data set, check every file, and write tables of its images and points.")

WorkersOption = Annotated[
    int, typer.Option("--workers", min=0, help="Processes that decode or render images; 0: one per core.")
]


@app.command()
@fails_clearly
def main(
    dataset: DatasetOption = DEFAULT_DATASET, params: ParamsOption = DEFAULT_PARAMS, workers: WorkersOption = 0
) -> None:
    """Read data/DATASET/raw, write data/DATASET/prepared."""
    settings = load_data_params(params).prepare
    paths = DatasetPaths(dataset)
    reader = settings.reader(dataset)
    report = prepare_dataset(
        reader, paths.raw, paths.prepared, paths.root,
        max_broken_frac=settings.max_broken_frac, workers=workers or None,
    )  # fmt: skip
    _print(dataset, report)


def _print(dataset: str, report: PrepareReport) -> None:
    table = Table(title=f"{dataset}: images and points", title_justify="left")
    table.add_column("split")
    for name in ("images", "points", "points per image", "most in one image"):
        table.add_column(name, justify="right")
    for split, count in {**report.counts, "total": report.total}.items():
        mean = count.points / count.images if count.images else 0.0
        table.add_row(split, f"{count.images:,}", f"{count.points:,}", f"{mean:,.1f}", f"{count.most:,}")
    console.print(table)
    if report.flagged:
        flagged = ", ".join(f"{count:,} {name}" for name, count in report.flagged.items())
        console.print(f"flagged points: {flagged}", markup=False)
    if "hidden" in report.counts:
        console.print("split 'hidden': its points are not public; it is neither trained on nor evaluated.")
    for heading, lines in (
        ("the counts differ from the published ones:", report.differences),
        ("broken and left out, see broken.parquet:", [item.reason for item in report.broken]),
        ("odd, but used as it is:", report.notes),
    ):
        if lines:
            console.print(f"[bold yellow]warning:[/] {heading}")
            for line in lines:
                console.print(f"  - {line}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
