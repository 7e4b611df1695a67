"""Stage ``annotate``: points and circles to masks."""

import os
from collections import Counter

from rich.table import Table

from pipeline.annotators.build import build_annotator
from pipeline.annotators.run import annotate_dataset
from pipeline.compute.device import resolve_device
from pipeline.compute.progress import JsonLines
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.radii import read_radii
from stages.command import (
    DEFAULT_DATASET,
    DEFAULT_PARAMS,
    DatasetOption,
    DeviceOption,
    ParamsOption,
    console,
    fails_clearly,
    stage_app,
)
from stages.params import load_params
from stages.paths import DatasetPaths

app = stage_app("Make one mask for every point, inside its exclusion circle.")


@app.command()
@fails_clearly
def main(
    dataset: DatasetOption = DEFAULT_DATASET, device: DeviceOption = "auto", params: ParamsOption = DEFAULT_PARAMS
) -> None:
    """Read data/DATASET/prepared and nnec, write the mask store data/DATASET/annotate."""
    settings = load_params(params).annotate
    paths = DatasetPaths(dataset)
    prepared = Prepared.open(paths.prepared)
    radii = read_radii(paths.nnec / "radii.parquet")
    options = settings.options
    target = resolve_device(device)
    annotator = build_annotator(settings.method, options, weights=settings.weights, device=target, truth=prepared.truth)
    workers = 1 if target.type == "cuda" else os.cpu_count() or 1
    with JsonLines(paths.logs / "annotate.jsonl") as log:
        rows = annotate_dataset(
            prepared, radii, annotator, paths.annotate, options=options, log=log.write, workers=workers
        )
    _print(dataset, settings.method, rows)


def _print(dataset: str, method: str, rows: Counter[str]) -> None:
    title = f"{dataset}: masks by {method}"
    table = Table(title=title, title_justify="left", min_width=len(title))
    table.add_column("status")
    table.add_column("points", justify="right")
    for status, count in sorted(rows.items(), key=lambda row: -row[1]):
        table.add_row(status, f"{count:,}")
    console.print(table)


if __name__ == "__main__":
    app()
