import pytest
import torch
from torch import nn

from pipeline.models.compact_sam import build_compact_sam
from pipeline.training.muon import KernelMuon, split_kernels


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, bias=False), nn.Conv2d(12, 2, 1), nn.Linear(2, 9))


def test_hidden_kernels_alone_go_to_muon() -> None:
    network = make()
    kernels, others = split_kernels(network)
    assert [tuple(value.shape) for value in kernels] == [(12, 8, 3, 3)]
    assert len(others) == len(list(network.parameters())) - 1
    sam = build_compact_sam()
    kernels, others = split_kernels(sam)
    assert {id(value) for value in kernels} | {id(value) for value in others} == {
        id(value) for value in sam.parameters()
    }
    ends = {sam.image_encoder.stem[0].weight, sam.image_encoder.layout.weight, sam.mask_decoder.masks.weight}
    assert not ends & set(kernels)


def test_a_step_is_orthogonal_and_in_place() -> None:
    network = make()
    kernel = network[1].weight
    before, place = kernel.detach().clone(), kernel.data_ptr()
    optimizer = KernelMuon([kernel], lr=0.5, weight_decay=0.0)
    network[1](torch.randn(2, 8, 6, 6)).square().sum().backward()
    optimizer.step()
    assert kernel.data_ptr() == place
    singular = torch.linalg.svdvals((before - kernel.detach()).flatten(1) / 0.5)
    assert ((singular > 0.6) & (singular < 1.3)).all()  # five Newton-Schulz steps come about so near to one
    descends = (kernel.grad * (before - kernel.detach())).sum()
    assert descends > 0


def test_a_kernel_without_gradient_stays() -> None:
    kernel = make()[1].weight
    before = kernel.detach().clone()
    KernelMuon([kernel], lr=0.5, weight_decay=0.1).step()
    assert torch.equal(kernel, before)


def test_the_state_comes_back() -> None:
    kernels = [make()[1].weight for _ in range(2)]
    optimizers = [KernelMuon([kernel], lr=0.1, weight_decay=0.01) for kernel in kernels]
    gradients = torch.randn(4, *kernels[0].shape)

    def step(which: int, number: int) -> None:
        kernels[which].grad = gradients[number].clone()
        optimizers[which].step()

    for number in range(4):
        step(0, number)
    for number in range(2):
        step(1, number)
    saved = optimizers[1].state_dict()
    optimizers[1] = KernelMuon([kernels[1]], lr=0.3, weight_decay=0.5)
    optimizers[1].load_state_dict(saved)
    for number in range(2, 4):
        step(1, number)
    assert torch.equal(*kernels)
    with pytest.raises(ValueError, match="rate"):
        KernelMuon(kernels, lr=-1.0)
