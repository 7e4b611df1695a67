"""How the reports put things down: pages from templates, figures as text, tables for ``dvc plots``."""

import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from pipeline.compute.files import atomic_write_bytes


def render_template(name: str, **content: Any) -> str:
    """Fill a template with content, and with the pages' style; text is escaped unless it is ``Markup``.

    Args:
        name: A file of ``templates/``.
        **content: All that the template shows.
    """
    environment = Environment(
        loader=FunctionLoader(_template_text), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(name).render(style=Markup(_template_text("report.css")), **content)


def show(value: float | int | None) -> str:
    """Write a figure as a reader wants it: three figures, no exponent; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def write_csv(table: pa.Table, path: Path) -> None:
    """Write a table as CSV, atomically; the bytes depend on its names and values alone."""
    sink = pa.BufferOutputStream()
    pa_csv.write_csv(table, sink, write_options=pa_csv.WriteOptions(quoting_style="needed"))
    atomic_write_bytes(path, sink.getvalue().to_pybytes())


def _template_text(name: str) -> str:
    return (files("pipeline.report") / "templates" / name).read_text(encoding="utf-8")
