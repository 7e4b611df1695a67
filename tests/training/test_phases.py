import pytest

from pipeline.training.options import PhaseOptions
from pipeline.training.phases import FINAL_RATE, name_by_step, rate_share
from pipeline.training.segment_options import SegmentPhaseOptions

STEPS = SegmentPhaseOptions(steps=10, decay="steps", drop_at_frac=(0.5, 0.8), ramp_steps=0)


@pytest.mark.parametrize(
    ("options", "step", "share"),
    [
        (PhaseOptions(steps=10, decay="constant", ramp_steps=0), 7, 1.0),
        (PhaseOptions(steps=10, decay="constant", ramp_steps=3), 0, 0.25),
        (PhaseOptions(steps=10, decay="cosine", ramp_steps=0), 0, 1.0),
        (PhaseOptions(steps=10, decay="cosine", ramp_steps=0), 5, 0.505),
        (PhaseOptions(steps=10, decay="cosine", ramp_steps=0), 10, FINAL_RATE),
        (SegmentPhaseOptions(steps=10, decay="cosine", ramp_steps=0), 5, 0.505),
        (STEPS, 0, 1.0),
        (STEPS, 4, 1.0),
        (STEPS, 5, 0.1),
        (STEPS, 8, 0.01),
        (SegmentPhaseOptions(steps=10, decay="steps", drop_at_frac=(), ramp_steps=4), 1, 0.4),
    ],
)
def test_the_learning_rate_rises_and_falls(options, step, share):
    assert rate_share(options, step) == pytest.approx(share)


def test_a_batch_of_which_no_more_is_known_is_named_by_its_step():
    assert name_by_step(3) == "batch 3"
