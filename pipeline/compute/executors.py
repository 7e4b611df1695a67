"""Where many independent jobs are computed: here, in processes of this machine, or on a Ray cluster."""

import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

from pipeline.compute.crew import ONE_THREAD, Servant, WorkerLostError, environment, share_out

EXIT_WAIT_S = 10.0
"""How long a process whose pipe has closed may take to end; then it is killed."""

J = TypeVar("J")
R = TypeVar("R")


class Executor(Protocol):
    """Does jobs somewhere. The results do not depend on where, or on how many workers there are."""

    def run(
        self, make_worker: Callable[[], Callable[[J], R]], jobs: Sequence[J]
    ) -> Generator[tuple[int, R], None, None]:
        """Do every job once, and give each result as it comes; closing the generator ends all work.

        Nothing starts before the first result is asked for.

        Args:
            make_worker: Builds the worker (loads its model), once in each process; it must pickle, as a module's
                function or a ``functools.partial`` of one does.
            jobs: What to do; they must pickle, as their results must.

        Yields:
            The index of a job and its result, in no particular order.

        Raises:
            PipelineError: If a worker raised one, or its process died again and again.
            WorkerError: If a worker process raised anything else; without processes, that error itself.
        """


@dataclass(frozen=True)
class LocalExecutor:
    """Computes on this machine, one thread a worker, so that bytes do not depend on the number of processor cores.

    Args:
        workers: Processes. With 1, or a single job, everything happens in this process: the way to use one GPU.
    """

    workers: int

    def run(
        self, make_worker: Callable[[], Callable[[J], R]], jobs: Sequence[J]
    ) -> Generator[tuple[int, R], None, None]:
        """Do every job once; see :meth:`Executor.run`.

        A process that dies is replaced and its jobs are done again. None outlives the generator, or this process
        however that ends.
        """
        if min(self.workers, len(jobs)) <= 1:
            yield from _run_here(make_worker, jobs)
            return
        recipe = pickle.dumps(make_worker)
        yield from share_out(lambda: _LocalHand(recipe), _audible, jobs, workers=self.workers)


def _run_here(make_worker: Callable[[], Callable[[J], R]], jobs: Sequence[J]) -> Iterator[tuple[int, R]]:
    if not jobs:
        return
    from pipeline.compute.device import one_thread_per_operation  # late: worker processes need not import torch here

    worker = make_worker()
    for index, job in enumerate(jobs):
        with one_thread_per_operation():
            result = worker(job)
        yield index, result


class _LocalHand:
    """A process of this machine at the end of a pipe.

    Processes are spawned: a fork of a process in which PyTorch has run threads can hang.
    """

    def __init__(self, recipe: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, recipe), daemon=True)
        with environment(ONE_THREAD):
            self.process.start()
        theirs.close()

    def send(self, job: bytes) -> None:
        with suppress(OSError):  # it is dead, which receive() will tell
            self.connection.send_bytes(job)

    def receive(self) -> bytes:
        with suppress(EOFError, OSError):
            if self.connection.poll():
                return self.connection.recv_bytes()
        self.process.join(EXIT_WAIT_S)
        raise WorkerLostError(_describe_exit(self.process.exitcode))

    def dismiss(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()
        self.process.close()


def _audible(team: Sequence[_LocalHand]) -> list[_LocalHand]:
    """Wait for an answer or for an end; the ends count too, as a dead worker's own children may hold its pipe open."""
    heard: set[Any] = set(wait([source for hand in team for source in (hand.connection, hand.process.sentinel)]))
    return [hand for hand in team if heard & {hand.connection, hand.process.sentinel}]


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "closed its pipe"
    if code >= 0:
        return f"exited with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was killed by {name}" + (": most often the system does that when memory runs out" if code == -9 else "")


def _serve(connection: "Connection[bytes, bytes]", recipe: bytes) -> None:
    """Run a worker process; it ends when the driver closes the pipe, or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver ends its workers itself
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_collect, args=(connection, inbox), daemon=True).start()
    servant = Servant()
    with suppress(OSError):  # the driver has gone
        connection.send_bytes(servant.build(recipe))
        while True:
            connection.send_bytes(servant.work(inbox.get()))
    sys.exit(1)


def _collect(connection: "Connection[bytes, bytes]", inbox: "queue.SimpleQueue[bytes]") -> None:
    """Take jobs at all times: the driver never blocks on a full pipe, and its end is noticed in the midst of a job."""
    try:
        while True:
            inbox.put(connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(1)
