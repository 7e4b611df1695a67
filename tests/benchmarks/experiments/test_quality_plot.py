"""The plot of the comparison: what it says, in which colours, and that one can read it."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from benchmarks.experiments.compare import COMPARE
from benchmarks.experiments.label_places import overlap
from benchmarks.experiments.quality_plot import SIZE_IN, Mean, compare_svg, draw_quality


def means(seed):
    """All rows of the study at likely costs, their qualities close together."""
    rng = np.random.default_rng(seed)
    cost = {"dots": 0.02, "points": 0.026, "masks": 1.0}
    found = []
    for row in COMPARE.rows:
        for pct in row.labeled_pcts:
            hours = cost[row.labels.share] * pct + (0 if row.labels.rest == "nothing" else 0.026 * (100 - pct))
            figures = {"annotation_hours": hours, "matched_iou_truth": rng.uniform(0.5, 0.7)}
            if row.key != "xmask":
                figures["ap"] = rng.uniform(0.25, 0.4)
            found.append(Mean(row.title, row.labels, pct, figures))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_labels_cover_neither_each_other_nor_a_point(seed):
    shown = means(seed)
    figure = Figure(figsize=SIZE_IN, layout="constrained")
    draw_quality(figure, shown)
    figure.draw_without_rendering()
    for axes, quality in zip(figure.axes, ("ap", "matched_iou_truth"), strict=True):
        wanted = [mean.name for mean in shown if quality in mean.figures]
        texts = [text for text in axes.texts if text.get_text()]
        assert [text.get_text() for text in texts] == wanted
        boxes = [text.get_window_extent().extents for text in texts]
        assert not [pair for pair in itertools.combinations(boxes, 2) if overlap(*pair)]
        frame = axes.get_window_extent().extents
        assert all(
            frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3] for box in boxes
        )
        places = np.concatenate([one.get_offsets() for one in axes.collections if isinstance(one, PathCollection)])
        assert len(places) == len(wanted)
        side = 4.5 * figure.dpi / 72  # half of a marker, its edge included, pixels
        for x, y in axes.transData.transform(places):
            assert not [box for box in boxes if overlap((x - side, y - side, x + side, y + side), tuple(box))]


def test_the_image_follows_light_and_dark_and_names_what_people_mark():
    svg = compare_svg(means(0))
    assert svg.startswith("<svg")
    light, dark = re.findall(r"--card:(#\w+)", svg)
    assert light != dark
    used = set(re.findall(r"var\(--([\w-]+)\)", svg))
    assert {"card", "ink-2", "line", "accent", "second", "third"} == used
    assert all(len(re.findall(rf"--{name}:#", svg)) == 2 for name in used)
    assert "#01020" not in svg  # no stand-in is left
    for name in ("points without classes", "masks and points", "XMask, 20 %", "P2Seg → PointWSSIS"):
        assert f">{name}<" in svg
    assert svg == compare_svg(means(0))


def test_a_panel_without_figures_says_so():
    [mean] = [one for one in means(0) if one.title == "XMask"]
    assert compare_svg([mean]).count("none recorded") == 1
