import pytest

from pipeline.training.options import (
    CropOptions,
    GateOptions,
    LoopOptions,
    PhaseOptions,
    PseudoLabelOptions,
    RetrainOptions,
    UnlabeledOptions,
    WarmupOptions,
    result_options,
)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (CropOptions, {"size_px": 100}, "size_px: expected a positive multiple of 16, got 100"),
        (CropOptions, {"batch": 0}, "batch: expected at least 1"),
        (CropOptions, {"scale_min": 2.0}, "scale_max: expected at least scale_min"),
        (PhaseOptions, {"steps": -1}, "steps: expected at least 0"),
        (PhaseOptions, {"learning_rate": 0.0}, "learning_rate: expected above 0"),
        (LoopOptions, {"ema_decay": 1.0}, "ema_decay: expected at least 0 and below 1"),
        (LoopOptions, {"patience": -1}, "patience: expected at least 0"),
        (LoopOptions, {"log_every": 0}, "log_every: expected at least 1"),
        (LoopOptions, {"tile_px": 384, "halo_px": 192}, "tile_px: expected a multiple of 16 above"),
        (PseudoLabelOptions, {"halo_px": 10}, "halo_px: expected a multiple of 16"),
        (GateOptions, {"min_count_ratio": 6.0}, "max_count_ratio: expected above min_count_ratio"),
        (UnlabeledOptions, {"point_prob": 1.0}, "point_prob: expected above 0 and below 1"),
        (RetrainOptions, {"w_bg": -0.1}, "w_bg: expected at least 0"),
        (
            RetrainOptions,
            {"teacher": "ema", "unlabeled": UnlabeledOptions(pixel_weights="uncertainty")},
            "unlabeled.pixel_weights: uncertainty reads stored soft masks, and teacher: ema takes fresh masks",
        ),
    ],
)
def test_values_out_of_range_are_refused_by_name(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_options_without_an_effect_on_results_are_not_recorded():
    plain = result_options(
        WarmupOptions(loop=LoopOptions(evaluate_every=100, checkpoint_every=7, load_workers=3, cache_mib=5))
    )
    assert plain == result_options(WarmupOptions())
    assert plain != result_options(WarmupOptions(loop=LoopOptions(evaluate_every=7)))
    assert plain["count"]["steps"] == WarmupOptions().count.steps
