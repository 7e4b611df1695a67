"""PointWSSIS: what points, the choice of the level and the refiner bring beside masks of a few images."""

from collections.abc import Mapping
from typing import Any

import yaml

from benchmarks.experiments.study import REPOSITORY, Step, Study, Variant

RECIPE = "recipes/pointwssis"
SHARES = (5, 20)
POINTS = "What points bring"
UNREFINED: Mapping[str, Any] = {"retrain.masks": "pseudo_label"}
NO_REFINER = ("refiner", "refined")

SHAPES = Study(
    name="shapes",
    params=f"{RECIPE}/params.yaml",
    reader="synthetic_shapes",
    scenes=yaml.safe_load((REPOSITORY / RECIPE / "data/shapes/raw/scenes.yaml").read_text(encoding="utf-8")),
    changes={"evaluate.pictures": 0},
    steps=(
        Step("prepare", ("prepare",), per_run=False, output="prepared"),
        Step("nnec", ("nnec",), per_run=False),
        Step("annotate", ("annotate",), per_run=False, options=("--workers", "1", "--cache", "{cache}")),
        Step("segmenter.warmup", ("splits", "warmup"), output="warmup"),
        Step("segmenter.pseudo_label", ("pseudo_label",), output="pseudo_label"),
        Step("segmenter.refiner", ("pseudo_label", "refiner"), output="refiner"),
        Step("segmenter.refine", ("refiner",), output="refined"),
        Step("segmenter.retrain", ("splits", "retrain"), output="retrain"),
        Step("segmenter.evaluate", ("evaluate",), output="evaluate"),
    ),
    rows=(
        Variant(
            "strong_only", "strong images alone", POINTS, {"retrain.weak": False}, SHARES,
            leaves_out=("pseudo_label", *NO_REFINER),
        ),
        Variant(
            "random_level", "+ points, masks of a random level", POINTS,
            {**UNREFINED, "pseudo_label.choose": "random"}, SHARES, leaves_out=NO_REFINER,
        ),
        Variant(
            "size_oracle", "+ points, level by the true size", POINTS,
            {**UNREFINED, "pseudo_label.choose": "size_oracle"}, SHARES, leaves_out=NO_REFINER,
        ),
        Variant("best_level", "+ points, level selection", POINTS, UNREFINED, SHARES, leaves_out=NO_REFINER),
        Variant("pointwssis", "+ refiner: all of PointWSSIS", POINTS, {}, SHARES),
        Variant(
            "full", "masks of all images", POINTS,
            {"retrain.weak": False, "splits.held_out_frac": 0.01}, (100,),  # as many held out as at 5 %
            leaves_out=("warmup", "pseudo_label", *NO_REFINER),
        ),
    ),
    figures={
        "ap": "AP", "ap_50": "AP50", "ap_75": "AP75", "pseudo_label_mean_iou": "IoU of the weak images' masks",
        "teacher_ap": "AP of the teacher",
    },
)  # fmt: skip
