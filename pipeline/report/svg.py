"""The look of the reports' plots: SVG that takes its text colour and its accents from the page around it."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TEXT, GRID, ACCENT, SECOND, THIRD = "#010203", "#010204", "#010205", "#010206", "#010207"
"""Stand-ins that no plot uses otherwise; the page's own colours take their place."""
_PAGE_COLORS = {
    TEXT: "var(--ink-2)",
    GRID: "var(--line)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
    THIRD: "var(--third)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": TEXT,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "text.color": TEXT,
    "legend.frameon": False,
}


@contextmanager
def svg_plot(width_in: float, height_in: float) -> Iterator[tuple[Figure, list[str]]]:
    """Lend a figure in the report's style; the list holds its SVG when the block has ended."""
    out: list[str] = []
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        figure.patch.set_alpha(0)
        yield figure, out
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        out.append(_to_svg(figure))


def _to_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for stand_in, color in _PAGE_COLORS.items():
        svg = svg.replace(stand_in, color)
    svg = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", svg, count=1)


def legend_above(axes: Axes) -> None:
    """Put the legend over the plot, where it covers no point."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=9, borderaxespad=0.2, handlelength=1.4,
        columnspacing=1.4, borderpad=0.2,
    )  # fmt: skip
