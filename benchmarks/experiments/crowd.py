"""XMask: what pseudo-points, energy masks, exclusivity, mask constraint, teacher and annotator bring."""

from collections.abc import Mapping
from typing import Any

from benchmarks.experiments.study import Step, Study, Variant

SHARES = (5, 10, 40)
LABELS_ALONE: Mapping[str, Any] = {"retrain.unlabeled.phases": [], "retrain.w_fg": 0.0, "retrain.w_bg": 0.0}
PARTS = "What each part brings"
TEACHER = "The teacher of the student"
ANNOTATOR = "Masks of the labelled images"

CROWD = Study(
    name="crowd",
    params="params.yaml",
    reader="synthetic",
    scenes={
        "seed": 7,
        "splits": {
            "train": {"images": 240, "height_px": 128, "width_px": 128, "heads": [5, 25], "roughness": 1.0},
            "test": {"images": 240, "height_px": 128, "width_px": 128, "heads": [5, 25], "roughness": 1.0},
        },
    },
    changes={
        "warmup.count.steps": 1300,
        "warmup.crops.size_px": 96,
        "warmup.crops.batch": 4,
        "retrain.count.steps": 1000,
        "retrain.crops.size_px": 96,
        "retrain.unlabeled.weight_max": 1.0,
        "retrain.unlabeled.match_count": True,
        "retrain.gate.max_error_ratio": 100.0,  # open: two held-out images, at 5 %, say little; no row may be missing
        "retrain.gate.min_count_ratio": 0.0,
    },
    steps=(
        Step("prepare", ("prepare",), per_run=False, output="prepared"),
        Step("nnec", ("nnec",), per_run=False),
        Step("annotate", ("annotate",), per_run=False, options=("--workers", "1", "--cache", "{cache}")),
        Step("warmup", ("splits", "model", "warmup")),
        Step("pseudo_label", ("pseudo_label",), also=("held_out",)),
        Step("judge", ("judge",), output="judged"),
        Step("retrain", ("retrain",)),
        Step("evaluate", ("evaluate",)),
    ),
    rows=(
        Variant("supervised", "labels alone", PARTS, LABELS_ALONE, SHARES),
        Variant(
            "points",
            "+ pseudo-points (P2R)",
            PARTS,
            {"retrain.unlabeled.phases": ["count"], "retrain.w_fg": 0.0, "retrain.w_bg": 0.0},
        ),
        Variant(
            "masks",
            "+ energy masks, exclusivity",
            PARTS,
            {"retrain.unlabeled.phases": ["count", "mask"], "retrain.w_fg": 0.0, "retrain.w_bg": 0.0},
        ),
        Variant("full", "+ mask constraint: all of XMask", PARTS, {}, SHARES),
        Variant("ema", "EMA teacher in place of the stored one", TEACHER, {"retrain.teacher": "ema"}),
        Variant("superpixel", "`superpixel` in place of `edp_sam`", ANNOTATOR, {"annotate.method": "superpixel"}),
        Variant("disc", "`disc`", ANNOTATOR, {"annotate.method": "disc"}),
        Variant("truth", "truth", ANNOTATOR, {"annotate.method": "truth"}),
    ),
    figures={
        "mae": "MAE",
        "rmse": "RMSE",
        "matched_iou_truth": "matched IoU",
        "mae_mean_count": "MAE of the mean count",
    },
)
