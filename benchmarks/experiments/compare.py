"""All systems and the useful mixtures on one data set: quality, time, and what the labels cost."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.experiments.label_cost import Labels, annotation_hours
from benchmarks.experiments.quality_plot import Mean, compare_svg
from benchmarks.experiments.study import REPOSITORY, Found, Run, Step, Study, Variant, figures_of
from pipeline.datasets.prepared import Prepared

RECIPE = "recipes/compare"
TABLE = "Quality against the cost of the labels"
FEW_HELD_OUT: Mapping[str, Any] = {"splits.held_out_frac": 0.05}
"""Where all images are labelled: 50 of 1,000 choose, as 40 of 200 do at 20 %."""
PLOT_FILE = "compare.svg"

POINTS, DOTS, MASKS = Labels("points"), Labels("dots"), Labels("masks")
MASKS_AND_POINTS, POINTS_TWICE = Labels("masks", "points"), Labels("points", "points")

DATA = (
    Step("prepare", ("prepare",), per_run=False, output="prepared"),
    Step("nnec", ("nnec",), per_run=False),
    Step("annotate", ("annotate",), per_run=False, options=("--workers", "1", "--cache", "{cache}"), timed=True),
)
SOLOV2 = (
    *DATA,
    Step("segmenter.warmup", ("splits", "warmup"), output="warmup", timed=True),
    Step("segmenter.evaluate", ("retrain", "evaluate"), output="evaluate"),
)
POINTWSSIS = (
    *DATA,
    Step("segmenter.warmup", ("splits", "warmup"), output="warmup", timed=True),
    Step("segmenter.pseudo_label", ("pseudo_label",), output="pseudo_label", timed=True),
    Step("segmenter.refiner", ("refiner",), output="refiner", timed=True),
    Step("segmenter.refine", ("refiner",), output="refined", timed=True),
    Step("segmenter.retrain", ("splits", "retrain"), output="retrain", timed=True),
    Step("segmenter.evaluate", ("evaluate",), output="evaluate"),
)
PLDC = (
    *DATA,
    Step("segmenter.warmup", ("splits", "warmup"), output="warmup", timed=True),
    Step(
        "segmenter.pseudo_label", ("pseudo_label",), output="pseudo_label",
        also=("held_out", "second_opinion.parquet"), timed=True,
    ),
    Step("segmenter.judge", ("judge",), output="judged", timed=True),
    Step("segmenter.retrain", ("splits", "retrain"), output="retrain", timed=True),
    Step("segmenter.evaluate", ("evaluate",), output="evaluate"),
)  # fmt: skip
XMASK = (
    *DATA,
    Step("warmup", ("splits", "model", "warmup"), timed=True),
    Step("pseudo_label", ("pseudo_label",), also=("held_out",), timed=True),
    Step("judge", ("judge",), output="judged", timed=True),
    Step("retrain", ("retrain",), timed=True),
    Step("evaluate", ("evaluate",)),
)


def params_of(system: str) -> str:
    """Name the parameter file of a system, below the repository."""
    return f"{RECIPE}/params/{system}.yaml"


def row(
    key: str,
    title: str,
    system: str,
    labels: Labels,
    labeled_pcts: tuple[int, ...],
    changes: Mapping[str, Any] | None = None,
) -> Variant:
    """Make a row with the parameter file and the steps of its system."""
    steps = {"solov2": SOLOV2, "pointwssis": POINTWSSIS, "pldc": PLDC, "xmask": XMASK}[system]
    return Variant(key, title, TABLE, changes or {}, labeled_pcts, params=params_of(system), steps=steps, labels=labels)


def by_method(method: str) -> dict[str, Any]:
    """Take an annotator's masks in place of true ones."""
    return {"annotate.method": method}


def of_all(method: str) -> dict[str, Any]:
    """Take an annotator's masks of all images."""
    return {**by_method(method), **FEW_HELD_OUT}


def measure(run: Run, data_set: Path, params: Mapping[str, Any]) -> dict[str, float]:
    """Give the figures of a run that no stage knows: what its labels cost."""
    labels = run.variant.labels
    assert labels is not None
    hours = annotation_hours(
        Prepared.open(data_set / "prepared"), labels, labeled_pct=run.labeled_pct, seed=run.seed,
        held_out_frac=params["splits"]["held_out_frac"],
    )  # fmt: skip
    return {"annotation_hours": hours}


def draw(rows: Sequence[Variant], found: Found) -> dict[str, bytes]:
    """Plot quality against cost: the mean over seeds of every row and share that is done."""
    means = []
    for variant in rows:
        for pct in variant.labeled_pcts:
            done = figures_of(found, variant.key, pct)
            if done and variant.labels is not None:
                known = {name for figures in done for name, value in figures.items() if value is not None}
                means.append(
                    Mean(
                        title=variant.title,
                        labels=variant.labels,
                        labeled_pct=pct,
                        figures={name: _mean(name, done) for name in sorted(known)},
                    )
                )
    return {PLOT_FILE: compare_svg(means).encode()} if means else {}


def _mean(name: str, done: Sequence[Mapping[str, float]]) -> float:
    return statistics.fmean(figures[name] for figures in done if figures.get(name) is not None)


COMPARE = Study(
    name="compare",
    params=params_of("solov2"),
    reader="synthetic_shapes",
    scenes=yaml.safe_load((REPOSITORY / RECIPE / "data/shapes/raw/scenes.yaml").read_text(encoding="utf-8")),
    changes={},
    steps=SOLOV2,
    rows=(
        row("xmask", "XMask", "xmask", DOTS, (20,)),
        row("edp_sam_share", "EDP-SAM → SOLOv2", "solov2", POINTS, (20,), by_method("edp_sam")),
        row("edp_sam_pldc", "EDP-SAM → SOLOv2 → PL-DC", "pldc", POINTS, (20,), by_method("edp_sam")),
        row("edp_sam", "EDP-SAM → SOLOv2", "solov2", POINTS, (100,), of_all("edp_sam")),
        row("superpixel", "superpixels → SOLOv2", "solov2", POINTS, (100,), of_all("superpixel")),
        row("p2seg", "P2Seg → SOLOv2", "solov2", POINTS, (100,), of_all("p2seg")),
        row("p2seg_pointwssis", "P2Seg → PointWSSIS", "pointwssis", POINTS_TWICE, (20,), by_method("p2seg")),
        row("supervised", "SOLOv2", "solov2", MASKS, (5, 20)),
        row("pldc", "PL-DC", "pldc", MASKS, (5,)),
        row("pointwssis", "PointWSSIS", "pointwssis", MASKS_AND_POINTS, (5,)),
        row("ceiling", "SOLOv2", "solov2", MASKS, (100,), FEW_HELD_OUT),
    ),
    figures={
        "annotation_hours": "labels, h", "ap": "AP", "ap_50": "AP50", "matched_iou_truth": "matched IoU", "mae": "MAE",
        "minutes": "minutes",
    },
    measure=measure,
    draw=draw,
)  # fmt: skip
