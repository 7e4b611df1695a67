from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from pipeline.annotators.build import ANNOTATORS, build_annotator
from pipeline.annotators.edp_sam import EdpSamAnnotator, EdpSamOptions
from pipeline.annotators.superpixel import SuperpixelOptions
from pipeline.annotators.truth import TruthOptions
from pipeline.errors import PipelineError
from stages.data_sections import AnnotateParams
from tests.annotators.fake_model import DiscModel

CPU = torch.device("cpu")


@pytest.mark.parametrize(("method", "options"), [("disc", None), ("superpixel", SuperpixelOptions())])
def test_methods_without_weights(method, options) -> None:
    annotator = build_annotator(method, options, weights="compact", device=CPU, truth=None)
    assert annotator.name == method
    assert annotator.weights_sha256 is None


def test_edp_sam_gets_the_named_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name, device, **numerics):
        asked.append((name, device, numerics))
        return DiscModel()

    monkeypatch.setattr("pipeline.models.sam.load_sam", load)
    options = EdpSamOptions(prompts=("box",))
    annotator = build_annotator("edp_sam", options, weights="vit_l", device=CPU, truth=None)
    assert isinstance(annotator, EdpSamAnnotator)
    assert annotator.options is options
    assert annotator.weights_sha256 == DiscModel.weights_sha256
    assert asked == [("vit_l", CPU, {"bf16": False, "compiled": False})]


def test_truth_without_true_masks_is_refused() -> None:
    with pytest.raises(PipelineError, match="this data set does not have"):
        build_annotator("truth", TruthOptions(), weights="compact", device=CPU, truth=None)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(PipelineError, match="expected one of edp_sam, superpixel, disc, truth, p2seg, got 'discs'"):
        build_annotator("discs", None, weights="compact", device=CPU, truth=None)


def test_missing_weights_name_their_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOTMASK_WEIGHTS", str(tmp_path))
    with pytest.raises(PipelineError, match="sam_vit_b_01ec64.pth: the weights 'vit_b' are not there"):
        build_annotator("edp_sam", EdpSamOptions(), weights="vit_b", device=CPU, truth=None)


def test_params_know_the_same_methods() -> None:
    assert get_args(get_type_hints(AnnotateParams)["method"]) == tuple(ANNOTATORS)
