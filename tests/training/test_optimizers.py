"""The optimisers: the orthogonalised step against a plain singular value decomposition, groups, states."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.training.optimizers import KERNEL_DECAY, KERNEL_RATE, AdamWithMuon, build_optimizer, orthogonalize
from pipeline.training.options import PhaseOptions
from pipeline.training.segment_options import SegmentPhaseOptions


@pytest.mark.parametrize("shape", [(16, 90), (90, 16), (24, 24)])
def test_singular_values_come_near_one_and_vectors_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    near = orthogonalize(matrix)
    values = torch.linalg.svdvals(near.double())
    assert 0.5 < values.min() <= values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    turned = u.T @ near.double() @ v.T
    assert (turned - torch.diag(turned.diagonal())).abs().max() < 0.05
    assert near.dtype == torch.float32


def test_zeros_stay_zeros():
    assert not orthogonalize(torch.zeros(8, 20)).any()


def net() -> nn.Module:
    torch.manual_seed(1)
    made = nn.ModuleDict({"encoder": nn.Conv2d(3, 16, 3), "head": nn.Conv2d(16, 8, 3)})
    for parameter in made.parameters():
        parameter.grad = torch.randn_like(parameter)
    return made


def test_first_layers_and_biases_are_adams():
    made = net()
    plain = copy.deepcopy(made)
    for ours, theirs in zip(made.parameters(), plain.parameters(), strict=True):
        theirs.grad = ours.grad.clone()
    options = PhaseOptions(learning_rate=1e-2, encoder_learning_rate=1e-3, optimizer="muon")
    build_optimizer(dict(made.items()), options).step()
    build_optimizer(dict(plain.items()), PhaseOptions(1, "adam", 1e-2, 1e-3)).step()
    for name in ("encoder.weight", "encoder.bias", "head.bias"):
        assert torch.equal(made.get_parameter(name), plain.get_parameter(name))
    assert not torch.allclose(made["head"].weight, plain["head"].weight)
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_a_kernel_moves_along_its_orthogonalised_momentum():
    made = net()
    kernel = made["head"].weight
    before, gradient = kernel.detach().double(), kernel.grad.double()
    rate = 1e-2 * KERNEL_RATE
    optimizer = AdamWithMuon([{"params": [kernel], "lr": 1e-2}], weight_decay=0.0)
    optimizer.step()
    moved = (before * (1 - KERNEL_DECAY * rate) - kernel.detach().double()).flatten(1) / rate
    u, _, v = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    assert (moved - u @ v).norm() / (u @ v).norm() < 0.35  # the iteration leaves singular values of 0.7 to 1.2
    assert torch.linalg.svdvals(moved).max() < 1.3


def test_a_restored_optimizer_goes_on_as_it_would_have():
    made, options = net(), PhaseOptions(optimizer="muon")
    first = build_optimizer(dict(made.items()), options)
    first.step()
    other = copy.deepcopy(made)
    for ours, theirs in zip(made.parameters(), other.parameters(), strict=True):
        theirs.grad = ours.grad.clone()
    second = build_optimizer(dict(other.items()), options)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    first.step()
    second.step()
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), other.parameters(), strict=True))


def test_layout_in_memory_does_not_matter():
    made = net()
    other = copy.deepcopy(made).to(memory_format=torch.channels_last)
    for ours, theirs in zip(made.parameters(), other.parameters(), strict=True):
        theirs.grad = ours.grad.to(memory_format=torch.channels_last) if ours.ndim == 4 else ours.grad.clone()
    for one in (made, other):
        build_optimizer(dict(one.items()), PhaseOptions(optimizer="muon")).step()
    torch.testing.assert_close(made["head"].weight, other["head"].weight.contiguous())


def test_groups_carry_their_full_rate():
    groups = build_optimizer(
        dict(net().items()), PhaseOptions(learning_rate=2.0, encoder_learning_rate=3.0)
    ).param_groups
    assert [group["full_lr"] for group in groups] == [3.0, 2.0]


def two_steps(options):
    """Move a weight of 1 twice along a gradient of 1; the rate is 0.1."""
    weight = nn.Parameter(torch.ones(()))
    part = nn.Module()
    part.weight = weight
    optimizer = build_optimizer({"head": part}, replace(options, learning_rate=0.1))
    places = []
    for _ in range(2):
        weight.grad = torch.ones(())
        optimizer.step()
        places.append(weight.item())
    return type(optimizer), places


@pytest.mark.parametrize(
    ("options", "kind", "places"),
    [
        (SegmentPhaseOptions(momentum=0.0, weight_decay=0.0), torch.optim.SGD, [0.9, 0.8]),
        (SegmentPhaseOptions(momentum=0.9, weight_decay=0.0), torch.optim.SGD, [0.9, 0.9 - 0.1 * 1.9]),
        (SegmentPhaseOptions(momentum=0.0, weight_decay=1.0), torch.optim.SGD, [0.8, 0.8 - 0.1 * 1.8]),
        (SegmentPhaseOptions(optimizer="adam", weight_decay=0.0), torch.optim.Adam, [0.9, 0.8]),
        (PhaseOptions(optimizer="adam", weight_decay=0.0), torch.optim.Adam, [0.9, 0.8]),
    ],
)
def test_the_optimiser_is_the_one_asked_for(options, kind, places):
    made, went = two_steps(options)
    assert made is kind
    assert went == pytest.approx(places, abs=1e-6)
