from pathlib import Path

import pyarrow as pa
import pytest
from markupsafe import Markup

from pipeline.report.render import render_template, show, write_csv


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (12345, "12,345"),
        (123.4, "123"),
        (12.345, "12.35"),
        (0.12345, "0.123"),
        (0, "0"),
    ],
)
def test_show(value: float | None, text: str) -> None:
    assert show(value) == text


def test_csv_is_quoted_where_needed_only_and_an_empty_table_keeps_its_head(tmp_path: Path) -> None:
    table = pa.table({"stratum": ["person, far", 'a "b"'], "rows": [1, 2]})
    write_csv(table, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == '"stratum","rows"\n"person, far",1\n"a ""b""",2\n'
    write_csv(table.slice(0, 0), tmp_path / "none.csv")
    assert (tmp_path / "none.csv").read_text() == '"stratum","rows"\n'


def test_a_template_has_the_style_and_escapes_all_but_markup() -> None:
    content = dict.fromkeys(
        ("lead", "hint", "plane_note", "plane", "class_reliability", "mask_reliability", "bars", "bars_note"),
        Markup("<i>kept</i>"),
    )
    page = render_template(
        "quality.html", title="a < b", facts={}, tiles=[], rows=[], wide=False, has_rows=True, has_held_out=True,
        **content,
    )  # fmt: skip
    assert "a &lt; b" in page
    assert "<i>kept</i>" in page
    assert "--accent" in page
