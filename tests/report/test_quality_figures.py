import re
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex

from pipeline.report.quality_figures import MAX_BARS, is_wide, plane_svg, reliability_svg, typical, yield_svg
from pipeline.report.quality_view import QualityView, class_reliability, mask_reliability
from tests.report.judged_rows import judged

NO_THRESHOLDS: dict[str, Any] = dict.fromkeys(("class_thr", "mask_thr", "class_floor", "mask_floor"))
TINT = "fill: var(--second); opacity: 0.13"


def reliability_of(view: QualityView) -> str:
    return reliability_svg(class_reliability(view), score="class score c", observed="share", thresholds=view.class_thr)


@pytest.mark.parametrize("draw", [plane_svg, reliability_of, yield_svg])
@pytest.mark.parametrize("n", [0, 1, 60])
def test_plots_are_svg_in_the_colors_of_the_page(draw, n: int) -> None:
    svg = draw(judged(n))
    assert "viewBox" in ElementTree.fromstring(svg).attrib
    assert "var(--accent)" in svg
    assert "#01020" not in svg
    assert svg == draw(judged(n))


def texts(svg: str) -> list[str]:
    return [
        "".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")
    ]


def test_few_strata_have_a_panel_each_with_their_own_limits() -> None:
    view = judged(90, class_thr=np.array([0.4, 0.55, 1.5]))
    found = texts(plane_svg(view))
    kept = [int(((view.tier == 2) & (view.stratum == k)).sum()) for k in range(3)]
    for k, name in enumerate(view.names):
        assert f"{name}: {kept[k]} of {int((view.stratum == k).sum())} kept" in found
    assert "c ≥ 0.40, m ≥ 0.70" in found
    assert "c ≥ 0.55, m ≥ 0.70" in found
    assert found.count("no row is kept") == 1


def test_many_strata_share_a_panel_with_the_median_of_the_limits() -> None:
    names = tuple(f"kind {k}" for k in range(7))
    view = judged(90, names, class_thr=np.array([0.1, 0.2, 0.3, 0.4, 0.5, 1.5, 1.5]))
    assert not is_wide(view)
    assert is_wide(judged(9, names[:6]))
    assert not is_wide(judged(9, names[:1]))
    assert "medians: c ≥ 0.30, m ≥ 0.70" in texts(plane_svg(view))


def test_every_row_is_drawn_in_its_color_and_wrong_classes_by_crosses() -> None:
    view = judged(40, ("head",))
    svg = plane_svg(view)
    marked = view.class_counts & ~view.class_right
    wrong = int(marked.sum())
    assert 0 < wrong < 40
    groups = re.findall(r'<g id="PathCollection_\d+">.*?\n   </g>', svg, flags=re.DOTALL)
    assert [group.count("<use ") for group in groups] == [40 - wrong, wrong]
    colors = [{to_hex(mpl.colormaps["viridis"](iou)) for iou in view.iou[some]} for some in (~marked, marked)]
    assert [set(re.findall(r"<use [^>]*fill: (#\w+)", group)) for group in groups] == colors
    disc, cross = (re.search(r'<path id="[^"]*" d="([^"]*)"', group) for group in groups)
    assert disc
    assert cross
    assert "C " in disc[1]
    assert "C " not in cross[1]


def corner(path: str) -> tuple[float, float, float, float]:
    """Left, right, low, top of a path, in units of the SVG."""
    numbers = np.array(re.findall(r"-?[\d.]+", path), dtype=float).reshape(-1, 2)
    return numbers[:, 0].min(), numbers[:, 0].max(), numbers[:, 1].max(), numbers[:, 1].min()


def test_the_frame_begins_at_the_thresholds_and_the_band_at_its_floors() -> None:
    svg = plane_svg(
        judged(
            2, ("head",), class_score=np.array([0.0, 1.0]), mask_quality=np.array([0.0, 1.0]),
            class_right=np.ones(2, dtype=bool), class_thr=np.array([0.3]), mask_thr=np.array([0.6]),
            class_floor=np.array([0.2]), mask_floor=np.array([0.4]),
        )
    )  # fmt: skip
    (x0, y0), (x1, y1) = (
        (float(x), float(y)) for x, y in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill: #', svg)
    )
    frame, *_ = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--accent\); stroke-width: 2', svg)
    low_band, left_band = re.findall(r'<path d="([^"]*)"[^>]*style="fill: var\(--second\); opacity: 0.13', svg)
    places = [
        [(left - x0) / (x1 - x0), (right - x0) / (x1 - x0), (low - y0) / (y1 - y0), (top - y0) / (y1 - y0)]
        for left, right, low, top in map(corner, (frame, low_band, left_band))
    ]
    edge = 1.004
    wanted = [[0.3, edge, 0.6, edge], [0.2, edge, 0.4, 0.6], [0.2, 0.3, 0.6, edge]]
    assert np.allclose(places, wanted, atol=2e-3)


def test_the_ambiguous_band_is_tinted_where_its_floors_are_known() -> None:
    assert plane_svg(judged(20, ("head",))).count(TINT) == 2
    assert TINT not in plane_svg(judged(20, ("head",), class_floor=None, mask_floor=None))


def test_a_threshold_on_the_product_is_a_curve() -> None:
    svg = plane_svg(judged(20, ("head",), **NO_THRESHOLDS | {"score_thr": 0.25}))
    assert "c · m ≥ 0.25" in texts(svg)
    assert TINT not in svg
    both = plane_svg(judged(20, ("head",), **NO_THRESHOLDS | {"score_thr": 0.25, "score_floor": 0.1}))
    assert TINT.split(";")[0] in both
    assert both != svg


def test_without_thresholds_nothing_is_framed() -> None:
    svg = plane_svg(judged(20, ("head",), **NO_THRESHOLDS))
    assert "no thresholds" in texts(svg)
    assert "var(--accent)" not in svg


def test_typical_thresholds() -> None:
    thresholds = np.array([0.2, 0.4, 0.9, 1.2])
    assert typical(None, None) == 0
    assert typical(thresholds, 3) == 1.2
    assert typical(thresholds, None) == 0.4
    assert typical(np.array([1.2, 1.2]), None) == 1.2
    assert typical(np.zeros(0), None) == 0


def test_reliability_shows_the_rows_of_each_bin_and_the_threshold() -> None:
    table = mask_reliability(judged(300))
    found = texts(reliability_svg(table, score="m", observed="mean IoU", thresholds=np.array([0.7, 0.7])))
    assert all(str(n) in found for n in table["rows"].to_pylist())
    assert "threshold" in found
    assert "median threshold" in texts(
        reliability_svg(table, score="m", observed="mean IoU", thresholds=np.array([0.6, 0.7]))
    )
    assert not any(
        "threshold" in text for text in texts(reliability_svg(table, score="m", observed="", thresholds=None))
    )


def test_yield_names_every_stratum_with_its_numbers() -> None:
    view = judged(0, ("a", "b & c", "d"), yields=np.array([[1, 2, 1000], [4, 0, 6], [0, 0, 0]]))
    found = texts(yield_svg(view))
    assert [text for text in found if text in view.names] == ["d", "b & c", "a"]  # from the bottom
    assert {"1,000 of 1,003", "6 of 10", "no rows"} <= set(found)


def test_bars_are_as_long_as_the_shares() -> None:
    svg = yield_svg(judged(0, ("a",), yields=np.array([[10, 30, 60]])))
    bars = [
        re.findall(rf'<path d="([^"]*)"[^>]*clip-path[^>]*style="fill: var\(--{color}\)', svg)
        for color in ("accent", "second", "line")
    ]
    ends = [corner(bar[0])[:2] for bar in bars]
    start, width = ends[0][0], ends[2][1] - ends[0][0]
    shares = [[(left - start) / width, (right - start) / width] for left, right in ends]
    assert np.allclose(shares, [[0, 0.6], [0.6, 0.9], [0.9, 1]], atol=1e-3)


def test_of_very_many_strata_the_fullest_are_drawn() -> None:
    names = tuple(f"kind {k}" for k in range(MAX_BARS + 2))
    yields = np.full((len(names), 3), 5)
    yields[[3, 7]] = 1
    found = texts(yield_svg(judged(0, names, yields=yields)))
    assert {name for name in names if name not in found} == {"kind 3", "kind 7"}
