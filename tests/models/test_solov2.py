import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

from pipeline.models.network_input import normalize_image
from pipeline.models.solov2 import (
    TEACHER_GRIDS,
    MaskBranch,
    SoloOutput,
    Solov2Options,
    append_coordinates,
    build_solov2,
    group_count,
)

TINY = Solov2Options(fpn_width=8, tower_width=8, tower_depth=1, kernel_dim=6, mask_width=8, grids=(5, 4, 3, 2, 1))


@pytest.mark.parametrize("size_hw", [(64, 64), (32, 96)])
def test_every_level_has_its_grid_whatever_the_input(size_hw: tuple[int, int]) -> None:
    output = build_solov2(TINY, 3).eval()(torch.rand(2, 3, *size_hw))
    assert [tuple(level.shape) for level in output.class_logits] == [(2, 3, s, s) for s in TINY.grids]
    assert [tuple(level.shape) for level in output.kernels] == [(2, 6, s, s) for s in TINY.grids]
    assert output.mask_features.shape == (2, 6, size_hw[0] // 4, size_hw[1] // 4)
    assert (output.grids, output.n_classes) == (TINY.grids, 3)


def test_the_default_network_is_small() -> None:
    count = sum(p.numel() for p in build_solov2(Solov2Options(), 3).parameters())
    assert 250_000 < count < 350_000


def test_the_published_network_has_the_published_parts() -> None:
    options = Solov2Options("resnet18", False, 256, 512, 4, 256, 128, TEACHER_GRIDS)  # for the time, not resnet101
    network = build_solov2(options, 80)
    convs = [[m for m in part.modules() if isinstance(m, nn.Conv2d)] for part in (
        network.class_tower, network.kernel_tower
    )]  # fmt: skip
    assert [[c.in_channels for c in tower] for tower in convs] == [[256, 512, 512, 512], [258, 512, 512, 512]]
    norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm)]
    assert {m.num_groups for m in norms} == {32}
    assert [sum(isinstance(m, nn.Upsample) for m in rise) for rise in network.mask_branch.rise] == [0, 1, 2, 3]
    assert [rise[0].in_channels for rise in network.mask_branch.rise] == [256, 256, 256, 258]
    heads = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("encoder"))
    assert 20e6 < heads < 25e6


def test_every_class_starts_at_the_prior() -> None:
    torch.manual_seed(0)
    options = Solov2Options(fpn_width=8, tower_width=8, kernel_dim=6, mask_width=8, prior_prob=0.3)
    with torch.no_grad():
        output = build_solov2(options, 4)(torch.rand(1, 3, 64, 64))
    prob = torch.cat([level.flatten() for level in output.class_logits]).sigmoid()
    assert float(prob.mean()) == pytest.approx(0.3, rel=0.1)
    assert float(prob.max()) < 0.45


def test_images_are_normalised_inside() -> None:
    network = build_solov2(TINY, 2).eval()
    seen = []
    network.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.rand(1, 3, 32, 32)
    network(images)
    torch.testing.assert_close(seen[0], normalize_image(images))


def test_a_level_reads_its_own_map() -> None:
    network = build_solov2(TINY, 2)
    levels = [torch.full((1, 8, s, s), float(k)) for k, s in enumerate((16, 8, 4, 2, 1))]
    found = network._level_maps(levels)
    assert [(tuple(one.shape[2:]), float(one.mean())) for one in found] == [
        ((8, 8), 0.0), ((8, 8), 1.0), ((4, 4), 2.0), ((2, 2), 3.0), ((2, 2), 4.0)
    ]  # fmt: skip
    half = network._level_maps([torch.arange(16.0).view(1, 1, 4, 4), *levels[1:]])[0]
    assert half.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


def test_coordinates_are_those_of_the_cells_centres() -> None:
    added = append_coordinates(torch.zeros(2, 1, 2, 4))
    assert added.shape == (2, 3, 2, 4)
    assert added[1, 1].tolist() == [[-0.75, -0.25, 0.25, 0.75]] * 2
    assert added[1, 2].tolist() == [[-0.5] * 4, [0.5] * 4]


def test_kernels_know_where_they_are_and_classes_do_not() -> None:
    torch.manual_seed(1)
    network = build_solov2(TINY, 2).eval()
    cells = torch.ones(1, 8, 9, 9)
    inside = (..., slice(2, -2), slice(2, -2))  # farther than two convolutions reach from the border
    classes = network.class_head(network.class_tower(cells))[inside].flatten(2).detach()
    kernels = network.kernel_head(network.kernel_tower(append_coordinates(cells)))[inside].flatten(2).detach()
    assert float(classes.std(dim=2).max()) < 1e-6
    assert float(kernels.std(dim=2).min()) > 1e-4


def test_every_weight_learns() -> None:
    torch.manual_seed(0)
    network = build_solov2(TINY, 3)
    output = network(torch.rand(2, 3, 64, 64))
    sum(
        (level.square().sum() for level in (*output.class_logits, *output.kernels)), output.mask_features.sum()
    ).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_mask_features_add_all_levels_up() -> None:
    branch = MaskBranch(4, 8, 5).eval()
    levels = [torch.rand(1, 4, s, s) for s in (16, 8, 4, 2)]
    before = branch(levels)
    assert before.shape == (1, 5, 16, 16)
    for k in range(4):
        changed = [level + 1.5 * torch.rand_like(level) if i == k else level for i, level in enumerate(levels)]
        assert not torch.allclose(branch(changed), before)


@pytest.mark.parametrize(
    ("width", "groups"), [(512, 32), (256, 32), (128, 32), (64, 16), (32, 8), (36, 9), (30, 6), (7, 1), (1, 1)]
)
def test_groups_divide_the_width(width: int, groups: int) -> None:
    assert group_count(width) == groups


def test_one_image_of_a_batch() -> None:
    output = build_solov2(TINY, 2).eval()(torch.rand(3, 3, 32, 32))
    one = output.image(1)
    assert torch.equal(one.mask_features, output.mask_features[1:2])
    assert all(torch.equal(a, b[1:2]) for a, b in zip(one.kernels, output.kernels, strict=True))
    assert all(torch.equal(a, b[1:2]) for a, b in zip(one.class_logits, output.class_logits, strict=True))
    assert output.mask_features.requires_grad
    assert not any(t.requires_grad for t in (*one.detach().kernels, one.detach().mask_features))


def test_fabric_passes_the_output_on() -> None:
    network = build_solov2(TINY, 2)
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    wrapped = fabric.setup_module(network)
    output = wrapped(torch.rand(1, 3, 32, 32))
    assert isinstance(output, SoloOutput)
    assert output.kernels[0].dtype == torch.float32


@pytest.mark.parametrize("size_hw", [(48, 64), (64, 33), (0, 32)])
def test_sizes_that_do_not_fit_are_refused(size_hw: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"multiples of 32, got {size_hw[0]}×{size_hw[1]}; pad"):
        build_solov2(TINY, 2)(torch.zeros(1, 3, *size_hw))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fpn_width": 0}, "fpn_width: expected at least 1 channel, got 0"),
        ({"tower_depth": 0}, "tower_depth: expected at least 1"),
        ({"grids": (4, 3)}, r"grids: expected 5 numbers .* got \(4, 3\)"),
        ({"grids": (4, 3, 2, 1, 0)}, "grids: expected 5 numbers of at least 1"),
        ({"prior_prob": 1.0}, "prior_prob: expected a probability strictly between"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Solov2Options(**changes)


def test_a_network_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="n_classes: expected at least 1, got 0"):
        build_solov2(TINY, 0)
