import pytest

from pipeline.errors import PipelineError
from pipeline.training.gate import GateFigures, check_gate
from pipeline.training.options import GateOptions

SOUND = GateFigures(teacher_mae=3.0, mean_count_mae=6.0, labeled_count=20.0, pseudo_count=18.0)


def figures(**changed):
    return GateFigures(**({name: getattr(SOUND, name) for name in GateFigures.__dataclass_fields__} | changed))


@pytest.mark.parametrize(
    "sound",
    [
        SOUND,
        figures(teacher_mae=6.0),
        figures(pseudo_count=4.0),
        figures(pseudo_count=100.0),
        figures(pseudo_count=None),  # everything is labelled
        figures(labeled_count=0.0, pseudo_count=7.0, mean_count_mae=3.0),  # no head to compare with
    ],
)
def test_a_sound_teacher_passes(sound):
    check_gate(sound, GateOptions())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"teacher_mae": 6.5},
            r"MAE on the held-out labelled images is 6.50 heads, expected at most 6.00 \(1 × the 6.00 of predicting "
            r"the mean count\): raise warmup.count.steps",
        ),
        ({"pseudo_count": 3.9}, r"gives 3.9 pseudo-labels per unlabelled image, expected at least 0.2 × .* 20.0 heads"),
        ({"pseudo_count": 0.0}, r"or lower retrain.gate.min_count_ratio"),
        ({"pseudo_count": 101.0}, r"expected at most 5 × .*local_max_3x3, or raise retrain.gate.max_count_ratio"),
    ],
)
def test_a_teacher_that_misses_a_bound_is_stopped(changed, message):
    with pytest.raises(PipelineError, match=message):
        check_gate(figures(**changed), GateOptions())


def test_all_misses_are_told_at_once():
    with pytest.raises(PipelineError, match=r"\(2 found\)"):
        check_gate(figures(teacher_mae=60.0, pseudo_count=0.0), GateOptions())


def test_the_bounds_are_parameters():
    odd = figures(teacher_mae=11.0, pseudo_count=1.0)
    check_gate(odd, GateOptions(max_error_ratio=2.0, min_count_ratio=0.05))
    with pytest.raises(PipelineError, match="at most 9.00"):
        check_gate(odd, GateOptions(max_error_ratio=1.5, min_count_ratio=0.05))
