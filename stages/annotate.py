"""Stage ``annotate``: points and circles to masks."""

from collections import Counter
from typing import Annotated

import typer
from rich.table import Table

from pipeline.annotators.plan import AnnotatorPlan
from pipeline.annotators.run import annotate_dataset
from pipeline.compute.cache import DEFAULT_LIMIT_BYTES, ResultCache, default_root
from pipeline.compute.progress import JsonLines
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.radii import read_radii
from stages.command import (
    DEFAULT_DATASET,
    DEFAULT_PARAMS,
    CacheOption,
    DatasetOption,
    DeviceOption,
    ParamsOption,
    console,
    fails_clearly,
    stage_app,
)
from stages.executor_options import (
    AddressOption,
    ExecutorOption,
    PrecisionOption,
    WorkersOption,
    choose_executor,
    uses_bf16,
)
from stages.fitted_plan import fitted_plan
from stages.params import load_data_params
from stages.paths import DatasetPaths

app = stage_app("Make one mask for every point, inside its exclusion circle.")


@app.command()
@fails_clearly
def main(
    dataset: DatasetOption = DEFAULT_DATASET,
    device: DeviceOption = "auto",
    executor: ExecutorOption = "local",
    workers: WorkersOption = 0,
    address: AddressOption = None,
    precision: PrecisionOption = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the encoder; pays in long runs.")] = False,
    keep_logits: Annotated[bool, typer.Option(help="Cache the network's part, so that thresholds cost none.")] = True,
    cache: CacheOption = None,
    params: ParamsOption = DEFAULT_PARAMS,
) -> None:
    """Read data/DATASET/prepared and nnec, write the mask store data/DATASET/annotate; p2seg trains first."""
    settings = load_data_params(params).annotate
    paths = DatasetPaths(dataset)
    prepared = Prepared.open(paths.prepared)
    radii = read_radii(paths.nnec / "radii.parquet")
    target, where = choose_executor(executor, device=device, workers=workers, address=address)
    plan = AnnotatorPlan(
        settings.method, settings.options, weights=settings.weights, device=str(target),
        bf16=uses_bf16(precision, target), compiled=compiled, truth=prepared.truth.path if prepared.truth else None,
    )  # fmt: skip
    results = ResultCache.open(cache or default_root(), limit_bytes=DEFAULT_LIMIT_BYTES)
    plan = fitted_plan(plan, prepared, radii, paths, target, results)
    with JsonLines(paths.logs / "annotate.jsonl") as log:
        rows = annotate_dataset(
            prepared, radii, plan, paths.annotate,
            executor=where, cache=results, log=log.write, keep_logits=keep_logits,
        )  # fmt: skip
    results.gc()
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
