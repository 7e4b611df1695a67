"""Tables of experiments."""

import pytest

from benchmarks.experiments.study import Variant
from benchmarks.experiments.tables import spread, write_tables
from tests.benchmarks.experiments.test_workshop import STUDY


def test_a_table_for_each_topic_with_what_is_done():
    rows = [
        Variant("a", "labels alone", "Parts", labeled_pcts=(5, 10)),
        Variant("b", "+ masks", "Parts"),
        Variant("c", "`disc`", "Masks"),
        Variant("d", "not done", "Masks"),
    ]
    found = {("a", 5, 0): 12.0, ("a", 10, 0): 4.0, ("a", 10, 1): 6.0, ("b", 10, 0): 0.25, ("c", 10, 0): 0.5}
    text = write_tables(STUDY, rows, {key: {"mae": value} for key, value in found.items()})
    assert text == (
        "**Parts**\n\n|  | labelled | seeds | MAE |\n|---|---|---|---|\n"
        "| labels alone | 5 % | 1 | 12.00 |\n| labels alone | 10 % | 2 | 5.00 ± 1.41 |\n"
        "| + masks | 10 % | 1 | 0.250 |\n"
        "\n**Masks**\n\n|  | labelled | seeds | MAE |\n|---|---|---|---|\n| `disc` | 10 % | 1 | 0.500 |\n"
    )


def test_a_figure_that_a_row_lacks_is_a_dash():
    assert "| a | 10 % | 1 | – |" in write_tables(STUDY, [Variant("a", "a", "T")], {("a", 10, 0): {"rmse": 1.0}})


@pytest.mark.parametrize(
    ("values", "text"), [([0.5], "0.500"), ([1.0, 3.0], "2.00 ± 1.41"), ([0.1, 0.3, 0.2], "0.200 ± 0.100")]
)
def test_spread(values, text):
    assert spread(values) == text
