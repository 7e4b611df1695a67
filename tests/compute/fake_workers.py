"""Workers for executors to run in other processes; light, since each of those imports it."""

import functools
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Job:
    name: str
    folder: Path = Path()
    values: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))


Work = Callable[[Job], bytes]


def make_worker(work: Work) -> Work:
    return work


def maker(work: Work) -> Callable[[], Work]:
    return functools.partial(make_worker, work)


def jobs_in(folder: Path, count: int) -> list[Job]:
    return [Job(f"job{number}", folder, np.full(1000 * number, float(number))) for number in range(count)]


def digest(job: Job) -> bytes:
    job.values[...] += 1  # a worker may write into what it was given
    return job.name.encode() + hashlib.sha256(job.values.tobytes()).digest() * 10_000


def tell_threads(job: Job) -> bytes:
    return os.environ.get("OMP_NUM_THREADS", "").encode()


def tell_torch_threads(job: Job) -> bytes:
    import torch

    return str(torch.get_num_threads()).encode()


def leave_mark(job: Job) -> bytes:
    (job.folder / f"{job.name}.{os.getpid()}").touch()
    return job.name.encode()


def leave_mark_and_sleep(job: Job) -> bytes:
    leave_mark(job)
    time.sleep(600)
    return b""


def die_at_first(job: Job) -> bytes:
    mark = job.folder / job.name
    if job.name in ("job1", "job4") and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return digest(job)


def die_always(job: Job) -> bytes:
    if job.name == "job2":
        leave_mark(job)
        os.kill(os.getpid(), signal.SIGKILL)
    return digest(job)


def exit_always(job: Job) -> bytes:
    os._exit(7)


def refuse(job: Job) -> bytes:
    if job.name == "job2":
        raise PipelineError("data/é.jpg: expected an image, got 3 bytes\n  - replace it")
    return digest(job)


def crash(job: Job) -> bytes:
    return bytes({}["no such key"])


def answer_what_does_not_pickle(job: Job) -> bytes:
    return lambda: b""  # type: ignore[return-value]


def make_none() -> Work:
    raise PipelineError("weights/vit_b.pth: truncated; fetch it again")


def make_dead() -> Work:
    os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(1)


def pids_that_left_marks(folder: Path) -> set[int]:
    return {int(path.suffix[1:]) for path in folder.glob("*.*") if path.suffix[1:].isdecimal()}
