import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest

from pipeline.annotators.disc import DiscAnnotator
from pipeline.annotators.edp_sam import EdpSamOptions
from pipeline.annotators.exclusion import ExclusionOptions
from pipeline.annotators.plan import AnnotatorPlan
from pipeline.annotators.superpixel import SuperpixelOptions
from pipeline.errors import PipelineError
from tests.annotators.fake_model import mark

PLAN = AnnotatorPlan("edp_sam", EdpSamOptions())


def keys(plan=PLAN, digest="a" * 64, marked=None):
    marked = marked or mark([[20.0, 20.0], [40.0, 30.0]])
    return plan.keys(plan.provenance(), digest, marked)


@pytest.mark.parametrize(
    ("changes", "network"),
    [
        ({"options": EdpSamOptions(exclusion=ExclusionOptions(kappa=0.1))}, False),
        ({"options": EdpSamOptions(exclusive=False)}, False),
        ({"options": EdpSamOptions(prompts=("head",))}, True),
        ({"options": EdpSamOptions(superpixel=SuperpixelOptions(compactness=9.0))}, True),
        ({"options": EdpSamOptions(max_magnification=2.0)}, True),
        ({"options": EdpSamOptions(coarser_steps=1)}, True),
        ({"options": EdpSamOptions(mirrored=True)}, True),
        ({"bf16": True}, True),
        ({"device": "cuda"}, True),
        ({"compiled": True}, True),
    ],
)
def test_what_changes_a_result_changes_its_key(changes, network) -> None:
    masks, logits = keys()
    other_masks, other_logits = keys(dataclasses.replace(PLAN, **changes))
    assert other_masks != masks
    assert (other_logits != logits) is network


def test_an_images_keys_are_its_own() -> None:
    first = keys()
    assert keys() == first
    assert keys(dataclasses.replace(PLAN, device="cpu")) == first
    others = [
        keys(digest="b" * 64),
        keys(marked=mark([[20.0, 20.0], [40.0, 31.0]])),
        keys(marked=mark([[20.0, 20.0], [40.0, 30.0]], radius_px=[5.0, 6.0])),
        keys(marked=mark([[20.0, 20.0], [40.0, 30.0]], (64, 65))),
    ]
    assert len({first, *others}) == 5
    assert len({masks for masks, _ in [first, *others]}) == 5


def test_it_travels() -> None:
    assert pickle.loads(pickle.dumps(PLAN)) == PLAN
    assert isinstance(AnnotatorPlan("disc").build(), DiscAnnotator)


def test_provenance_tells_all_that_moves_a_mask() -> None:
    provenance = PLAN.provenance()
    assert (provenance.algorithm, provenance.algorithm_version) == ("edp_sam", 3)
    assert provenance.params["exclusion"]["kappa"] == 0.7
    assert len(provenance.weights_sha256 or "") == 64
    assert AnnotatorPlan("disc").provenance().weights_sha256 is None


def test_weights_that_are_not_there(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOTMASK_WEIGHTS", str(tmp_path))
    with pytest.raises(PipelineError, match="the weights 'vit_b' are not there"):
        dataclasses.replace(PLAN, weights="vit_b").provenance()


def test_no_heads_have_keys_too() -> None:
    assert keys(marked=mark(np.zeros((0, 2)))) != keys()
