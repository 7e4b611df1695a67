import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.losses.mask_constraint import labels_hit, mask_constraint, mask_constraint_loss

H, W = 12, 16


def oracle(
    logits: Tensor, labels: np.ndarray, valid: list[list[int]] | None = None, cut_out: np.ndarray | None = None
) -> tuple[float, float]:
    """L_fg and L_bg as the spec says them, one pixel at a time, in float64."""
    foreground, background = [], []
    for b in range(len(logits)):
        z = logits[b].detach().double().numpy()
        height, width = labels[b].shape
        u = np.zeros((height, width))
        for y in range(height):
            for x in range(width):
                v = min(max((y + 0.5) * z.shape[0] / height - 0.5, 0), z.shape[0] - 1)
                t = min(max((x + 0.5) * z.shape[1] / width - 0.5, 0), z.shape[1] - 1)
                i, j = int(v), int(t)
                i1, j1, a, c = min(i + 1, z.shape[0] - 1), min(j + 1, z.shape[1] - 1), v - i, t - j
                u[y, x] = (z[i, j] * (1 - c) + z[i, j1] * c) * (1 - a) + (z[i1, j] * (1 - c) + z[i1, j1] * c) * a
        fine = np.maximum(u, 0).sum()
        k = np.maximum(z, 0).sum() / fine if fine > 0 else 0.0
        terms = []
        for label in sorted(set(labels[b].ravel().tolist()) - {0}):
            pixels = labels[b] == label
            hidden = cut_out is not None and bool((cut_out[b] & pixels).any())
            if (valid is None or label in valid[b]) and not hidden:
                terms.append(abs(np.maximum(k * u[pixels], 0).sum() - 1))
        foreground.append(float(np.mean(terms)) if terms else 0.0)
        outside = labels[b] == 0
        if cut_out is not None:
            outside &= ~cut_out[b]
        background.append(float(np.maximum(u[outside], 0).mean()) if outside.any() else 0.0)
    return float(np.mean(foreground)), float(np.mean(background))


def random_logits(b: int, seed: int) -> Tensor:
    return torch.randn(b, H // 4, W // 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_labels(b: int, seed: int, kinds: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, kinds, (b, H // 2, W // 2))
    return coarse.repeat(2, axis=1).repeat(2, axis=2).astype(np.int32)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 999),
    kinds=st.sampled_from([1, 2, 4, 40]),
    shift=st.sampled_from([-9.0, 0.0, 9.0]),
    valid=st.none() | st.lists(st.integers(0, 50), max_size=5),
    cut=st.booleans(),
)
def test_equals_the_plain_form(seed: int, kinds: int, shift: float, valid: list[int] | None, cut: bool) -> None:
    logits, labels = random_logits(2, seed) + shift, random_labels(2, seed, kinds)
    cut_out = np.zeros((2, H, W), bool)
    cut_out[:, 3:5, 2:7] = cut
    chosen = None if valid is None else [valid, [1, 3]]
    terms = mask_constraint(
        logits,
        torch.from_numpy(labels),
        valid_labels=None if chosen is None else [torch.tensor(kept, dtype=torch.int64) for kept in chosen],
        cut_out=torch.from_numpy(cut_out),
    )
    foreground, background = oracle(logits, labels, chosen, cut_out)
    assert float(terms.foreground) == pytest.approx(foreground, rel=1e-9, abs=1e-12)
    assert float(terms.background) == pytest.approx(background, rel=1e-9, abs=1e-12)


def test_literal_values() -> None:
    logits = torch.full((1, 2, 2), 3.0, dtype=torch.float64)
    labels = torch.zeros(1, 8, 8, dtype=torch.int32)
    labels[0, :4] = 5
    # k = 12 / (64 · 3) = 1/16, so the instance holds 32 · 3 / 16 = 6.
    terms = mask_constraint(logits, labels)
    assert float(terms.foreground) == pytest.approx(5.0)
    assert float(terms.background) == pytest.approx(3.0)
    assert float(terms.positives_error) == pytest.approx(1.0)
    assert not terms.positives_error.requires_grad
    assert float(mask_constraint_loss(logits, labels, w_fg=0.01, w_bg=0.1)) == pytest.approx(0.35)
    nothing = mask_constraint(-logits, labels)
    assert (float(nothing.foreground), float(nothing.background), float(nothing.positives_error)) == (1.0, 0.0, 1.0)


def test_literal_magnification_of_a_head_of_one_cell() -> None:
    # The peak's four middle pixels hold (7/8)²·2 − (15/64)·5 = 0.359375, all others are negative; k = 2 / 1.4375.
    logits = torch.full((1, 8, 8), -5.0, dtype=torch.float64)
    logits[0, 4, 4] = 2.0
    labels = torch.ones(1, 32, 32, dtype=torch.int32)
    assert float(mask_constraint(logits, labels).foreground) == pytest.approx(2.0 - 1.0)
    labels[0, :, 18:] = 2  # half of these pixels
    assert float(mask_constraint(logits, labels).foreground) == pytest.approx(0.0)


PLACES = {
    "none": [],
    "one": [(5, 5)],
    "on the border": [(0, 0), (H - 1, W - 1), (0, W - 1), (H - 1, 0)],
    "all in one cell": [(4 + k // 4, 8 + k % 4) for k in range(16)],
}


@pytest.mark.parametrize("pixels", PLACES.values(), ids=PLACES)
def test_instances_of_one_pixel(pixels: list[tuple[int, int]]) -> None:
    labels = np.zeros((1, H, W), np.int32)
    for k, (y, x) in enumerate(pixels):
        labels[0, y, x] = 3 * k + 2
    logits = random_logits(1, 3) + 1.0
    terms = mask_constraint(logits, torch.from_numpy(labels))
    assert (float(terms.foreground), float(terms.background)) == pytest.approx(oracle(logits, labels), rel=1e-9)


def test_three_thousand_instances_whatever_their_order() -> None:
    rng = np.random.default_rng(2)
    labels = rng.permutation(56 * 56).reshape(1, 56, 56).repeat(2, axis=1).repeat(2, axis=2).astype(np.int32)
    logits = torch.randn(1, 28, 28, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    terms = mask_constraint(logits, torch.from_numpy(labels))
    assert (float(terms.foreground), float(terms.background)) == pytest.approx(oracle(logits, labels), rel=1e-9)
    other = np.concatenate([[0], 1 + rng.permutation(56 * 56)]).astype(np.int32)[labels]
    for one, same in zip(mask_constraint(logits, torch.from_numpy(other)), terms, strict=True):
        assert float(one) == pytest.approx(float(same), rel=1e-12)


def test_valid_labels_may_repeat() -> None:
    logits, labels = random_logits(1, 4), torch.from_numpy(random_labels(1, 4, 4))
    once, twice = (mask_constraint(logits, labels, valid_labels=[torch.tensor(kept)]) for kept in ([1, 3], [3, 1, 3]))
    assert twice == once


def test_valid_instances_only_and_their_neighbours_are_no_background() -> None:
    logits = torch.full((1, 2, 2), 3.0)
    labels = torch.full((1, 8, 8), 2, dtype=torch.int64)
    terms = mask_constraint(logits, labels, valid_labels=[torch.tensor([7])])
    assert (float(terms.foreground), float(terms.background), float(terms.positives_error)) == (0.0, 0.0, 0.0)


def test_gradient() -> None:
    labels = torch.from_numpy(random_labels(2, 1, 4))
    logits = random_logits(2, 1).requires_grad_()
    scale = mask_constraint(logits, labels)
    assert torch.autograd.gradcheck(lambda z: mask_constraint(z, labels).background, (logits,))
    scale.foreground.backward()
    assert logits.grad is not None
    # k is detached, so L_fg is linear between kinks along the held k: compare with differences of that form.
    z = logits.detach()
    k = [torch.relu(a).sum() / torch.relu(b).sum() for a, b in zip(z, upsample(z), strict=True)]
    held = logits.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: foreground_at(z, labels, k), (held,))
    foreground_at(held, labels, k).backward()
    torch.testing.assert_close(logits.grad, held.grad)


def upsample(logits: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(logits[:, None], size=(H, W), mode="bilinear", align_corners=False)[:, 0]


def foreground_at(logits: Tensor, labels: Tensor, k: list[Tensor]) -> Tensor:
    images = []
    for u, label_map, factor in zip(upsample(logits), labels, k, strict=True):
        kinds = [value for value in label_map.unique().tolist() if value]
        images.append(torch.stack([(torch.relu(factor * u)[label_map == v].sum() - 1).abs() for v in kinds]).mean())
    return torch.stack(images).mean()


def test_no_positive_logit_gives_a_finite_gradient() -> None:
    logits = torch.full((1, 3, 4), -2.0, requires_grad=True)
    mask_constraint_loss(logits, torch.from_numpy(random_labels(1, 1, 4)), w_fg=1.0, w_bg=1.0).backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().sum()) == 0.0


def test_labels_hit() -> None:
    label_map = torch.zeros(4, 6, dtype=torch.int32)
    label_map[0, 0], label_map[3, 5], label_map[1, 2] = 4, 2, 9
    points = torch.tensor([[0.4, 0.4], [5.4, 3.4], [5.5, 3.0], [-0.6, 0.0], [3.0, 3.0]], dtype=torch.float64)
    assert labels_hit(label_map, points).tolist() == [2, 4]
    assert labels_hit(label_map, torch.zeros(0, 2)).tolist() == []


def test_gradient_is_bounded_where_a_positive_cell_almost_vanishes() -> None:
    logits = torch.full((1, 8, 8), -6.533)  # u is at most 8e-5, so that k would be 6,400
    logits[0, 4, 4] = 2.0
    logits.requires_grad_()
    mask_constraint(logits, torch.ones(1, 32, 32, dtype=torch.long)).foreground.backward()
    assert logits.grad is not None
    assert 100 < float(logits.grad.abs().max()) < 400


def test_a_positive_cell_that_vanishes_when_upsampled_gives_a_finite_gradient() -> None:
    logits = torch.full((1, 8, 8), -100.0)
    logits[0, 4, 4] = 5.0
    logits.requires_grad_()
    mask_constraint_loss(logits, torch.ones(1, 32, 32, dtype=torch.long)).backward()
    assert torch.isfinite(logits.grad).all()
