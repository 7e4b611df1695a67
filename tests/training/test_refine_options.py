import pytest

from pipeline.training.refine_options import RefineCropOptions, RefinerOptions


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (RefineCropOptions, {"size_px": 40}, "size_px: expected a positive multiple of 16, got 40"),
        (RefineCropOptions, {"batch": 0}, "batch: expected at least 1"),
        (RefineCropOptions, {"context_max": 0.9}, "context_max: expected at least 1"),
        (RefineCropOptions, {"scale_min": 2.0}, "scale_max: expected at least scale_min"),
        (RefineCropOptions, {"heat_sigma_px": 0.0}, "heat_sigma_px: expected above 0"),
        (RefineCropOptions, {"context": 0.5}, "context: expected at least 1"),
        (RefinerOptions, {"ce_weight": -1.0}, "ce_weight: expected at least 0"),
        (RefinerOptions, {"held_out_pairs": 0}, "held_out_pairs: expected at least 1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_the_refiner_learns_with_adam_as_published():
    assert RefinerOptions().train.optimizer == "adam"
    assert RefinerOptions().train.decay == "cosine"
