"""Ranks: what is refused, what they share; two real processes train in tests/stages/test_training_options.py."""

import pytest
import torch
from torch import nn

from pipeline.errors import PipelineError
from pipeline.training.ranks import Ranks, is_first_rank, launch, mean_over_ranks, share_buffers

CPU = torch.device("cpu")


class TwoRanks:
    """Stands for Fabric on the first of two ranks; the second has zeros everywhere."""

    world_size = 2

    def all_reduce(self, values, reduce_op):
        assert reduce_op == "mean"
        return values / 2


def test_one_process_is_its_own_first_rank():
    fabric = launch(CPU, Ranks(), precision="32-true", batch=3)
    assert (fabric.world_size, fabric.global_rank, fabric.device) == (1, 0, CPU)
    assert is_first_rank()
    values = torch.ones(2)
    assert mean_over_ranks(values, fabric) is values


@pytest.mark.parametrize(
    ("ranks", "batch", "message"),
    [
        (Ranks(2), 3, r"crops.batch: 3 crops cannot be divided among 2 processes \(--devices 2, --num-nodes 1\)"),
        (Ranks(2, 4), 4, "cannot be divided among 8 processes"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused_before_processes_start(ranks, batch, message):
    with pytest.raises(PipelineError, match=message):
        launch(CPU, ranks, precision="32-true", batch=batch)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:1", "cuda:1 is one GPU, but --devices 2 asks for more"),
        ("cuda", r"2 GPUs were asked for, but there are 1"),
    ],
)
def test_gpus_that_are_not_there_are_refused(monkeypatch, device, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(PipelineError, match=message):
        launch(torch.device(device), Ranks(2), precision="32-true", batch=2)


def test_figures_and_statistics_are_averaged():
    values = torch.tensor([2.0, 4.0])
    assert mean_over_ranks(values, TwoRanks()).tolist() == [1.0, 2.0]
    assert values.tolist() == [2.0, 4.0]
    net = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(3))
    net[0].running_mean.fill_(6.0)
    share_buffers(net, TwoRanks())
    assert net[0].running_mean.tolist() == [3.0, 3.0]
    assert net[1].running_var.tolist() == [0.5] * 3
    assert int(net[0].num_batches_tracked) == 0
    share_buffers(nn.Linear(1, 1), TwoRanks())
