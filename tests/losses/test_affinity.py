"""The affinity against the specification written plainly in float64: whole matrices, loops over pairs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.losses import affinity
from pipeline.losses.affinity import SharedMasks, affinity_losses, pool_masks, propagate


def matrix(embedding: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-(embedding.T @ embedding)))


def plain_loss(embedding: Tensor, masks: Tensor, known: Tensor) -> Tensor:
    same, other = [], []
    values = matrix(embedding)
    for i in range(len(known)):
        for j in range(len(known)):
            if not (known[i] and known[j]) or not (masks[:, i].any() or masks[:, j].any()):
                continue
            if any(bool(mask[i]) and bool(mask[j]) for mask in masks):
                same.append(1 - values[i, j])
            else:
                other.append(values[i, j])
    total = embedding.sum() * 0
    for part in (same, other):
        if part:
            total = total + 0.5 * torch.stack(part).mean()
    return total


def plain_propagate(embedding: Tensor, values: Tensor, beta: float) -> Tensor:
    powered = matrix(embedding) ** beta
    return (powered / powered.sum(1, keepdim=True)) @ values


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "ROWS", 5)  # several chunks, the last one smaller


def case(seed: int, n: int, n_masks: int) -> tuple[Tensor, SharedMasks, SharedMasks]:
    rng = np.random.default_rng(seed)
    embedding = torch.from_numpy(rng.normal(0, 1, (3, n)))
    targets = [
        SharedMasks(torch.from_numpy(rng.random((n_masks, n)) < 0.3), torch.from_numpy(rng.random(n) < 0.8))
        for _ in range(2)
    ]
    return embedding, targets[0], targets[1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 13), st.integers(0, 4))
def test_the_loss_is_the_plain_one_and_so_is_its_gradient(seed: int, n: int, n_masks: int) -> None:
    embedding, *targets = case(seed, n, n_masks)
    ours, plain = embedding.clone().requires_grad_(), embedding.clone().requires_grad_()
    found = affinity_losses(ours, targets)
    wanted = torch.stack([plain_loss(plain, *target) for target in targets])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    weights = torch.tensor([0.3, 1.7], dtype=torch.float64)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-8, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 13), st.sampled_from([0.5, 1.0, 4.0]))
def test_propagation_is_the_plain_one_and_so_are_its_gradients(seed: int, n: int, beta: float) -> None:
    embedding, _, _ = case(seed, n, 1)
    values = torch.from_numpy(np.random.default_rng(seed).random((n, 4)))
    pull = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(n, 4)))
    ours, plain = ([one.clone().requires_grad_() for one in (embedding, values)] for _ in range(2))
    found, wanted = propagate(*ours, beta), plain_propagate(*plain, beta)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    (found * pull).sum().backward()
    (wanted * pull).sum().backward()
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-12)


def test_single_precision_stays_near() -> None:
    embedding, *targets = case(3, 40, 5)
    single = embedding.float().requires_grad_()
    found = affinity_losses(single, targets)
    wanted = torch.stack([plain_loss(embedding, *target) for target in targets])
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)


def test_rows_of_the_normalised_affinity_sum_to_one() -> None:
    embedding = case(0, 23, 1)[0] * 9  # affinities from nearly 0 to nearly 1
    ones = torch.ones(23, 1, dtype=torch.float64)
    for beta in (1.0, 4.0, 100.0):
        torch.testing.assert_close(propagate(embedding, ones, beta), ones)


def test_with_the_identity_nothing_moves() -> None:
    """σ is never 0, so the identity is approached: far apart are −∞, each with itself 0."""
    n = 6
    embedding = torch.eye(n, dtype=torch.float64) * 60 - 60 / n  # 60² (δ − 1/n): negative off the diagonal
    values = torch.rand(n, 3, dtype=torch.float64)
    torch.testing.assert_close(propagate(embedding, values, 4.0), values)


def test_literal_values() -> None:
    embedding = torch.tensor([[0.0, 0.0, 0.0]])  # A is ½ everywhere
    masks = SharedMasks(torch.tensor([[True, True, False]]), torch.tensor([True, True, True]))
    assert affinity_losses(embedding, [masks]).tolist() == [0.5]
    only_same = SharedMasks(torch.tensor([[True, True, True]]), torch.tensor([True, True, True]))
    assert affinity_losses(embedding, [only_same]).tolist() == [0.25]
    nothing = SharedMasks(torch.zeros(0, 3, dtype=torch.bool), torch.tensor([True, True, True]))
    assert affinity_losses(embedding, [nothing]).tolist() == [0.0]
    values = torch.tensor([[1.0], [0.0], [0.5]])
    assert propagate(embedding, values, 4.0).tolist() == [[0.5], [0.5], [0.5]]


def test_masks_are_max_pooled_and_unknown_pixels_are_no_background() -> None:
    labels = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0], [0, 3, 0, 0]])
    unknown = torch.zeros(4, 4, dtype=torch.bool)
    unknown[2:, 2:] = True
    unknown[3, 1] = True  # the third mask is not known, its cell is
    pooled = pool_masks(labels, 3, 2, unknown)
    assert pooled.masks.tolist() == [[True, False, False, False], [False, True, False, False], [False] * 4]
    assert pooled.known.tolist() == [True, True, True, False]


def test_two_masks_share_a_cell() -> None:
    labels = torch.tensor([[1, 2]])
    pooled = pool_masks(torch.cat([labels, labels]), 2, 2, torch.zeros(2, 2, dtype=torch.bool))
    assert pooled.masks.tolist() == [[True], [True]]
