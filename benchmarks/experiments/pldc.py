"""PL-DC: what thresholds, a second opinion on classes and weights of pixels bring, alone and together."""

from collections.abc import Mapping
from typing import Any

import yaml

from benchmarks.experiments.study import REPOSITORY, Step, Study, Variant

RECIPE = "recipes/pldc"
SHARES = (5,)
LEVELS = "What each level of PL-DC brings"
SOURCES = "Where the thresholds come from"
NO_PSEUDO = ("pseudo_label", "judged")

PLAIN: Mapping[str, Any] = {
    "judge.quality.thresholds": "single", "judge.quality.margin": 0.0, "judge.correct": False,
    "retrain.unlabeled.pixel_weights": "off",
}  # fmt: skip
"""One threshold on the product of the scores: kept, or background."""


def single(score_thr: float) -> dict[str, Any]:
    """One threshold."""
    return {**PLAIN, "judge.quality.score_thr": score_thr}


def two(thresholds: str, *, correct: bool = False, weights: bool = False) -> dict[str, Any]:
    """Two thresholds and three tiers, with or without the other levels."""
    return {
        "judge.quality.thresholds": thresholds,
        "judge.correct": correct,
        "retrain.unlabeled.pixel_weights": "uncertainty" if weights else "off",
    }


PLDC = Study(
    name="pldc",
    params=f"{RECIPE}/params.yaml",
    reader="synthetic_shapes",
    scenes={
        **yaml.safe_load((REPOSITORY / RECIPE / "data/shapes/raw/scenes.yaml").read_text(encoding="utf-8")),
        "seed": 12,  # the recipe's scenes are those on which its parameters were chosen
    },
    changes={"evaluate.pictures": 0, "evaluate.teacher": False},
    steps=(
        Step("prepare", ("prepare",), per_run=False, output="prepared"),
        Step("nnec", ("nnec",), per_run=False),
        Step("annotate", ("annotate",), per_run=False, options=("--workers", "1", "--cache", "{cache}")),
        Step("segmenter.warmup", ("splits", "warmup"), output="warmup"),
        Step(
            "segmenter.pseudo_label", ("pseudo_label",), output="pseudo_label",
            also=("held_out", "second_opinion.parquet"),
        ),
        Step("segmenter.judge", ("judge",), output="judged"),
        Step("segmenter.retrain", ("splits", "retrain"), output="retrain"),
        Step("segmenter.evaluate", ("evaluate",), output="evaluate"),
    ),
    rows=(
        Variant("labels_alone", "labelled images alone", LEVELS, {"retrain.weak": False}, SHARES, leaves_out=NO_PSEUDO),
        Variant("single", "one threshold, on the product", LEVELS, single(0.3), SHARES),
        Variant("dual", "D: two thresholds, three tiers", LEVELS, two("fixed"), SHARES),
        Variant("category", "C: + second opinion", LEVELS, {**single(0.3), "judge.correct": True}, SHARES),
        Variant(
            "pixels", "U: + pixel weights", LEVELS,
            {**single(0.3), "retrain.unlabeled.pixel_weights": "uncertainty"}, SHARES,
        ),
        Variant("dual_category", "D and C", LEVELS, two("fixed", correct=True), SHARES),
        Variant("dual_pixels", "D and U", LEVELS, two("fixed", weights=True), SHARES),
        Variant("pldc", "D, C and U: all of PL-DC", LEVELS, two("fixed", correct=True, weights=True), SHARES),
        Variant("calibrated", "D calibrated", SOURCES, two("calibrated"), SHARES),
        Variant("adaptive", "D adaptive", SOURCES, two("adaptive"), SHARES),
    ),
    figures={
        "ap": "AP", "ap_50": "AP50", "pseudo_label_precision": "precision", "pseudo_label_recall": "recall",
        "pseudo_label_mean_class_precision": "precision, mean of classes",
        "pseudo_label_mean_class_recall": "recall, mean of classes",
    },
)  # fmt: skip
