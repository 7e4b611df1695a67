import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dvc_render.vega import VegaRenderer

from pipeline.report import quality_view
from pipeline.report.quality import QualityView, render_quality, write_quality
from pipeline.report.quality_view import class_reliability, mask_reliability, plane_table, yield_table
from tests.code_reading import ROOT
from tests.report.judged_rows import judged
from tests.report.test_page import Balance

FILES = ["class_reliability.csv", "mask_reliability.csv", "plane.csv", "quality.html", "yield.csv"]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_folder_holds_the_page_and_the_tables(tmp_path: Path) -> None:
    view = judged(80, ("person, far", 'a "b"'))
    write_quality(tmp_path, view)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    for name, table in (
        ("plane", plane_table(view)),
        ("class_reliability", class_reliability(view)),
        ("mask_reliability", mask_reliability(view)),
        ("yield", yield_table(view)),
    ):
        rows = read_csv(tmp_path / f"{name}.csv")
        assert len(rows) == table.num_rows > 0
        for written, row in zip(rows, table.to_pylist(), strict=True):
            assert list(written) == list(row)
            for column, value in row.items():
                text = written[column]
                is_same = float(text) == value if isinstance(value, float) else text == str(value)
                assert is_same or text == str(value).lower()


def test_the_same_view_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_quality(tmp_path / folder, judged(80))
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("n_names", [1, 3, 45])
def test_the_page_is_whole_and_names_every_stratum(n_names: int) -> None:
    names = tuple(f"kind <{k}>" for k in range(n_names))
    page = render_quality(judged(80, names, title="A & B", facts={"method": "a<b"}))
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in parser.sources)
    assert not re.search(r"@import|url\((?!#)|<script", page)
    assert page.count("<svg") == 4
    assert "<h1>A &amp; B</h1>" in page
    assert "<dt>method</dt><dd>a&lt;b</dd>" in page
    for k in range(n_names):
        assert f'nowrap">kind &lt;{k}&gt;</td>' in page
    assert ("Drawn are the 40 strata" in page) == (n_names == 45)


def small(**changes: Any) -> QualityView:
    """Two classes, six held-out rows of which four are right, four kept, and three both."""
    return judged(
        6, ("cat", "dog"), stratum=np.array([0, 0, 0, 1, 1, 1]), tier=np.array([2, 2, 2, 2, 1, 0]),
        iou=np.array([0.9, 0.8, 0.4, 0.7, 0.6, 0.1]), class_right=np.array([1, 1, 0, 1, 1, 0], dtype=bool),
        yields=np.array([[10, 5, 85], [50, 1000, 50]]),
        **{"class_thr": np.array([0.4, 1.5]), **changes},
    )  # fmt: skip


def cells(page: str, name: str) -> list[str]:
    row = re.search(rf'<tr><td style="white-space: nowrap">{name}</td>(.*?)</tr>', page)
    assert row
    return re.findall(r">([^<]*)</td>", row[1])


def test_golden_figures() -> None:
    page = render_quality(small())
    assert "Of 1,200 pseudo-labels on the unlabelled images 135 are kept (11 %), 1,005 are ambiguous, 60 are" in page
    assert "On held-out labelled images 75 % of the 4 kept rows are right, against 67 % of all 6." in page
    values = dict(re.findall(r'tile-title">([^<]*)</p><p class="tile-value">([^<]*)<', page))
    assert values == {
        "Kept": "11 %",
        "Right among the kept": "75 %",
        "Right among all": "67 %",
        "Kept among the right": "75 %",
        "Mean IoU of the kept": "0.700",
    }
    assert cells(page, "cat") == ["0.40", "0.70", "85", "5", "10", "67 % of 3"]
    assert cells(page, "dog") == ["none", "0.70", "50", "1,000", "50", "100 % of 1"]
    assert cells(page, "All") == ["", "", "135", "1,005", "60", "75 % of 4"]


def test_notes_say_what_judges_and_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_view, "PLANE_ROWS", 40)
    off: dict[str, Any] = dict.fromkeys(("class_thr", "mask_thr", "class_floor", "mask_floor"))
    assert "There are no thresholds: every row is kept." in render_quality(small(**off))
    assert "One threshold judges c · m · decay" in render_quality(small(**off, score_thr=0.3))
    assert cells(render_quality(small(**off)), "cat")[:2] == ["–", "–"]
    many = judged(90, tuple("abcdefgh"), class_thr=np.array([0.4] * 6 + [1.1, 1.1]))
    page = render_quality(many)
    assert "40 of 90 rows are drawn." in page
    assert "the median thresholds of 8 strata" in page
    assert "No row is kept in 2 of them." in page


def test_none_kept_is_said() -> None:
    page = render_quality(judged(5, tier=np.zeros(5, dtype=np.int8)))
    assert "Of 5 rows on held-out labelled images none is kept." in page


def test_without_held_out_rows_the_page_says_so_and_shows_the_yield(tmp_path: Path) -> None:
    write_quality(tmp_path, judged(0))
    page = (tmp_path / "quality.html").read_text(encoding="utf-8")
    assert "nothing here tells how good they are" in page
    assert "No held-out rows" in page
    assert page.count("<svg") == 1
    assert cells(page, "disc")[-1] == "–"
    assert [len(read_csv(tmp_path / name)) for name in FILES if name.endswith("csv")] == [0, 0, 0, 9]
    assert (tmp_path / "plane.csv").read_text().startswith('"stratum","class_score","mask_quality","iou"')


def test_rows_that_say_nothing_of_their_class_leave_that_plot_out() -> None:
    page = render_quality(judged(30, class_counts=np.zeros(30, dtype=bool)))
    assert "No held-out row says anything of its class." in page
    assert page.count("<svg") == 3


@pytest.mark.parametrize("names", [(), ("cat",)])
def test_without_any_rows_the_page_says_so(names: tuple[str, ...]) -> None:
    page = render_quality(judged(0, names, yields=np.zeros((len(names), 3), dtype=int)))
    assert "There are no pseudo-labels: the teacher found nothing" in page
    assert "No rows on unlabelled images." in page
    assert "<svg" not in page
    assert all(name in page for name in names)


@pytest.mark.parametrize(
    ("template", "table", "x", "y"),
    [
        ("quality_plane", plane_table, "class_score", "mask_quality"),
        ("quality_reliability", class_reliability, "mean_score", "observed"),
        ("quality_yield", yield_table, "rows", "stratum"),
    ],
)
def test_templates_of_dvc_plots_name_columns_of_the_tables(template: str, table: Any, x: str, y: str) -> None:
    rows: pa.Table = table(judged(60))
    points = [{**row, "rev": "workspace"} for row in rows.to_pylist()]
    folder = ROOT / ".dvc" / "plots"
    filled = VegaRenderer(points, "plot", template=template, template_dir=str(folder), x=x, y=y).get_filled_template()
    named = set(re.findall(r'"field": "(\w+)"', json.dumps(filled | {"data": None})))
    assert {x, y} < named
    assert named <= {*rows.column_names, "rev", "at", "rank"}
    assert "DVC_METRIC" not in json.dumps(filled)
