"""The plot of the comparison: quality against hours of labelling, as one SVG for light and dark pages."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.experiments.label_cost import Labels
from benchmarks.experiments.label_places import Box, leader, place_labels
from pipeline.report.svg import ACCENT, SECOND, TEXT, THIRD, svg_plot

SIZE_IN = 10.8, 5.0
PANELS = {"ap": "AP", "matched_iou_truth": "matched IoU"}
COST = "annotation_hours"
GAP_PT = 8.0
KINDS = {
    Labels("dots"): ("points without classes", ACCENT, "o", False),
    Labels("points"): ("points", ACCENT, "o", True),
    Labels("masks"): ("masks", SECOND, "s", True),
    Labels("masks", "points"): ("masks and points", THIRD, "D", True),
}
"""What people mark → its name, colour, marker, and whether that is filled."""


@dataclass(frozen=True)
class Mean:
    """A point of the plot: a row of the table, averaged over seeds.

    Args:
        title: The row's name.
        labels: What people mark for it.
        labeled_pct: Labelled share, percent.
        figures: Its figures; one without a quality is left out of that panel.
    """

    title: str
    labels: Labels
    labeled_pct: int
    figures: Mapping[str, float]

    @property
    def name(self) -> str:
        """Its label: the share is named where it says something."""
        whole = self.labeled_pct == 100 or self.labels.share == self.labels.rest
        return self.title if whole else f"{self.title}, {self.labeled_pct} %"

    @property
    def kind(self) -> tuple[str, str, str, bool]:
        """How it is drawn."""
        same = self.labels.share == self.labels.rest
        return KINDS[Labels(self.labels.share) if same else self.labels]


def compare_svg(means: Sequence[Mean]) -> str:
    """Plot quality against cost; the image brings its own background, and follows the reader's light or dark setting.

    Args:
        means: What is done, each with the cost; labels of one panel cover neither each other nor a point.
    """
    with svg_plot(*SIZE_IN) as (figure, out):
        draw_quality(figure, means)
    css = (files("pipeline.report") / "templates" / "report.css").read_text(encoding="utf-8")
    names = "card", "ink-2", "line", "accent", "second", "third"
    colors = {name: re.findall(rf"--{name}: (#\w+)", css) for name in names}  # the light one, then the dark one
    light, dark = ("".join(f"--{name}:{both[k]};" for name, both in colors.items()) for k in (0, 1))
    style = f"<style>svg{{{light}}}@media (prefers-color-scheme: dark){{svg{{{dark}}}}}</style>"
    page = '<rect width="100%" height="100%" style="fill: var(--card)"/>'
    return re.sub(r"(<svg [^>]*>)", lambda found: f"{found[1]}{style}{page}", out[0], count=1)


def draw_quality(figure: Figure, means: Sequence[Mean]) -> None:
    """Draw one panel per figure of :data:`PANELS` into an empty figure."""
    panels = figure.subplots(1, len(PANELS), sharex=True)
    for axes, (quality, title) in zip(panels, PANELS.items(), strict=True):
        shown = [mean for mean in means if quality in mean.figures]
        for kind in dict.fromkeys(mean.kind for mean in means):
            name, color, marker, filled = kind
            own = [mean for mean in shown if mean.kind == kind]
            axes.scatter(
                [mean.figures[COST] for mean in own], [mean.figures[quality] for mean in own], s=42, marker=marker,
                facecolors=color if filled else "none", edgecolors=color, linewidths=1.6, zorder=3, label=name,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("hours of labelling, by the literature's seconds per label")
        axes.set_title(title)
        axes.margins(x=0.18, y=0.14)
        if not shown:
            axes.text(0.5, 0.5, "none recorded", ha="center", va="center", transform=axes.transAxes)
    panels[0].set_ylabel("on the test images, 0 to 1")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(names), fontsize=9, handletextpad=0.3)
    figure.draw_without_rendering()  # places are known after this, and stay
    figure.set_layout_engine("none")
    for axes, quality in zip(panels, PANELS, strict=True):
        _label(figure, axes, quality, [mean for mean in means if quality in mean.figures])


def _label(figure: Figure, axes: Axes, quality: str, shown: Sequence[Mean]) -> None:
    """Write each point's name where there is room, with a line to it where that is farther off."""
    axes.autoscale(False)
    points = 72 / figure.dpi
    texts = [
        axes.annotate(
            mean.name, (mean.figures[COST], mean.figures[quality]), xytext=(0, 0), textcoords="offset points",
            ha="center", va="center", fontsize=8.5, zorder=4,
        )
        for mean in shown
    ]  # fmt: skip
    anchors = [tuple(points * axes.transData.transform(text.xy)) for text in texts]
    sizes = [(points * text.get_window_extent().width, points * text.get_window_extent().height) for text in texts]
    frame = axes.get_window_extent()
    bounds: Box = (points * frame.x0, points * frame.y0, points * frame.x1, points * frame.y1)
    boxes = place_labels([(float(x), float(y)) for x, y in anchors], sizes, bounds, gap=GAP_PT)
    for text, (x, y), box in zip(texts, anchors, boxes, strict=True):
        text.set_position(((box[0] + box[2]) / 2 - x, (box[1] + box[3]) / 2 - y))
        end = leader((x, y), box)
        if abs(end[0] - x) + abs(end[1] - y) > 2 * GAP_PT:
            xs, ys = zip(text.xy, axes.transData.inverted().transform((end[0] / points, end[1] / points)), strict=True)
            axes.plot(xs, ys, color=TEXT, linewidth=0.6, alpha=0.6, zorder=2)
