"""Options that say on how many devices a training computes, and how exactly; and where it stands."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from pipeline.compute.device import resolve_device
from pipeline.training.options import Precision, RetrainOptions, WarmupOptions
from pipeline.training.ranks import Ranks
from pipeline.training.run_place import RunPlace
from stages.paths import RunPaths

Options = TypeVar("Options", WarmupOptions, RetrainOptions)

DevicesOption = Annotated[
    int,
    typer.Option(
        "--devices",
        min=1,
        envvar="DOTMASK_DEVICES",
        help="GPUs, or processes on the CPU, of each machine; they share each batch.",
    ),
]
NumNodesOption = Annotated[
    int,
    typer.Option(
        "--num-nodes", min=1, envvar="DOTMASK_NUM_NODES", help="Machines; start the command on each, as torchrun does."
    ),
]
PrecisionOption = Annotated[
    Precision | None, typer.Option("--precision", help="In place of loop.precision of the parameter file.")
]


def with_precision(options: Options, precision: Precision | None) -> Options:
    """Give the options of a training with another precision, if one was asked for."""
    return options if precision is None else replace(options, loop=replace(options.loop, precision=precision))


def training_place(paths: RunPaths, out: Path, *, device: str, ranks: Ranks = Ranks(1, 1)) -> RunPlace:  # noqa: B008
    """Give the folders and the device of a training; all are named after its output.

    Args:
        paths: Of its run.
        out: Folder of its output.
        device: As the command's option has it.
        ranks: On how many devices and machines.

    Raises:
        PipelineError: If there is no such device.
    """
    return RunPlace(
        out=out,
        resume=paths.resume / out.name,
        log=paths.logs / f"{out.name}.jsonl",
        device=resolve_device(device),
        ranks=ranks,
    )
