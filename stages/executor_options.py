"""Options that say where a stage computes, and what they come to."""

import os
from typing import Annotated, Literal

import torch
import typer

from pipeline.compute.device import resolve_device
from pipeline.compute.executors import Executor, LocalExecutor
from pipeline.compute.executors_ray import RayExecutor

ExecutorOption = Annotated[
    Literal["local", "ray"], typer.Option("--executor", help="local: this machine; ray: a Ray cluster (extra 'ray').")
]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=0, help="Processes or actors; 0: one a core, on a GPU one.")
]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="Of a running Ray cluster, such as auto or ray://host:10001.")
]
PrecisionOption = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option("--precision", help="auto: bfloat16 on a GPU, else float32.")
]


def choose_executor(name: str, *, device: str, workers: int, address: str | None) -> tuple[torch.device, Executor]:
    """Give the device of each worker, and the executor that runs them.

    Raises:
        PipelineError: If this machine has no such device; a Ray cluster's GPUs need not be this machine's.
    """
    on_cluster = name == "ray" and device.startswith("cuda")
    target = torch.device(device) if on_cluster else resolve_device(device)
    count = workers or (1 if target.type == "cuda" else os.cpu_count() or 1)
    if name == "ray":
        return target, RayExecutor(count, address, gpus_per_worker=float(target.type == "cuda"))
    return target, LocalExecutor(count)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Tell whether networks compute in bfloat16: if asked for, or by default on a GPU."""
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
