import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.models.compact_sam import (
    CHANNELS,
    INPUT_PX,
    TOKEN_STRIDE,
    CompactEncoder,
    build_compact_sam,
    fuse_encoder,
)
from pipeline.training.promptable import save_compact_weights


@pytest.fixture(scope="module")
def trained():
    """A model whose batch statistics are not those of a fresh one, in evaluation mode."""
    torch.manual_seed(0)
    sam = build_compact_sam().train()
    with torch.no_grad():
        sam.image_encoder(torch.randn(2, 3, INPUT_PX, INPUT_PX) * 2 + 0.5)
    return sam.eval()


def test_it_is_a_segment_anything_model(trained) -> None:
    tokens = INPUT_PX // TOKEN_STRIDE
    assert trained.image_encoder.img_size == INPUT_PX
    assert trained.prompt_encoder.image_embedding_size == (tokens, tokens)
    with torch.inference_mode():
        embedding = trained.image_encoder(torch.zeros(1, 3, INPUT_PX, INPUT_PX))
    assert embedding.shape == (1, CHANNELS, tokens, tokens)
    parameters = sum(value.numel() for value in trained.parameters())
    assert 5.5e6 < parameters < 5.9e6


def test_fused_and_unfused_agree(trained, tmp_path) -> None:
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (1, 3, INPUT_PX, INPUT_PX)).float()
    other = build_compact_sam()
    other.load_state_dict(trained.state_dict())
    fused = fuse_encoder(other)
    assert isinstance(fused.image_encoder, CompactEncoder)
    assert not fused.training
    with torch.inference_mode():
        plain, fast = (sam.image_encoder(sam.preprocess(pixels)) for sam in (trained, fused))
    scale = float(plain.abs().max())
    assert float((plain - fast).abs().max()) <= 1e-4 * max(1.0, scale)
    counts = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in sam.modules()) for sam in (trained, fused)]
    assert counts[1] < counts[0] / 4


def test_the_file_is_small_and_loads_again(trained, tmp_path) -> None:
    path = tmp_path / "compact.safetensors"
    digest = save_compact_weights(trained, path)
    assert len(digest) == 64
    assert path.stat().st_size <= 12e6
    state = load_file(path)
    assert set(state) == set(trained.state_dict())
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float16}
    for key, value in trained.state_dict().items():
        torch.testing.assert_close(state[key].to(value.dtype), value, rtol=1e-3, atol=1e-6)
    save_file(state, tmp_path / "again.safetensors")
    assert save_compact_weights(trained, path) == digest


def test_prompts_attend_by_position_from_the_start() -> None:
    sam = build_compact_sam()
    attention = sam.mask_decoder.transformer.layers[0].cross_attn_token_to_image
    assert torch.equal(attention.q_proj.weight, attention.k_proj.weight)
