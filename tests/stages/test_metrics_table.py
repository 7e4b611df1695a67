import io

from rich.console import Console

from stages.metrics_table import metrics_table


def test_figures_stand_with_name_value_and_meaning() -> None:
    out = io.StringIO()
    Console(width=120, file=out).print(metrics_table({"mae": 3.4567, "matched_iou_truth": None}, title="synthetic"))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[0] == "synthetic"
    assert any("mae" in line and "3.46" in line and "MAE" in line for line in lines)
    assert any("matched_iou_truth" in line and "–" in line and "Matched IoU" in line for line in lines)
