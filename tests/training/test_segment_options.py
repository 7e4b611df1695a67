import pytest

from pipeline.training.segment_options import SegmentLoopOptions, SegmentPhaseOptions


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (SegmentPhaseOptions, {"steps": -1}, "steps: expected at least 0"),
        (SegmentPhaseOptions, {"learning_rate": 0.0}, "learning_rate: expected above 0"),
        (SegmentPhaseOptions, {"encoder_rate_share": -0.1}, "encoder_rate_share: expected at least 0"),
        (SegmentPhaseOptions, {"momentum": 1.0}, "momentum: expected at least 0 and below 1"),
        (SegmentPhaseOptions, {"drop_at_frac": (0.9, 0.7)}, r"drop_at_frac: expected rising .* got \[0.9, 0.7\]"),
        (SegmentPhaseOptions, {"drop_at_frac": (0.9, 1.0)}, "drop_at_frac: expected rising"),
        (SegmentLoopOptions, {"ema_decay": 1.0}, "ema_decay: expected at least 0 and below 1"),
        (SegmentLoopOptions, {"clip_norm": 0.0}, "clip_norm: expected above 0"),
        (SegmentLoopOptions, {"load_workers": 0}, "load_workers: expected at least 1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_the_encoder_learns_with_a_share_of_the_rate():
    assert SegmentPhaseOptions(learning_rate=0.05, encoder_rate_share=0.1).encoder_learning_rate == pytest.approx(0.005)
