"""params/p2seg_*.yaml: sound, and as the paper has it where it says."""

import pytest

from stages.params import load_segmenter_params
from tests.stages.test_presets import ROOT

STEPS = {"voc": 50_000, "coco": 200_000}


@pytest.mark.parametrize("name", STEPS)
def test_a_preset_has_the_values_of_the_paper(name: str) -> None:
    """Section 5 of the specification."""
    params = load_segmenter_params(ROOT / "params" / f"p2seg_{name}.yaml")
    assert (params.datasets, params.labeled_pct, params.annotate.method) == ((name,), (100,), "p2seg")
    options = params.annotate.p2seg
    assert (options.network.backbone, options.network.pretrained) == ("hrnet_w48", True)
    assert (options.network.width, options.network.affinity_dim) == (256, 256)
    assert (options.crops.size_px, options.crops.batch) == (416, 8)
    assert (options.crops.scale_min, options.crops.scale_max, options.crops.flip_prob) == (0.7, 1.3, 0.5)
    train = options.train
    assert (train.steps, train.optimizer, train.learning_rate, train.ramp_steps) == (STEPS[name], "adam", 5e-5, 2000)
    assert (options.distill.offset_weight, options.distill.hard_frac) == (0.01, 0.2)
    assert params.retrain.weak is False
    assert params.evaluate.student == "warmup"
    assert params.prepare.reader(name).name == name
