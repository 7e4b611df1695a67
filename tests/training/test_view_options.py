import pytest

from pipeline.training.view_options import ColorOptions, StrongViewOptions, few_labels_colors


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ColorOptions, {"jitter_hue": 0.7}, "jitter_hue: expected from 0 to 0.5"),
        (ColorOptions, {"blur_sigma_max": 0.05}, r"blur_sigma_max: expected at least blur_sigma_min \(0.1\)"),
        (StrongViewOptions, {"cut_out_max_frac": 1.5}, "cut_out_max_frac: expected from 0 to 1"),
        (StrongViewOptions, {"cut_out_max_frac": 0.1}, "cut_out_min_frac: expected at most cut_out_max_frac"),
    ],
)
def test_values_out_of_range_are_refused_by_name(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_no_cut_out_needs_the_greatest_side_alone():
    assert StrongViewOptions(cut_out_max_frac=0).cut_out_min_frac == 1 / 8


def test_the_strong_view_is_the_published_one():
    view = StrongViewOptions()
    assert (view.cut_out_min_frac, view.cut_out_max_frac) == (1 / 8, 1 / 4)
    colors = view.colors
    assert (colors.jitter_prob, colors.jitter, colors.jitter_hue) == (0.8, 0.4, 0.1)
    assert (colors.gray_prob, colors.blur_prob, colors.noise_max) == (0.25, 0.8, 0.0)
    assert (colors.blur_sigma_min, colors.blur_sigma_max) == (0.1, 2.0)
    assert few_labels_colors() != colors
