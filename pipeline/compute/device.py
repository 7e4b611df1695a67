"""Which device a run computes on, and with how many threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import PipelineError


def resolve_device(name: str) -> torch.device:
    """Turn the ``--device`` option into a device that is there.

    Args:
        name: ``auto`` (the first CUDA device, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        PipelineError: If the name is none of these, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, colon, number = name.partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise PipelineError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}; pass one of these as --device")
    if not torch.cuda.is_available():
        raise PipelineError(
            f"device: {name!r} was asked for, but PyTorch {torch.__version__} finds no CUDA device here; "
            "pass --device cpu, or install a driver and a PyTorch build that fit each other"
        )
    index, count = int(number or 0), torch.cuda.device_count()
    if index >= count:
        raise PipelineError(
            f"device: {name!r} was asked for, but there are {count} CUDA devices; pass cuda:0 … cuda:{count - 1}"
        )
    return torch.device("cuda", index)


@contextmanager
def one_thread_per_operation() -> Iterator[None]:
    """Let PyTorch compute each operation in one thread: sums then come in one order, whatever runs beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
