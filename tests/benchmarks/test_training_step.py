import pytest
import torch

from benchmarks.training_step import PHASES, Cut, crowd_batch, one_core_rows, random_crowd
from pipeline.models.crowd_net import CrowdNetOptions, build_crowd_net, count_points

SMALL = CrowdNetOptions(width=8, mask_width=8, embed_dim=4)


def test_the_crowd_is_one_that_a_trained_net_would_see() -> None:
    crowd = random_crowd(12, side_px=64)
    assert count_points(crowd.logits).points_xy.tolist() == crowd.points_xy.tolist()
    assert set(crowd.label_map.unique().tolist()) == set(range(13))
    batch = crowd_batch(crowd, 2)
    assert batch.unlabeled is not None
    assert batch.labeled.images.shape == batch.unlabeled.strong.shape == (2, 3, 64, 64)
    assert 0 < float(batch.unlabeled.cut_out.float().mean()) < 0.2


def test_gradients_of_a_cut_net_are_those_of_the_net() -> None:
    torch.manual_seed(0)
    net = build_crowd_net(SMALL).eval()
    images, goal = torch.randn(1, 3, 32, 32), torch.randn(1, 4, 8, 8)
    cut = Cut(net, torch.zeros(8, 8))
    answer = cut(images)
    assert not answer.logits.any()
    ((answer.embedding - goal).square().sum()).backward()
    assert all(weight.grad is None for weight in net.parameters())
    cut.backward()
    found = [None if weight.grad is None else weight.grad.clone() for weight in net.parameters()]
    net.zero_grad(set_to_none=True)
    ((net(images).embedding - goal).square().sum()).backward()
    for one, weight in zip(found, net.parameters(), strict=True):
        assert (one is None) == (weight.grad is None)
        if one is not None:
            torch.testing.assert_close(one, weight.grad)
    assert cut.forward_s > 0


def test_a_small_run_gives_a_row_for_every_phase() -> None:
    rows = one_core_rows(0.0625, {"small net": (SMALL, 1, 1)})
    assert len(rows) == len(PHASES) == 3
    for row, phase in zip(rows, PHASES, strict=True):
        assert row.what == f"losses and pseudo-labels, {phase} phase"
        assert row.work == "small net, 1 + 1 crops of 64², 9 heads in each, one core"
        assert row.theirs > row.ours > 0
        assert row.met == (row.ratio <= 0.25)


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_trains_parts_of_the_net(phase: str) -> None:
    assert set(PHASES[phase][0]) < {name for name, _ in build_crowd_net(SMALL).named_children()}
