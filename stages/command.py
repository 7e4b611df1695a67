"""What every stage's command shares: options with their help, one way to fail, one way to print."""

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console

from pipeline.errors import PipelineError

P = ParamSpec("P")
R = TypeVar("R")

console = Console()
error_console = Console(stderr=True)

DatasetOption = Annotated[
    str, typer.Option("--dataset", help="Data set: a folder below data/, a key of prepare.sources.")
]
LabeledPctOption = Annotated[
    int, typer.Option("--labeled-pct", min=1, max=100, help="Labelled share of the training images, in percent.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the labelled share and of training.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
RoundOption = Annotated[
    str | None, typer.Option("--round", help="A further round, in a folder of its own: round_2, round_3 …")
]
TeacherOption = Annotated[
    str | None, typer.Option("--teacher", help="Its folder below the run's; by default warmup, or the round before.")
]
RefilterOption = Annotated[
    bool, typer.Option("--refilter", help="Judge the stored pseudo-labels again, as the stage judge; no network runs.")
]
CacheOption = Annotated[Path | None, typer.Option("--cache", help="Folder; else $DOTMASK_CACHE, else .cache/results.")]
ParamsOption = Annotated[Path, typer.Option("--params", help="Parameter file; see params.yaml for every key.")]

DEFAULT_DATASET = "synthetic"
DEFAULT_PARAMS = Path("params.yaml")


def stage_app(help_text: str) -> typer.Typer:
    """Build the Typer app of one stage, with the settings that all stages share."""
    return typer.Typer(
        help=help_text,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        no_args_is_help=False,
    )


def hand_over(module: str, **options: Any) -> None:
    """Run another stage's command in place of this one.

    Args:
        module: Its module; imported now alone, since what this stage makes does not depend on it.
        **options: Those of its ``main``.

    Raises:
        PipelineError: As it does.
    """
    importlib.import_module(module).main.__wrapped__(**options)


def fails_clearly(command: Callable[P, R]) -> Callable[P, R]:
    """Turn a :class:`PipelineError` into its message and exit code 1; let every other exception show itself."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except PipelineError as error:
            error_console.print("[bold red]error:[/] ", end="")
            error_console.print(str(error), markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(code=1) from None

    return wrapped
