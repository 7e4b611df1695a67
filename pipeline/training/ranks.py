"""Ranks of a distributed training: how many processes there are, and what they share."""

from dataclasses import dataclass

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.training.options import Precision


@dataclass(frozen=True)
class Ranks:
    """How many processes train together; the result hardly depends on it, since they share one batch.

    Args:
        devices: Processes on each machine: one for each GPU, or so many on the CPU.
        num_nodes: Machines. With more than one, start the command on each, with the variables that ``torchrun`` sets.
    """

    devices: int = 1
    num_nodes: int = 1

    @property
    def count(self) -> int:
        """Processes in all."""
        return self.devices * self.num_nodes


def is_first_rank() -> bool:
    """Whether this process is the first of its training, or its only one; known before the others are started."""
    return not getattr(rank_zero_only, "rank", 0)


def launch(device: torch.device, ranks: Ranks, *, precision: Precision, batch: int) -> Fabric:
    """Start the other processes of a training, which run this same command, and join them.

    Args:
        device: ``cpu``, ``cuda``, or one GPU.
        ranks: How many.
        precision: Precision of Fabric.
        batch: Crops in a batch, which the ranks divide among them.

    Returns:
        Fabric, launched; its ``device`` is this rank's.

    Raises:
        PipelineError: If there are not so many GPUs, or the batch cannot be divided.
    """
    if batch % ranks.count:
        raise PipelineError(
            f"crops.batch: {batch} crops cannot be divided among {ranks.count} processes (--devices {ranks.devices}, "
            f"--num-nodes {ranks.num_nodes}); give a multiple of {ranks.count}, or other --devices"
        )
    on_cpu = device.type == "cpu"
    accelerator = "cpu" if on_cpu else "cuda"
    devices: int | list[int] = ranks.devices if on_cpu else _gpus(device, ranks.devices)
    if ranks.count == 1:
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision)
    else:
        # Buffers are averaged after each step instead, so that every rank's teacher has them too.
        strategy = DDPStrategy(forward_sync_buffers=False)
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=ranks.num_nodes,
            precision=precision,
            strategy=strategy,
        )
    fabric.launch()
    return fabric


def _gpus(device: torch.device, count: int) -> list[int]:
    there = torch.cuda.device_count()
    if count == 1:
        return [device.index or 0]
    if device.index:
        raise PipelineError(f"device: {device} is one GPU, but --devices {count} asks for more; pass --device cuda")
    if count > there:
        raise PipelineError(f"--devices: {count} GPUs were asked for, but there are {there}; pass at most {there}")
    return list(range(count))


def mean_over_ranks(values: Tensor, fabric: Fabric) -> Tensor:
    """Average figures over the ranks; every rank gets the same."""
    if fabric.world_size == 1:
        return values
    shared = fabric.all_reduce(values.clone(), reduce_op="mean")
    assert isinstance(shared, Tensor)
    return shared


@torch.no_grad()
def share_buffers(net: nn.Module, fabric: Fabric) -> None:
    """Average the floating point buffers, batch norm's statistics, over the ranks."""
    if fabric.world_size == 1:
        return
    buffers = [buffer for buffer in net.buffers() if buffer.is_floating_point()]
    if buffers:
        shared = mean_over_ranks(torch.cat([buffer.flatten() for buffer in buffers]), fabric)
        for buffer, part in zip(buffers, torch.split(shared, [buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(part.view_as(buffer))
