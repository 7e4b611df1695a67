"""Sharing jobs out to workers that may die: what executors of every kind have in common."""

import os
import pickle
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from pipeline.errors import PipelineError

MAX_DEATHS = 3
"""Workers that one job, or the start of workers, may cost before the run gives up."""
JOBS_AHEAD = 2
"""Jobs a worker holds at most: one at work and one that waits beside it."""
LABEL_CHARS = 100
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
}
"""Environment of a worker process: one thread each, or n workers would run n² threads, and sums would come in an order
that depends on the machine."""

R = TypeVar("R")


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables for processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class WorkerError(RuntimeError):
    """A defect that showed itself in a worker; the message holds its traceback as text."""


class WorkerLostError(Exception):
    """A worker's process has ended without an answer; the message says why, as far as that is known."""


class Hand(Protocol):
    """The driver's end of one worker. It answers in order: first to its making, then to each job sent."""

    def send(self, job: bytes) -> None:
        """Pass a pickled job on; never fails, since a dead worker shows itself in :meth:`receive`."""

    def receive(self) -> bytes:
        """Take the next answer; called only when there is one, or when none will come.

        Raises:
            WorkerLostError: If none will come.
        """

    def dismiss(self) -> None:
        """End the worker at once, whatever it is doing."""


H = TypeVar("H", bound=Hand)


class Servant:
    """The worker's end: builds the worker once, then does jobs; all goes in and out as bytes.

    Errors become answers, so that they arrive alike by pipe and by Ray.
    """

    def __init__(self) -> None:
        self._worker: Callable[[Any], Any] | None = None

    def build(self, recipe: bytes) -> bytes:
        """Build the worker from its pickled factory."""

        def made() -> None:
            self._worker = pickle.loads(recipe)()
            if torch := sys.modules.get("torch"):
                torch.set_num_threads(1)

        return _answer(made)

    def work(self, job: bytes) -> bytes:
        """Do one pickled job."""
        assert self._worker is not None, "build comes first"
        worker = self._worker
        return _answer(lambda: worker(pickle.loads(job)))


def _answer(call: Callable[[], object]) -> bytes:
    try:
        return pickle.dumps(("done", call()))
    except PipelineError as error:
        return pickle.dumps(("refused", str(error)))
    except Exception:  # noqa: BLE001 - it is raised again in the driver
        return pickle.dumps(("crashed", traceback.format_exc()))


def open_answer(answer: bytes) -> Any:
    """Give what a worker's call returned, or raise what it raised.

    Raises:
        PipelineError: With the worker's own message, if it raised one.
        WorkerError: With the traceback as text, if it raised anything else.
    """
    kind, content = pickle.loads(answer)
    if kind == "refused":
        raise PipelineError(content)
    if kind == "crashed":
        raise WorkerError(f"a worker failed:\n{content}")
    return content


class Ledger:
    """Which worker holds which jobs, what waits, and how many workers each job has cost."""

    def __init__(self, jobs: Sequence[object], workers: int) -> None:
        self._jobs = jobs
        self._workers = workers
        self._waiting = deque(range(len(jobs)))
        self._held: dict[Hand, deque[int]] = {}
        self._deaths: Counter[int] = Counter()
        self._false_starts = 0

    @property
    def waiting(self) -> int:
        """Jobs that no worker holds."""
        return len(self._waiting)

    @property
    def unfinished(self) -> bool:
        """Whether a job waits or is held."""
        return bool(self._waiting) or any(self._held.values())

    @property
    def ready(self) -> list[Hand]:
        """Workers that have been built."""
        return list(self._held)

    def enrol(self, hand: Hand) -> None:
        """Note that a worker has been built and can be given jobs."""
        self._held[hand] = deque()
        self._false_starts = 0

    def next_for(self, hand: Hand) -> int | None:
        """Hand out the next job, or None where the worker should hold no more.

        Near the end nobody takes a job ahead that another, idle worker could begin.
        """
        held = self._held[hand]
        ahead = JOBS_AHEAD if len(self._waiting) > self._workers else 1
        if not self._waiting or len(held) >= ahead:
            return None
        held.append(self._waiting.popleft())
        return held[-1]

    def finish(self, hand: Hand) -> int:
        """Take the worker's oldest job off it, and say which it was."""
        return self._held[hand].popleft()

    def lose(self, hand: Hand, reason: str) -> None:
        """Put a dead worker's jobs back to the front; its oldest is the one that it died on.

        Raises:
            PipelineError: If that job, or the building of workers, has cost too many.
        """
        held = self._held.pop(hand, None)
        if held is None:
            self._false_starts += 1
            if self._false_starts >= MAX_DEATHS:
                raise PipelineError(
                    f"workers: expected them to start, but {MAX_DEATHS} ended before they were ready (the last one "
                    f"{reason}); use fewer --workers if memory is short; a script of your own that starts workers must "
                    'be a file and do so under `if __name__ == "__main__":`'
                )
        elif held:
            culprit = held[0]
            self._deaths[culprit] += 1
            if self._deaths[culprit] >= MAX_DEATHS:
                raise PipelineError(
                    f"{_label(self._jobs[culprit])}: {MAX_DEATHS} workers ended while they were at it (the last one "
                    f"{reason}); use fewer --workers so that each has more memory, or leave this one out"
                )
        self._waiting.extendleft(reversed(held or ()))


def _label(job: object) -> str:
    text = " ".join(str(job).split())
    return text if len(text) <= LABEL_CHARS else text[: LABEL_CHARS - 1] + "…"


def share_out(
    hire: Callable[[], H],
    wait: Callable[[Sequence[H]], Sequence[H]],
    jobs: Sequence[Any],
    *,
    workers: int,
    dumps: Callable[[Any], bytes] = pickle.dumps,
) -> Generator[tuple[int, Any], None, None]:
    """Let workers do all jobs; replace those that die, and dismiss all at the end, however it comes.

    A job goes out only when a worker has room for it, so what is under way, results not yet taken included, is at most
    :data:`JOBS_AHEAD` jobs a worker.

    Args:
        hire: Starts a worker, which answers first when it has been built.
        wait: Gives those workers, at least one, from which :meth:`Hand.receive` has something to tell.
        jobs: What to do; each is pickled when it goes out.
        workers: How many to hire.
        dumps: Pickles a job.

    Yields:
        A job's index and its result, as they come.

    Raises:
        PipelineError: If a worker raised one, or too many died.
        WorkerError: If a worker raised anything else.
    """
    ledger = Ledger(jobs, workers)
    team: list[H] = []
    try:
        while ledger.unfinished:
            while len(team) < min(workers, ledger.waiting + len(ledger.ready)):
                team.append(hire())
            for hand in wait(team):
                try:
                    content = open_answer(hand.receive())
                except WorkerLostError as error:
                    team.remove(hand)
                    hand.dismiss()
                    ledger.lose(hand, str(error))
                    _give(ledger, jobs, dumps)
                    continue
                done = ledger.finish(hand) if hand in ledger.ready else None
                if done is None:
                    ledger.enrol(hand)
                _give(ledger, jobs, dumps)
                if done is not None:
                    yield done, content
    finally:
        for hand in team:
            hand.dismiss()


def _give(ledger: Ledger, jobs: Sequence[Any], dumps: Callable[[Any], bytes]) -> None:
    for hand in ledger.ready:
        while (index := ledger.next_for(hand)) is not None:
            hand.send(dumps(jobs[index]))
