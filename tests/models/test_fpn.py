import pytest
import torch

from pipeline.models.fpn import Fpn


@pytest.mark.parametrize("size_hw", [(64, 64), (32, 96)])
def test_levels_have_one_width_and_strides_4_to_64(size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    maps = [torch.rand(2, c, height // s, width // s) for c, s in ((3, 4), (5, 8), (7, 16), (9, 32))]
    levels = Fpn((3, 5, 7, 9), 8)(maps)
    assert [tuple(level.shape[:2]) for level in levels] == [(2, 8)] * 5
    assert [tuple(level.shape[2:]) for level in levels[:4]] == [tuple(one.shape[2:]) for one in maps]
    assert tuple(levels[4].shape[2:]) == (-(-height // 64), -(-width // 64))


def test_what_is_coarse_reaches_the_finest_level_and_not_the_other_way() -> None:
    fpn = Fpn((3, 5, 7, 9), 8)
    maps = [torch.rand(1, c, 64 // s, 64 // s) for c, s in ((3, 4), (5, 8), (7, 16), (9, 32))]
    before = fpn(maps)
    coarse = fpn([*maps[:3], maps[3] + 1.0])
    assert not any(torch.equal(one, other) for one, other in zip(before, coarse, strict=True))
    fine = fpn([maps[0] + 1.0, *maps[1:]])
    assert not torch.equal(before[0], fine[0])
    assert all(torch.equal(one, other) for one, other in zip(before[1:], fine[1:], strict=True))


def test_identity_convolutions_add_the_repeated_coarse_map() -> None:
    fpn = Fpn((1, 1), 1)
    with torch.no_grad():
        for conv in (*fpn.lateral, *fpn.smooth):
            conv.weight.zero_()
            conv.weight[0, 0, conv.weight.shape[2] // 2, conv.weight.shape[3] // 2] = 1.0
            conv.bias.zero_()
    fine, coarse = torch.arange(16.0).view(1, 1, 4, 4), torch.tensor([[[[100.0, 200.0], [300.0, 400.0]]]])
    levels = fpn([fine, coarse])
    assert torch.equal(levels[0], fine + coarse.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(levels[1], coarse)
    assert torch.equal(levels[2], coarse[..., :1, :1])
