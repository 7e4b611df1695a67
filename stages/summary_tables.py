"""What a mask store holds as tables for the terminal."""

from rich.table import Table

from pipeline.masks.summary import StoreSummary
from pipeline.report.render import show


def kinds_table(found: StoreSummary) -> Table:
    """Lay out the rows of a store by source and status."""
    table = Table(title="by source and status", title_justify="left")
    for name in ("source", "status"):
        table.add_column(name)
    for name in ("instances", "share", "mean score", "median radius px", "median area px", "mean leak"):
        table.add_column(name, justify="right")
    for kind in found.kinds:
        table.add_row(
            kind.source, kind.status, f"{kind.n:,}", f"{kind.n / found.n_instances:.1%}", show(kind.mean_score),
            show(kind.median_radius_px), show(kind.median_area_px), show(kind.mean_leak_frac),
        )  # fmt: skip
    return table


def columns_table(found: StoreSummary) -> Table:
    """Lay out the spread of a store's columns."""
    table = Table(title="columns", title_justify="left")
    table.add_column("column")
    for name in ("with a value", "least", "10 %", "median", "90 %", "greatest"):
        table.add_column(name, justify="right")
    for column in found.columns:
        values = (column.minimum, column.low, column.median, column.high, column.maximum)
        table.add_row(column.column, f"{column.n:,}", *(show(float(value)) for value in values))
    return table
