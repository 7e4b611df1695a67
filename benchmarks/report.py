"""What all benchmarks print and write."""

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Row

RESULTS = Path(__file__).parent / "results"
PLAIN_WIDTH = 170
"""Columns where the output is no terminal, so that a log shows whole words."""
MET = {True: "yes", False: "[red]no[/]", None: ""}


def open_console() -> Console:
    """Open the console to print to."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def print_rows(rows: Sequence[Row], title: str) -> None:
    """Print rows as one table of ratios."""
    table = Table("what", "work", "ours", "reference", "its", "ratio", "reach", "met", title=title)
    for row in rows:
        table.add_row(
            row.what, row.work, amount(row.ours, row.unit), row.reference, amount(row.theirs, row.unit),
            f"{row.ratio:.3g} ×", row.reach, MET[row.met],
        )  # fmt: skip
    open_console().print(table)


def amount(value: float, unit: str) -> str:
    """Three digits and the unit; milliseconds below a tenth of a second."""
    if unit == "s" and value < 0.1:
        return f"{1000 * value:.3g} ms"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def write_rows(name: str, scale: float, rows: Sequence[Row]) -> None:
    """Write one benchmark's rows."""
    write_results(name, {"scale": scale, "rows": [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows]})


def write_results(name: str, figures: dict[str, Any]) -> None:
    """Write figures to ``benchmarks/results/<name>.json``, with the machine they were measured on."""
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine, **figures}, indent=1, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
