from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import PipelineError
from pipeline.models.compact_sam import build_compact_sam
from pipeline.models.pretrained import FOLDER_VARIABLE, file_sha256
from pipeline.models.sam import BUILDERS, CANDIDATES, PromptableModel, load_sam

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def half_state():
    torch.manual_seed(0)
    return {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in build_compact_sam().state_dict().items()
    }


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the compact weights are looked for."""
    monkeypatch.setattr("pipeline.models.pretrained.SHIPPED_FOLDER", tmp_path)
    return tmp_path / "compact.safetensors"


@pytest.fixture(scope="module")
def compact(half_state, tmp_path_factory) -> PromptableModel:
    folder = tmp_path_factory.mktemp("weights")
    save_file(half_state, folder / "compact.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.models.pretrained.SHIPPED_FOLDER", folder)
        model = load_sam("compact", CPU)
        assert model.weights_sha256 == file_sha256(folder / "compact.safetensors")
    return model


def test_the_compact_model_encodes_and_decodes(compact: PromptableModel) -> None:
    assert compact.name == "compact"
    assert compact.input_px == 256
    assert compact.logit_px == 64
    tiles = torch.randint(0, 256, (2, 3, 256, 256)).float()
    embeddings = compact.encode(tiles)
    assert embeddings.shape == (2, 53, 64, 64)
    points_xy = torch.tensor([[10.0, 20.0], [200.5, 99.5], [0.0, 255.0]])
    logits, estimates = compact.decode(embeddings[0], points_xy)
    assert logits.shape == (3, CANDIDATES, 64, 64)
    assert logits.dtype == torch.float32
    assert estimates.shape == (3, CANDIDATES)
    assert ((estimates >= 0) & (estimates <= 1)).all()
    assert not logits.requires_grad
    boxes = torch.cat([points_xy - 5, points_xy + 5], 1)
    boxed, _ = compact.decode(embeddings[0], points_xy, boxes)
    assert not torch.allclose(boxed, logits)
    torch.testing.assert_close(compact.decode(embeddings[0], points_xy[:1])[0], logits[:1], rtol=1e-3, atol=1e-3)


def test_negative_points_matter_and_absent_ones_do_not(compact: PromptableModel) -> None:
    embedding = compact.encode(torch.randint(0, 256, (1, 3, 256, 256)).float())[0]
    points_xy = torch.tensor([[100.0, 100.0], [50.0, 60.0]])
    negatives = torch.tensor([[[120.0, 100.0]], [[np.nan, np.nan]]])
    given, _ = compact.decode(embedding, points_xy, None, negatives)
    none, _ = compact.decode(embedding, points_xy, None, torch.full((2, 1, 2), torch.nan))
    assert given.isfinite().all()
    assert not torch.allclose(given[0], none[0], atol=1e-3)
    torch.testing.assert_close(given[1], none[1], rtol=1e-3, atol=1e-3)


def test_it_is_ready_for_inference(compact: PromptableModel) -> None:
    assert not compact.sam.training
    assert {value.dtype for value in compact.sam.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda state: state.pop("mask_decoder.masks.weight"), r"1 tensors missing, 0 unknown, 0 of another shape"),
        (lambda state: state.update(extra=torch.zeros(1)), r"0 tensors missing, 1 unknown"),
        (
            lambda state: state.update({"mask_decoder.masks.weight": torch.zeros(1, 256)}),
            r"1 of another shape, e.g. mask_decoder.masks.weight",
        ),
        (lambda state: (state.clear(), state.update(weight=torch.zeros(3))), r"1 unknown"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(half_state, file: Path, harm, message) -> None:
    state = dict(half_state)
    harm(state)
    save_file(state, file)
    with pytest.raises(PipelineError, match=f"a checkpoint of another model than 'compact' .*{message}"):
        load_sam("compact", CPU)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_file_is_refused(half_state, file: Path, share) -> None:
    save_file(half_state, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(PipelineError, match=r"compact.safetensors: not a readable checkpoint \(.+\); delete it"):
        load_sam("compact", CPU)


def test_missing_weights(file: Path) -> None:
    with pytest.raises(PipelineError, match="compact.safetensors: missing"):
        load_sam("compact", CPU)


def tiny_vit():
    """What Meta's builders make, with hardly any encoder."""
    from segment_anything.build_sam import _build_sam

    return _build_sam(encoder_embed_dim=16, encoder_depth=1, encoder_num_heads=2, encoder_global_attn_indexes=[0])


@pytest.fixture
def vit_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setitem(BUILDERS, "vit_b", tiny_vit)
    return tmp_path / "sam_vit_b_01ec64.pth"


def test_metas_layout(vit_file: Path) -> None:
    torch.manual_seed(0)
    source = tiny_vit()
    torch.save(source.state_dict(), vit_file)
    model = load_sam("vit_b", CPU)
    assert model.input_px == 1024
    assert model.logit_px == 256
    for key, value in source.state_dict().items():
        assert torch.equal(model.sam.state_dict()[key], value)
    embedding = torch.randn(256, 64, 64)
    logits, estimates = model.decode(embedding, torch.tensor([[512.0, 512.0]]), torch.tensor([[500.0, 500, 530, 540]]))
    assert logits.shape == (1, 3, 256, 256)
    assert estimates.shape == (1, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable checkpoint"),
        (b"garbage, not a checkpoint", "not a readable checkpoint"),
        (b"\x80\x02}q\x00.", "not a readable checkpoint|another model"),
        (b"PK\x03\x04 torn archive", "not a readable checkpoint"),
    ],
)
def test_a_broken_checkpoint_is_refused(vit_file: Path, content, message) -> None:
    vit_file.write_bytes(content)
    with pytest.raises(PipelineError, match=message):
        load_sam("vit_b", CPU)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2]])
def test_something_that_is_no_state_dict_is_refused(vit_file: Path, content) -> None:
    torch.save(content, vit_file)
    with pytest.raises(PipelineError, match="expected a state dict, got"):
        load_sam("vit_b", CPU)


def test_values_that_are_no_tensors_are_refused(vit_file: Path) -> None:
    torch.save(dict.fromkeys(tiny_vit().state_dict(), 1), vit_file)
    with pytest.raises(PipelineError, match="a checkpoint of another model than 'vit_b'"):
        load_sam("vit_b", CPU)


@pytest.mark.slow
def test_a_full_vit_b(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with torch.no_grad():
        state = BUILDERS["vit_b"]().state_dict()
    torch.save(state, tmp_path / "sam_vit_b_01ec64.pth")
    model = load_sam("vit_b", CPU)
    assert sum(value.numel() for value in model.sam.parameters()) == 93_735_472
    logits, _ = model.decode(torch.zeros(256, 64, 64), torch.tensor([[100.0, 200.0]]))
    assert logits.shape == (1, 3, 256, 256)


def test_an_unknown_name() -> None:
    with pytest.raises(PipelineError, match="'sam2' is unknown"):
        load_sam("sam2", CPU)
