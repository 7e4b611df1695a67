"""``python -m benchmarks``: print a table and write ``benchmarks/results/<name>.json``."""

import dataclasses
import importlib
import json
import os
import platform
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

BENCHMARKS = ("nnec",)
RESULTS = Path(__file__).parent / "results"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Names; all by default: {', '.join(BENCHMARKS)}.")] = None,
    scale: Annotated[float, typer.Option(min=0.001, max=1.0, help="Share of the work, for a quick look.")] = 1.0,
) -> None:
    """Measure speed against plain references, side by side in one process."""
    table = Table("what", "work", "seconds", "reference", "seconds", "ratio", "reach", title="Benchmarks")
    for name in only or BENCHMARKS:
        rows = importlib.import_module(f"benchmarks.{name}").measure(scale=scale)
        for row in rows:
            table.add_row(
                row.what, row.work, f"{row.seconds:.3f}", row.reference, f"{row.reference_seconds:.3f}",
                f"{row.ratio:.2f} ×", row.reach,
            )  # fmt: skip
        measured = [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows]
        machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps({"scale": scale, "machine": machine, "rows": measured}, indent=1, ensure_ascii=False)
        (RESULTS / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    Console().print(table)
    Console().print(f"Written to {RESULTS.relative_to(Path.cwd())}/", highlight=False)


if __name__ == "__main__":
    app()
