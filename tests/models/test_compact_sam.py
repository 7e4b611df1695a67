import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from segment_anything import SamPredictor

from pipeline.models.compact_sam import (
    FAR_LOGIT,
    INPUT_PX,
    LOGIT_PX,
    STRIDE,
    WINDOW_CELLS,
    CompactEncoder,
    CoordinatePrompts,
    WindowMaskDecoder,
    build_compact_sam,
)
from pipeline.training.promptable import save_compact_weights


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    return build_compact_sam().eval()


def decode(sam, embedding, points, boxes=None, *, multimask=True):
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
    with torch.inference_mode():
        return sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )


def at(*points_xy):
    points = torch.tensor(points_xy).reshape(-1, 1, 2)
    return points, torch.ones(len(points), 1)


def test_it_is_a_segment_anything_model(sam) -> None:
    assert sam.image_encoder.img_size == INPUT_PX
    with torch.inference_mode():
        embedding = sam.image_encoder(torch.zeros(1, 3, INPUT_PX, INPUT_PX))
    assert embedding.shape == (1, 53, LOGIT_PX, LOGIT_PX)
    assert 4 * sam.prompt_encoder.image_embedding_size[0] == LOGIT_PX
    assert 4e6 < sum(value.numel() for value in sam.parameters()) < 6e6
    logits, estimates = decode(sam, embedding, at((20.0, 30.0), (200.0, 90.0)))
    assert logits.shape == (2, 3, LOGIT_PX, LOGIT_PX)
    assert estimates.shape == (2, 3)
    logits, estimates = decode(sam, embedding, at((20.0, 30.0)), multimask=False)
    assert logits.shape == (1, 1, LOGIT_PX, LOGIT_PX)
    assert estimates.shape == (1, 1)


def test_segment_anythings_own_predictor_takes_it(sam) -> None:
    predictor = SamPredictor(sam)
    predictor.set_image(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    masks, scores, low = predictor.predict(
        point_coords=np.array([[60.0, 40.0]]), point_labels=np.array([1]), multimask_output=True
    )
    assert masks.shape == (3, 90, 120)
    assert scores.shape == (3,)
    assert low.shape == (3, LOGIT_PX, LOGIT_PX)
    masks, _, _ = predictor.predict(box=np.array([10.0, 10.0, 70.0, 60.0]), multimask_output=False)
    assert masks.shape == (1, 90, 120)


def test_a_mask_lies_in_the_window_around_its_head(sam) -> None:
    embedding = torch.randn(1, 53, LOGIT_PX, LOGIT_PX)
    for x, y in ((128.0, 130.0), (0.0, 0.0), (255.0, 3.0)):
        logits, _ = decode(sam, embedding, at((x, y)))
        rows, columns = np.nonzero((logits[0, 0] != FAR_LOGIT).numpy())
        low = np.array([columns.min(), rows.min()]) * STRIDE
        high = (np.array([columns.max(), rows.max()]) + 1) * STRIDE
        reach = WINDOW_CELLS * STRIDE / 2
        assert (np.abs(low - np.clip(np.array([x, y]) - reach, 0, None)) <= STRIDE).all()
        assert (np.abs(high - np.clip(np.array([x, y]) + reach, None, INPUT_PX)) <= STRIDE).all()


def test_a_shifted_scene_gives_a_shifted_mask(sam) -> None:
    embedding = torch.randn(1, 53, LOGIT_PX, LOGIT_PX)
    moved = embedding.roll((5, -3), (2, 3))  # whole cells
    logits, estimates = decode(sam, embedding, at((120.0, 128.0)))
    again, same = decode(sam, moved, at((120.0 - 3 * STRIDE, 128.0 + 5 * STRIDE)))
    torch.testing.assert_close(estimates, same)
    torch.testing.assert_close(logits.roll((5, -3), (2, 3)), again)


def test_prompts_do_not_look_at_each_other(sam) -> None:
    embedding = torch.randn(1, 53, LOGIT_PX, LOGIT_PX)
    together, _ = decode(sam, embedding, at((40.0, 50.0), (61.5, 70.0), (200.0, 20.0)))
    for row, point in enumerate(((40.0, 50.0), (61.5, 70.0), (200.0, 20.0))):
        torch.testing.assert_close(decode(sam, embedding, at(point))[0][0], together[row], rtol=1e-4, atol=1e-5)


def test_every_prompt_counts(sam) -> None:
    embedding = torch.randn(1, 53, LOGIT_PX, LOGIT_PX)
    points, labels = at((100.0, 100.0))
    alone, _ = decode(sam, embedding, (points, labels))
    boxed, _ = decode(sam, embedding, (points, labels), torch.tensor([[80.0, 90.0, 130.0, 140.0]]))
    negative = torch.cat([points, torch.tensor([[[120.0, 100.0]]])], 1)
    repelled, _ = decode(sam, embedding, (negative, torch.tensor([[1.0, 0.0]])))
    nothing, _ = decode(sam, embedding, (negative, torch.tensor([[1.0, -1.0]])))
    assert not torch.equal(alone, boxed)
    assert not torch.equal(alone, repelled)
    torch.testing.assert_close(alone, nothing)


def test_a_box_alone_is_centred_on(sam) -> None:
    sparse, _ = CoordinatePrompts()(None, torch.tensor([[10.0, 20.0, 50.0, 40.0]]), None)
    assert sparse.tolist() == [[[10, 20, 2], [50, 40, 3]]]
    logits, _ = decode(sam, torch.randn(1, 53, LOGIT_PX, LOGIT_PX), None, torch.tensor([[110.0, 120.0, 150.0, 140.0]]))
    rows, columns = np.nonzero((logits[0, 0] != FAR_LOGIT).numpy())
    assert abs((columns.min() + columns.max() + 1) / 2 * STRIDE - 130) <= STRIDE
    assert abs((rows.min() + rows.max() + 1) / 2 * STRIDE - 130) <= STRIDE


def test_gradients_reach_every_weight() -> None:
    torch.manual_seed(0)
    encoder, decoder, prompts = CompactEncoder(), WindowMaskDecoder(), CoordinatePrompts()
    with torch.no_grad():
        for value in encoder.parameters():  # some begin at zero
            value.add_(0.01 * torch.randn(value.shape))
    embedding = encoder(torch.randn(1, 3, INPUT_PX, INPUT_PX))
    sparse, dense = prompts(at((30.0, 200.0), (250.0, 128.0)), None, None)
    for multimask in (True, False):
        logits, estimates = decoder(embedding, prompts.get_dense_pe(), sparse, dense, multimask)
        (logits.square().mean() + estimates.square().sum() + embedding[:, -5:].square().mean()).backward(
            retain_graph=True
        )
    named = [*encoder.named_parameters(), *decoder.named_parameters()]
    assert [name for name, value in named if value.grad is None or not value.grad.any()] == []


def test_the_file_is_small_and_loads_again(sam, tmp_path) -> None:
    path = tmp_path / "compact.safetensors"
    digest = save_compact_weights(sam, path)
    assert len(digest) == 64
    assert path.stat().st_size <= 12e6
    state = load_file(path)
    assert set(state) == set(sam.state_dict())
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float16}
    for key, value in sam.state_dict().items():
        torch.testing.assert_close(state[key].to(value.dtype), value, rtol=1e-3, atol=1e-6)
    assert save_compact_weights(sam, path) == digest
