"""Jobs on a Ray cluster: plain actors that hold the model, on one that runs already or on one of our own."""

import contextlib
import functools
import importlib
import os
import secrets
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pipeline
from pipeline.compute.crew import ONE_THREAD, Servant, WorkerLostError, environment, share_out
from pipeline.errors import PipelineError

ADDRESS_VARIABLE = "RAY_ADDRESS"
TOKEN_VARIABLE, TOKEN_PATH_VARIABLE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
CONNECT_WAIT_S = 8.0
START_WAIT_S = 300.0
"""How long the cluster may take until a first worker is ready."""
OBJECT_STORE_BYTES = 512 << 20
REASON_CHARS = 300
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_FRAME_BYTES, _FRAME_KIND, _SETTINGS = 9, 3, 4

J = TypeVar("J")
R = TypeVar("R")


@dataclass(frozen=True)
class RayExecutor:
    """Computes in Ray actors, with the bytes that :class:`~pipeline.compute.executors.LocalExecutor` gives.

    The nodes need the same packages and, for jobs that name files, the same folders; they work in the driver's current
    folder if they have it. A cluster found running is left running.

    Args:
        workers: Actors. Those for which the cluster has no room yet begin when it has; the others go on meanwhile.
        address: ``HOST:PORT`` of a running cluster, ``ray://HOST:PORT`` of its client server, or ``auto`` for the one
            of this machine; None means ``$RAY_ADDRESS``, or, where that is not set, a cluster of our own here. A
            process that has called ``ray.init`` itself keeps to that cluster.
        cpus_per_worker: Processor cores that each reserves; it computes in one thread.
        gpus_per_worker: Accelerators that each reserves; a part of one lets several share it.
    """

    workers: int
    address: str | None = None
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0

    def run(
        self, make_worker: Callable[[], Callable[[J], R]], jobs: Sequence[J]
    ) -> Generator[tuple[int, R], None, None]:
        """Do every job once; see :meth:`pipeline.compute.executors.Executor.run`.

        An actor that dies is replaced, where the cluster has room, and its jobs are done again.

        Raises:
            PipelineError: Also if Ray is not installed, its cluster cannot be reached, or no worker gets ready.
        """
        if not jobs:
            return
        workers = max(1, min(self.workers, len(jobs)))
        ray = _import_ray()
        dumps = importlib.import_module("ray.cloudpickle").dumps
        with self._connected(ray, workers):
            crew = _RayCrew(ray, self, dumps(make_worker))
            yield from share_out(crew.hire, crew.wait, jobs, workers=workers, dumps=dumps)

    @contextlib.contextmanager
    def _connected(self, ray: Any, workers: int) -> Iterator[None]:
        address = self.address or os.environ.get(ADDRESS_VARIABLE)
        if address:
            _check_address(address)
        if ray.is_initialized():  # the caller's own connection, and theirs to end
            yield
            return
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                with environment(_own_settings()):
                    ray.init(
                        address="local",  # without this, Ray takes any cluster that runs on this machine
                        num_cpus=max(workers, round(workers * self.cpus_per_worker)),
                        include_dashboard=False,
                        object_store_memory=OBJECT_STORE_BYTES,
                        **quiet,
                    )
        except Exception as error:  # Ray raises it bare where a node of its own is slow to start
            where = f"the cluster at '{address}'" if address else "a cluster on this machine"
            raise PipelineError(
                f"ray: {where} could not be used ({_one_line(error)}); check --address, that Ray and Python have the "
                "same versions there, that RAY_AUTH_MODE and RAY_AUTH_TOKEN are set if it asks for a token, and that "
                "the machine is not overloaded, or use --executor local"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


class _Actor(Servant):
    """The worker's end, as an actor, at work in the driver's folder so that relative paths mean the same."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        with contextlib.suppress(OSError):
            os.chdir(folder)


class _RayCrew:
    """Hires actors and listens to them."""

    def __init__(self, ray: Any, executor: RayExecutor, recipe: bytes) -> None:
        self._ray = ray
        self._recipe = recipe
        self._executor = executor
        self._heard_any = False
        code = [str(Path(pipeline.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        self._actor_class = ray.remote(
            num_cpus=executor.cpus_per_worker,
            num_gpus=executor.gpus_per_worker,
            max_restarts=0,
            runtime_env={"env_vars": {**ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, code))}},
        )(_Actor)

    def hire(self) -> "_RayHand":
        return _RayHand(self._ray, self._actor_class.remote(str(Path.cwd())), self._recipe)

    def wait(self, team: Sequence["_RayHand"]) -> list["_RayHand"]:
        by_answer = {hand.answers[0]: hand for hand in team if hand.answers}
        limit_s = None if self._heard_any else START_WAIT_S
        heard, _ = self._ray.wait(list(by_answer), num_returns=1, timeout=limit_s)
        if not heard:
            free = self._ray.available_resources()
            raise PipelineError(
                f"ray: expected a worker within {START_WAIT_S:.0f} s, but none got ready; each asks for "
                f"{self._executor.cpus_per_worker:g} CPU and {self._executor.gpus_per_worker:g} GPU, free are "
                f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g}; wait for room there, or use --executor local"
            )
        self._heard_any = True
        return [by_answer[answer] for answer in heard]


class _RayHand:
    """An actor, and its answers to come in the order in which they will."""

    def __init__(self, ray: Any, actor: Any, recipe: bytes) -> None:
        self._ray = ray
        self._actor = actor
        self.answers: deque[Any] = deque([actor.build.remote(recipe)])

    def send(self, job: bytes) -> None:
        self.answers.append(self._actor.work.remote(job))

    def receive(self) -> bytes:
        try:
            answer: bytes = self._ray.get(self.answers.popleft())
        except self._ray.exceptions.RayError as error:
            raise WorkerLostError(f"was lost: {_one_line(error)}") from error
        return answer

    def dismiss(self) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor)


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise PipelineError(
            "ray: the package is not installed; pip install 'dotmask[ray]', or use --executor local"
        ) from error


@functools.cache
def _token() -> str:
    return secrets.token_hex(32)  # one for the process: Ray keeps the first it sees


def _own_settings() -> dict[str, str]:
    """Environment of a cluster of our own: it reports to nobody, and asks for a token that only it and we know.

    Left to itself Ray would save its token in the home folder, and every later ``ray start`` would ask for that.
    """
    given = TOKEN_VARIABLE in os.environ or TOKEN_PATH_VARIABLE in os.environ
    return {"RAY_USAGE_STATS_ENABLED": "0"} | ({} if given else {TOKEN_VARIABLE: _token()})


def _check_address(address: str) -> None:
    """See whether a Ray server answers; Ray itself would try for many minutes.

    Raises:
        PipelineError: If the address is none, nothing answers there, or what does is not Ray.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise PipelineError(
            f"ray: expected --address as HOST:PORT, ray://HOST:PORT or auto, got '{address}'; "
            "`ray start --head` prints it"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_WAIT_S) as line:
            greeted = os.environ.get("RAY_USE_TLS", "0") not in ("", "0") or _speaks_grpc(line)
    except OSError as error:
        raise PipelineError(
            f"ray: no cluster can be reached at '{address}' ({error}); start one there with `ray start --head`, "
            "correct --address, or leave it out to start one here"
        ) from error
    if not greeted:
        raise PipelineError(
            f"ray: what answers at '{address}' is not a Ray cluster; give the port that `ray start --head` prints "
            "(6379 by default), not the dashboard's"
        )


def _speaks_grpc(line: socket.socket) -> bool:
    line.sendall(_HTTP2_GREETING)
    frame = b""
    while len(frame) < _FRAME_BYTES and (part := line.recv(_FRAME_BYTES - len(frame))):
        frame += part
    return len(frame) == _FRAME_BYTES and frame[_FRAME_KIND] == _SETTINGS


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    text = text[max(text.find("because "), 0) :]
    return text if len(text) <= REASON_CHARS else text[: REASON_CHARS - 1] + "…"
