"""The figures of an evaluation as a table for the terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from pipeline.report.glossary import meaning
from pipeline.report.render import show

if TYPE_CHECKING:
    from pipeline.training.judged_view import Yields


def metrics_table(metrics: Mapping[str, float | int | None], *, title: str) -> Table:
    """Lay out the contents of a ``metrics.json``, with the names that ``dvc metrics show`` uses."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("what it is")
    for name, value in metrics.items():
        table.add_row(name, show(value), meaning(name).title)
    return table


def teacher_and_student(metrics: Mapping[str, float | int | None], *, title: str) -> Table:
    """Lay the teacher's figures beside the student's, those that both have."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    table.add_column("teacher", justify="right")
    table.add_column("student", justify="right")
    for name, value in metrics.items():
        if name.startswith("teacher_"):
            own = name.removeprefix("teacher_")
            table.add_row(meaning(own).title, show(value), show(metrics.get(own)))
    return table


def verdict(metrics: Mapping[str, float | int | None]) -> str:
    """Say whether the student is better than its teacher, figure by figure; empty where the teacher has none."""
    parts, n_better = [], 0
    for own, better in (("mae", "lower"), ("matched_iou_truth", "higher"), ("matched_iou_annotator", "higher")):
        student, teacher = metrics.get(own), metrics.get(f"teacher_{own}")
        if student is None or teacher is None:
            continue
        is_better = student < teacher if better == "lower" else student > teacher
        n_better += is_better
        word = "better" if is_better else "no better"
        parts.append(f"{word} in {meaning(own).title} ({show(student)}, teacher {show(teacher)})")
    if not parts:
        return ""
    lead = "The student beats its teacher" if n_better == len(parts) else "The student does not beat its teacher"
    return f"{lead}: {'; '.join(parts)}."


def yield_table(yields: "Yields", *, title: str) -> Table:
    """Lay out what judging made of the rows of each class or density, with its thresholds where it has two."""
    table = Table(title=title, title_justify="left", show_footer=len(yields.names) > 1)
    table.add_column("of", footer="all")
    for name, column in (("kept", 2), ("ambiguous", 1), ("dropped", 0)):
        table.add_column(name, justify="right", footer=f"{int(yields.rows[:, column].sum()):,}")
    thresholds: list[tuple[float, ...]] = []
    if yields.limits is not None:
        thresholds = [yields.limits.class_thr, yields.limits.mask_thr]
        for name in ("class score", "mask quality"):
            table.add_column(name, justify="right")
    for k, (name, (dropped, ambiguous, kept)) in enumerate(zip(yields.names, yields.rows.tolist(), strict=True)):
        limits = [f"≥ {each[k]:.3f}" if each[k] <= 1 else "none" for each in thresholds]
        table.add_row(name, f"{kept:,}", f"{ambiguous:,}", f"{dropped:,}", *limits)
    return table
