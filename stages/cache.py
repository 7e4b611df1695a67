"""``python -m stages.cache``: what the cache of per-image results holds, making room in it, checking it."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from pipeline.compute.byte_sizes import parse_bytes, show_bytes
from pipeline.compute.cache import DEFAULT_LIMIT_BYTES, KEEP_S, ResultCache, default_root
from pipeline.errors import PipelineError, raise_all
from stages.command import CacheOption, console, fails_clearly, stage_app

app = stage_app("Cache of per-image results, from which a stopped run goes on: look, make room, check.")

LimitOption = Annotated[str, typer.Option("--limit", metavar="SIZE", help="Size to come down to: 5GiB, 500MB, 0 …")]
KeepOption = Annotated[float, typer.Option("--keep-min", min=0, help="Keep what was used in the last … minutes.")]
RemoveOption = Annotated[bool, typer.Option("--remove", help="Remove damaged entries.")]
DEFAULT_LIMIT = show_bytes(DEFAULT_LIMIT_BYTES)


@app.command()
@fails_clearly
def info(cache: CacheOption = None) -> None:
    """Print how many results of each kind there are, their size and when they were last used."""
    opened = _open(cache)
    found = opened.info()
    _say(
        f"{opened.root}: {found.entries:,} entries, {show_bytes(found.bytes)}"
        f" (gc comes down to {DEFAULT_LIMIT}){'' if opened.writable else ', read only'}"
    )
    if found.oldest_use_s is None or found.newest_use_s is None:
        return
    table = Table("kind", Column("entries", justify="right"), Column("size", justify="right"))
    for kind, usage in found.kinds.items():
        table.add_row(kind, f"{usage.entries:,}", show_bytes(usage.bytes))
    console.print(table)
    _say(f"last used between {_show_time(found.oldest_use_s)} and {_show_time(found.newest_use_s)}")


@app.command()
@fails_clearly
def gc(cache: CacheOption = None, limit: LimitOption = DEFAULT_LIMIT, keep_min: KeepOption = KEEP_S / 60) -> None:
    """Remove the results used least recently until the rest fits; what a run is using stays."""
    limit_bytes = parse_bytes(limit, name="--limit")
    opened = _open(cache)
    if not opened.writable:
        raise PipelineError(f"{opened.root}: this user may not write there, so nothing can be removed")
    done = opened.gc(limit_bytes, keep_s=keep_min * 60)
    left = f"{done.left.entries:,} entries, {show_bytes(done.left.bytes)}"
    _say(f"{opened.root}: removed {done.entries:,} entries, {show_bytes(done.bytes)}; {left} are left")
    if done.left.bytes > limit_bytes:
        _say(
            f"that is more than {show_bytes(limit_bytes)}: the rest was used in the last {keep_min:g} minutes "
            "(--keep-min) or by a run that goes on"
        )


@app.command()
@fails_clearly
def verify(cache: CacheOption = None, remove: RemoveOption = False) -> None:
    """Read every entry and compare its checksum; ends with exit code 1 while there are damaged ones."""
    opened = _open(cache)
    damaged = opened.verify(remove=remove)
    faults = [f"{one.kind}/{one.key}: {one.reason}" for one in damaged if not one.removed]
    remedy = "remove these files by hand" if remove else "run it again with --remove"
    raise_all(faults, f"{opened.root}: damaged entries; their results are made anew once they are gone: {remedy}")
    _say(f"{opened.root}: {f'removed {len(damaged):,} damaged entries' if damaged else 'every entry is whole'}")


def _open(cache: Path | None) -> ResultCache:
    return ResultCache.open(cache or default_root(), create=False)


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _show_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


if __name__ == "__main__":
    app()
