import pytest

from pipeline.training.options import CropOptions
from pipeline.training.p2seg_options import DistillOptions, P2SegLoopOptions, P2SegOptions, P2SegSeedOptions
from pipeline.training.segment_options import SegmentPhaseOptions


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (P2SegSeedOptions, {"source": "folder"}, "folder: expected the folder of your maps"),
        (P2SegSeedOptions, {"folder": "maps"}, "with source: network"),
        (P2SegSeedOptions, {"min_prob": 1.0}, "min_prob"),
        (DistillOptions, {"beta": 0.0}, "beta: expected above 0"),
        (DistillOptions, {"propagated_frac": 1.5}, "propagated_frac: expected from 0 to 1"),
        (DistillOptions, {"hard_frac": 0.0}, "hard_frac"),
        (P2SegLoopOptions, {"ema_decay": 1.0}, "ema_decay"),
        (P2SegOptions, {"crops": CropOptions(size_px=80)}, "crops.size_px: expected a multiple of 32, got 80"),
        (P2SegOptions, {"train": SegmentPhaseOptions(steps=0)}, "train.steps: expected at least 1"),
    ],
)
def test_values_that_do_not_fit_are_refused(kind, given, message) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**given)


def test_what_changes_no_result_is_no_option() -> None:
    """DVC watches the section whole."""
    assert not {"load_workers", "cache_mib", "checkpoint_every"} & set(vars(P2SegLoopOptions()))
