"""How far a long stage is: a bar on a terminal, plain lines in a log, one JSON line for each image or step."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

T = TypeVar("T")

LINE_INTERVAL_S = 10.0


def track(
    items: Iterable[T],
    *,
    description: str,
    total: int | None = None,
    unit: str = "images",
    console: Console | None = None,
) -> Iterator[T]:
    """Pass items through and show how far it is, how fast it goes and how long it will take.

    On a terminal this is a bar; elsewhere a plain line about every ten seconds and one at the end. Both go to the
    standard error, so that a command's output can be piped.

    Args:
        items: What to iterate over.
        description: What is being done, such as ``"annotate"``.
        total: Number of items; taken from ``len(items)`` where it has one.
        unit: What an item is, in the plural.
        console: Where to write; the standard error by default.

    Yields:
        The items, in order.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    console = console or Console(stderr=True)
    if console.is_terminal:
        yield from _with_bar(items, description, total, unit, console)
    else:
        yield from _with_lines(items, description, total, unit, console)


def warn_user(message: str, *, console: Console | None = None) -> None:
    """Print a warning on one line beside the progress: what the user should know, and what stops nothing.

    Args:
        message: Plain text; no markup is read in it.
        console: Where to write; the standard error by default.
    """
    console = console or Console(stderr=True)
    console.print("[bold yellow]warning:[/] ", end="")
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def _with_bar(items: Iterable[T], description: str, total: int | None, unit: str, console: Console) -> Iterator[T]:
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _RateColumn(unit),
        TimeElapsedColumn(),
        TextColumn("· left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _with_lines(items: Iterable[T], description: str, total: int | None, unit: str, console: Console) -> Iterator[T]:
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= LINE_INTERVAL_S:
            last = now
            _print_line(console, progress_line(description, done, total, unit, now - start))
    _print_line(console, progress_line(description, done, None, unit, time.monotonic() - start) + ", done")


def _print_line(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def progress_line(description: str, done: int, total: int | None, unit: str, elapsed_s: float) -> str:
    """Say in one line how far it is: ``annotate: 12/40 images, 3.1 images/s, 9 s left``."""
    rate = done / elapsed_s if elapsed_s > 0 else math.inf
    parts = [f"{description}: {done}{'' if total is None else f'/{total}'} {unit}", _rate_text(rate, unit)]
    if total is None:
        parts.append(f"{_duration_text(elapsed_s)} taken")
    elif done:
        parts.append(f"{_duration_text((total - done) / rate)} left")
    return ", ".join(part for part in parts if part)


def _rate_text(rate: float, unit: str) -> str:
    if not math.isfinite(rate) or rate <= 0:
        return ""
    return f"{rate:.3g} {unit}/s" if rate >= 1 else f"{1 / rate:.3g} s each"


def _duration_text(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


class _RateColumn(ProgressColumn):
    """Items a second over the task's recent past."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_rate_text(speed, self._unit) if speed else "", style="cyan")


@contextmanager
def byte_progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """Lend a callback ``(bytes so far, bytes in all or 0)`` that draws a download's bar on the standard error."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)


class JsonLines:
    """A log with one JSON object a line, each on disk as soon as it is written; used as a context manager.

    Args:
        path: File to write; parents are made, an older file is replaced unless ``append``.
        append: Go on after the lines that are there, as a resumed training does.
    """

    def __init__(self, path: Path, *, append: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a" if append else "w", encoding="utf-8")

    def write(self, **fields: Any) -> None:
        """Write one line; NaN and infinities become null, since JSON has neither."""
        plain = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in fields.items()
        }
        self._file.write(json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
