"""Options that say on how many devices a training computes, and how exactly."""

from dataclasses import replace
from typing import Annotated, TypeVar

import typer

from pipeline.training.options import Precision, RetrainOptions, WarmupOptions

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
