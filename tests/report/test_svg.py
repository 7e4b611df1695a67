from xml.etree import ElementTree

from pipeline.report.svg import ACCENT, GRID, SECOND, TEXT, THIRD, legend_above, svg_plot


def draw() -> str:
    with svg_plot(4, 3) as (figure, out):
        axes = figure.subplots()
        for color in (TEXT, GRID, ACCENT, SECOND, THIRD):
            axes.plot([0, 1], [0, 1], color=color, label="line")
        legend_above(axes)
    return out[0]


def test_colors_are_those_of_the_page_and_the_size_is_the_page_s_too() -> None:
    svg = draw()
    root = ElementTree.fromstring(svg)
    assert "viewBox" in root.attrib
    assert not {"width", "height"} & set(root.attrib)
    assert "#01020" not in svg
    for name in ("ink-2", "line", "accent", "second", "third"):
        assert f"stroke: var(--{name})" in svg


def test_the_same_plot_gives_the_same_text() -> None:
    assert draw() == draw()


def test_the_legend_stands_above_the_plot() -> None:
    with svg_plot(4, 3) as (figure, _):
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], label="line")
        legend_above(axes)
        figure.draw_without_rendering()
        legend = axes.get_legend()
        assert legend is not None
        assert legend.get_window_extent().y0 >= axes.get_window_extent().y1
