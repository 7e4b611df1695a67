import pytest

from pipeline.training.options import PhaseOptions
from pipeline.training.phases import FINAL_RATE, name_by_step, rate_share


@pytest.mark.parametrize(
    ("options", "step", "share"),
    [
        (PhaseOptions(steps=10, decay="constant", ramp_steps=0), 7, 1.0),
        (PhaseOptions(steps=10, decay="constant", ramp_steps=3), 0, 0.25),
        (PhaseOptions(steps=10, decay="cosine", ramp_steps=0), 0, 1.0),
        (PhaseOptions(steps=10, decay="cosine", ramp_steps=0), 5, 0.505),
        (PhaseOptions(steps=10, decay="cosine", ramp_steps=0), 10, FINAL_RATE),
    ],
)
def test_the_learning_rate_rises_and_falls(options, step, share):
    assert rate_share(options, step) == pytest.approx(share)


def test_a_batch_of_which_no_more_is_known_is_named_by_its_step():
    assert name_by_step(3) == "batch 3"
