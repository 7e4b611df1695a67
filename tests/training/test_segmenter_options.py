import pytest

from pipeline.models.solov2 import Solov2Options
from pipeline.training.segment_options import SegmentPhaseOptions
from pipeline.training.segmenter_options import SegmenterOptions, StudentOptions, ViewOptions, teacher_options


def test_the_defaults_fit_together():
    assert teacher_options().early_steps == (300, 450)
    assert StudentOptions().learn.early_steps == ()
    assert SegmenterOptions(train=SegmentPhaseOptions(steps=1), early_fracs=(0.1,)).early_steps == (1,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranges_px": ((1, 2),)}, "ranges_px: expected 5 ranges, one for each of network.grids, got 1"),
        ({"ranges_px": ((2, 1),) * 5}, r"ranges_px: expected \[low, high\] with low < high"),
        ({"dice_weight": 0.0}, "dice_weight"),
        ({"early_fracs": (0.5, 0.5)}, "early_fracs: expected shares above 0 and below 1, each once"),
        ({"early_fracs": (1.0,)}, "early_fracs"),
        ({"network": Solov2Options(grids=(4, 4, 4, 4, 4)), "ranges_px": ()}, "got 0"),
    ],
)
def test_values_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SegmenterOptions(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 0}, {"short_side_min_px": 16}, {"short_side_max_px": 64}, {"long_side_px": 64}, {"flip_prob": 1.5},
        {"test_short_side_px": 8},
    ],
)  # fmt: skip
def test_views_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        ViewOptions(**changes)
