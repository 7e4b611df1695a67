from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline.report.figures import curves_svg, density_svg, iou_svg, read_curves, scatter_svg
from pipeline.training.curves import write_curves
from tests.report.scenes import evaluation_of, write_scene_dataset


@pytest.mark.parametrize("draw", [scatter_svg, density_svg, iou_svg])
def test_plots_are_svg_in_the_colors_of_the_page(draw, tmp_path: Path) -> None:
    _, store = write_scene_dataset(tmp_path)
    svg = draw(evaluation_of(store))
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "viewBox" in root.attrib
    assert "width" not in root.attrib
    assert "var(--accent)" in svg
    assert "#01020" not in svg
    assert svg == draw(evaluation_of(store))


def test_curves_are_read_as_dvclive_wrote_them(tmp_path: Path) -> None:
    write_curves(tmp_path, [(5, {"count/loss": 2.0}), (10, {"count/loss": 1.0, "held_out/mae": 3.5})])
    assert read_curves(tmp_path) == {"count/loss": ([5, 10], [2.0, 1.0]), "held_out/mae": ([10], [3.5])}


def test_curves_with_a_time_column(tmp_path: Path) -> None:
    table = tmp_path / "plots" / "metrics" / "loss.tsv"
    table.parent.mkdir(parents=True)
    table.write_text("step\tloss\ttimestamp\n1\t0.5\t1700000000\n\n2\tnan\t1700000001\n")
    steps, values = read_curves(tmp_path)["loss"]
    assert steps == [1, 2]
    assert values[0] == 0.5


def test_no_curves_no_plot(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}
    assert curves_svg({"Teacher": {}}) is None


def test_curves_are_drawn_for_each_stage() -> None:
    curves = {"count/loss": ([1, 2], [1.0, 0.5]), "held_out/mae": ([2], [3.0]), "held_out/matched_iou": ([2], [0.4])}
    svg = curves_svg({"Teacher": curves, "Student": {"count/loss": ([1], [1.0])}})
    assert svg is not None
    for text in (
        "Teacher: training loss",
        "Teacher: held-out matched IoU",
        "Student: held-out count error",
        "none recorded",
    ):
        assert text in svg
