"""Saying that a folder is in use, in a way that ends with the process, however it ends."""

import contextlib
import fcntl
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.compute.cache_entry import TEMP_SUFFIX

LEASE_SUFFIX = ".lease"


@contextmanager
def hold_lease(folder: Path) -> Iterator[None]:
    """Hold a lease in a folder while the block runs.

    A lease is a file under an exclusive lock. The system drops the lock when the process ends, SIGKILL included, so a
    lease never outlives its holder. It is locked before it takes its name, so nobody sees it unlocked. Where it cannot
    be had (a full disk, a file system without locks), a warning says so and the block runs without one.

    Args:
        folder: Where leases lie; made where it is missing.
    """
    with contextlib.ExitStack() as stack:
        name = f"{os.getpid()}-{secrets.token_hex(8)}"
        temp, path = folder / f".{name}{TEMP_SUFFIX}", folder / f"{name}{LEASE_SUFFIX}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(temp.open("xb"))
            stack.callback(_remove, temp)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temp.rename(path)
            stack.callback(_remove, path)
        except OSError as error:
            warnings.warn(
                f"{folder}: cannot say that this run is using the folder ({error.strerror}); do not run "
                "python -m stages.cache gc beside it",
                stacklevel=3,
            )
        yield


def oldest_lease_s(folder: Path) -> float | None:
    """Give the time at which the oldest living lease of a folder began, and remove dead ones.

    Returns:
        Seconds since the epoch by the file system's clock; None where nobody holds a lease.
    """
    began: list[float] = []
    for path in folder.glob(f"*{LEASE_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            began_s = path.stat().st_mtime
            if _is_held(path):
                began.append(began_s)
            else:
                _remove(path)
    return min(began, default=None)


def _is_held(path: Path) -> bool:
    """Whether another open file has the lock; where that cannot be told, it is taken to be held."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        raise
    except OSError:
        return True
    return False


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
