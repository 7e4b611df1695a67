"""The figures of an evaluation as a table for the terminal."""

from collections.abc import Mapping

from rich.table import Table

from pipeline.report.glossary import meaning
from pipeline.report.page import show


def metrics_table(metrics: Mapping[str, float | int | None], *, title: str) -> Table:
    """Lay out the contents of a ``metrics.json``, with the names that ``dvc metrics show`` uses."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("what it is")
    for name, value in metrics.items():
        table.add_row(name, show(value), meaning(name).title)
    return table
