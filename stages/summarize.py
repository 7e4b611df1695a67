"""The figures of all seeds as a Markdown table: mean ± standard deviation for each data set and labelled share."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.compute.files import atomic_write_text
from pipeline.errors import PipelineError
from pipeline.evaluation.seed_summary import markdown_table, read_run, summarize_seeds
from stages.command import console, error_console, fails_clearly, stage_app
from stages.paths import RunPaths

app = stage_app("Print the figures of all seeds as a Markdown table: mean ± standard deviation.")

DatasetsOption = Annotated[list[str] | None, typer.Option("--dataset", help="Only this data set; may be repeated.")]
SharesOption = Annotated[
    list[int] | None, typer.Option("--labeled-pct", help="Only this labelled share, percent; may be repeated.")
]
SeedsOption = Annotated[list[int] | None, typer.Option("--seed", help="Only this seed; may be repeated.")]
FiguresOption = Annotated[
    list[str] | None,
    typer.Option("--figure", help="Column: a name from metrics.json; may be repeated, and replaces the usual ones."),
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Also write the table to this file.")]


@app.command()
@fails_clearly
def main(
    dataset: DatasetsOption = None,
    labeled_pct: SharesOption = None,
    seed: SeedsOption = None,
    figure: FiguresOption = None,
    out: OutOption = None,
) -> None:
    """Read every data/DATASET/labeled_PCT/seed_SEED/evaluate/metrics.json that is there.

    Runs of one data set and share that were made with different parameters are not averaged: an error says what
    differs.
    """
    found = RunPaths.evaluated()
    chosen = [
        run
        for run in found
        if (not dataset or run.dataset in dataset)
        and (not labeled_pct or run.labeled_pct in labeled_pct)
        and (not seed or run.seed in seed)
    ]
    if not chosen:
        there = f"; there are: {', '.join(str(run.run) for run in found)}" if found else ""
        raise PipelineError(
            f"no figures of the runs asked for at data/DATASET/labeled_PCT/seed_SEED/evaluate/metrics.json{there}; "
            "make them with dvc repro"
        )
    runs = [
        read_run(run.metrics, run.records, dataset=run.dataset, labeled_pct=run.labeled_pct, seed=run.seed)
        for run in chosen
    ]
    summaries = summarize_seeds(runs)
    table = markdown_table(summaries, figure or ())
    for one in summaries:
        if not one.compared:
            name = f"{one.dataset}, {one.labeled_pct} %"
            error_console.print(
                f"note: {name}: whether its runs had equal parameters is not known; model.json of a run is missing",
                soft_wrap=True,
            )
    console.print(table, markup=False, highlight=False, soft_wrap=True, end="")
    if out is not None:
        atomic_write_text(out, table)
        error_console.print(f"written to {out}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
