"""The tables of ``docs/experiments.md``: mean ± standard deviation over seeds."""

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.experiments.study import Found, Study, Variant, figures_of


def write_tables(study: Study, rows: Sequence[Variant], found: Found) -> str:
    """Write one Markdown table per topic, from all runs that are done.

    Args:
        study: Figures and their names.
        rows: The rows, in order.
        found: Figures of every run that is done.
    """
    parts = []
    for title in dict.fromkeys(row.table for row in rows):
        lines = [line for row in rows if row.table == title for line in _lines(study, row, found)]
        if lines:
            names = ["", "labelled", "seeds", *study.figures.values()]
            rule = "|" + "---|" * len(names)
            parts.append("\n".join([f"**{title}**", "", _line(names), rule, *map(_line, lines)]))
    return "\n\n".join(parts) + "\n"


def _lines(study: Study, row: Variant, found: Found) -> Iterable[list[str]]:
    for pct in row.labeled_pcts:
        done = figures_of(found, row.key, pct)
        if done:
            yield [
                row.title,
                row.describe_labels(pct),
                str(len(done)),
                *(spread([one[name] for one in done if one.get(name) is not None]) for name in study.figures),
            ]


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation, to three decimals below 1 and two above; the mean alone of one value."""
    if not values:
        return "–"
    mean = statistics.fmean(values)
    digits = 3 if abs(mean) < 1 else 2
    return f"{mean:.{digits}f}" + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
