import pytest
import torch

from pipeline.models.mutual_distillation import (
    START_SCALE,
    MutualDistillationOptions,
    build_mutual_distillation,
)


@pytest.mark.parametrize(("stride", "cells"), [(4, (16, 24)), (8, (8, 12))])
def test_shapes_and_the_embedding_is_scaled_unit_vectors(stride: int, cells: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = build_mutual_distillation(MutualDistillationOptions(affinity_stride=stride, affinity_dim=6), n_classes=3)
    out = net(torch.rand(2, 3, 64, 96))
    assert out.class_logits.shape == (2, 4, 16, 24)
    assert out.offsets.shape == (2, 2, 16, 24)
    assert out.embedding.shape == (2, 6, *cells)
    torch.testing.assert_close(out.embedding.square().sum(1), torch.full((2, *cells), START_SCALE))


def test_the_scale_learns_and_so_does_every_head() -> None:
    net = build_mutual_distillation(MutualDistillationOptions(), n_classes=1)
    out = net(torch.rand(1, 3, 32, 32))
    (out.class_logits.sum() + out.offsets.sum() + out.embedding.square().sum()).backward()
    assert float(net.affinity_head.log_scale.grad) == pytest.approx(START_SCALE * 16)
    assert all(parameter.grad is not None for head in (net.class_head, net.offset_head, net.affinity_head)
               for parameter in head.parameters())  # fmt: skip


def test_a_network_of_timm() -> None:
    options = MutualDistillationOptions(backbone="resnet10t", width=8, affinity_dim=4)
    assert build_mutual_distillation(options, 2).eval()(torch.rand(1, 3, 32, 64)).class_logits.shape == (1, 3, 8, 16)


def test_odd_sides_are_refused() -> None:
    net = build_mutual_distillation(MutualDistillationOptions(), n_classes=1)
    with pytest.raises(ValueError, match="multiples of 32, got 40×32"):
        net(torch.rand(1, 3, 40, 32))


@pytest.mark.parametrize("given", [{"width": 0}, {"affinity_dim": 0}, {"affinity_stride": 16}])
def test_impossible_sizes_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        MutualDistillationOptions(**given)
