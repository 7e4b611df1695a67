"""``python -m benchmarks.experiments crowd`` makes the tables of docs/experiments.md, ``compare`` those of compare.md.

It goes on where it was stopped and repeats nothing that is done. Every run is what a user would do: the stages, one
after the other, on a ``params.yaml`` that differs in a few values.
"""

from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.experiments.compare import COMPARE
from benchmarks.experiments.crowd import CROWD
from benchmarks.experiments.pldc import PLDC
from benchmarks.experiments.shapes import SHAPES
from benchmarks.experiments.study import Run, Study, all_runs
from benchmarks.experiments.tables import write_tables
from benchmarks.experiments.workshop import Workshop
from benchmarks.report import open_console
from pipeline.compute.files import atomic_write_bytes
from pipeline.errors import PipelineError
from stages.command import fails_clearly

STUDIES: dict[str, Study] = {study.name: study for study in (CROWD, SHAPES, PLDC, COMPARE)}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@fails_clearly
def main(
    study: Annotated[str, typer.Argument(help=f"One of: {', '.join(STUDIES)}.")],
    out: Annotated[Path, typer.Option(help="Folder for everything; a run goes on from what lies there.")] = Path(
        "build/experiments"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Runs at once, each in one thread.")] = 2,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds; the study's own by default.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Key of a row, may be repeated; all by default.")] = None,
) -> None:
    """Do all runs that are missing, then print and write the tables."""
    if study not in STUDIES:
        raise PipelineError(f"study: expected one of {', '.join(STUDIES)}, got {study!r}")
    chosen = STUDIES[study]
    rows = [variant for variant in chosen.rows if not only or variant.key in only]
    if not rows:
        raise PipelineError(f"--only: expected some of {', '.join(variant.key for variant in chosen.rows)}")
    workshop = Workshop((out / study).resolve(), chosen)
    runs = all_runs(rows, range(seeds or chosen.seeds))
    console = open_console()

    failed: list[str] = []

    def do(run: Run) -> None:
        try:
            workshop.do(run)
        except PipelineError as problem:  # costs this run; the others go on
            failed.append(str(run))
            console.print(f"error: {problem}", markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(f"{run}: done", highlight=False)

    with workshop.alone(), ThreadPoolExecutor(workers) as pool:
        try:
            for finished in as_completed([pool.submit(do, run) for run in runs]):
                finished.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    found = {  # of rows that were not asked for, too, lest a short run replace the long one's tables
        (run.variant.key, run.labeled_pct, run.seed): figures
        for run in all_runs(chosen.rows, range(max(seeds or 0, chosen.seeds)))
        if (figures := workshop.figures(run)) is not None
    }
    text = write_tables(chosen, chosen.rows, found)
    atomic_write_bytes(workshop.root / "tables.md", text.encode())
    if chosen.draw is not None:
        for name, content in chosen.draw(chosen.rows, found).items():
            atomic_write_bytes(workshop.root / name, content)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise PipelineError(f"{len(failed)} of {len(runs)} runs failed, see above: {', '.join(sorted(failed))}")


if __name__ == "__main__":
    app()
