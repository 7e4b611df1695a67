import io

import pytest
from rich.console import Console
from rich.table import Table

from pipeline.masks.summary import ColumnSummary, KindSummary, StoreSummary
from stages.summary_tables import columns_table, kinds_table

FOUND = StoreSummary(
    n_images=2,
    n_empty_images=1,
    n_instances=4,
    most=4,
    kinds=(
        KindSummary("head", "ok", 3, 0.5, 8.25, 120.0, 0.125),
        KindSummary("fallback", "fallback", 1, None, None, 40.0, None),
    ),
    columns=(ColumnSummary("score", 3, 0.1, 0.2, 0.5, 0.8, 0.9),),
)


def rows(table: Table) -> list[list[str]]:
    out = io.StringIO()
    Console(width=160, file=out).print(table)
    return [
        [cell.strip() for cell in line.strip("│┃").split("│")] for line in out.getvalue().splitlines() if "│" in line
    ]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            kinds_table(FOUND),
            [
                ["head", "ok", "3", "75.0%", "0.500", "8.25", "120", "0.125"],
                ["fallback", "fallback", "1", "25.0%", "–", "–", "40.00", "–"],
            ],
        ),
        (columns_table(FOUND), [["score", "3", "0.100", "0.200", "0.500", "0.800", "0.900"]]),
    ],
)
def test_tables_show_every_figure(table: Table, expected: list[list[str]]) -> None:
    assert rows(table) == expected
