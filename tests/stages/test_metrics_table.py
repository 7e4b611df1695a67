import io

import pytest
from rich.console import Console

from stages.metrics_table import metrics_table, teacher_and_student, verdict


def test_figures_stand_with_name_value_and_meaning() -> None:
    out = io.StringIO()
    Console(width=120, file=out).print(metrics_table({"mae": 3.4567, "matched_iou_truth": None}, title="synthetic"))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[0] == "synthetic"
    assert any("mae" in line and "3.46" in line and "MAE" in line for line in lines)
    assert any("matched_iou_truth" in line and "–" in line and "Matched IoU" in line for line in lines)


def test_the_teacher_stands_beside_the_student() -> None:
    metrics = {"mae": 3.0, "rmse": 4.0, "bias": 1.0, "teacher_mae": 5.5, "teacher_rmse": None}
    out = io.StringIO()
    Console(width=120, file=out).print(teacher_and_student(metrics, title="synthetic"))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.getvalue().splitlines() if "│" in line]
    assert rows == [["MAE", "5.50", "3.00"], ["RMSE", "–", "4.00"]]


@pytest.mark.parametrize(
    ("student", "teacher", "text"),
    [
        ((3.0, 0.25), (4.0, 0.2),
         "The student beats its teacher: better in MAE (3.00, teacher 4.00); "
         "better in Matched IoU (0.250, teacher 0.200)."),
        ((3.0, 0.2), (4.0, 0.2),
         "The student does not beat its teacher: better in MAE (3.00, teacher 4.00); "
         "no better in Matched IoU (0.200, teacher 0.200)."),
        ((5.0, None), (4.0, 0.2), "The student does not beat its teacher: no better in MAE (5.00, teacher 4.00)."),
        ((3.0, 0.2), (None, None), ""),
    ],
)  # fmt: skip
def test_the_verdict_says_so_where_the_student_is_not_better(student, teacher, text) -> None:
    metrics = {"mae": student[0], "matched_iou_truth": student[1]}
    assert verdict(metrics | {"teacher_mae": teacher[0], "teacher_matched_iou_truth": teacher[1]}) == text
