import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.compute import executors_ray
from pipeline.compute.crew import WorkerError
from pipeline.compute.executors import Executor, LocalExecutor
from pipeline.compute.executors_ray import RayExecutor
from pipeline.errors import PipelineError
from tests.compute import fake_workers
from tests.compute.fake_workers import Work, jobs_in, maker, pids_that_left_marks
from tests.compute.test_executors import ROOT, running, wait_until

DRIVER = """
import sys
from pathlib import Path
from pipeline.compute.executors_ray import RayExecutor
from tests.compute.fake_workers import jobs_in, leave_mark_and_sleep, maker

if __name__ == "__main__":
    list(RayExecutor(2).run(maker(leave_mark_and_sleep), jobs_in(Path(sys.argv[1]), 6)))
"""
needs_ray = pytest.mark.skipif(
    not shutil.which("ray", path=str(Path(sys.executable).parent)),
    reason="Ray is not installed: pip install 'dotmask[ray]'",
)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster that somebody else runs: its address."""
    folder = tempfile.mkdtemp(prefix="ray")  # not tmp_path, which is too long for a socket's name
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={address.split(':')[1]}", "--include-dashboard=false", f"--temp-dir={folder}"]
    command += ["--object-store-memory=100000000", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    settings = {**os.environ, "RAY_AUTH_MODE": "disabled"}  # whatever token this user's home holds
    with (Path(folder) / "ray.log").open("w") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, env=settings, start_new_session=True)
    try:
        assert wait_until(lambda: "Ray runtime started" in (Path(folder) / "ray.log").read_text(), 120)
        yield address
        assert head.poll() is None, "nobody has stopped it"
    finally:
        head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def connected(cluster: str) -> Iterator[None]:
    """One connection for many tests: an executor uses the one that is there and keeps it."""
    import ray

    ray.init(address=cluster, log_to_driver=False, logging_level="ERROR")
    yield
    assert ray.is_initialized()
    ray.shutdown()


def run(executor: Executor, work: Work, folder: Path, *, count: int = 6) -> dict[int, bytes]:
    results = list(executor.run(maker(work), jobs_in(folder, count)))
    assert len(results) == len(dict(results)), "no job is given twice"
    return dict(results)


@needs_ray
@pytest.mark.slow
def test_a_running_cluster_is_used_and_left_running(cluster: str, tmp_path: Path) -> None:
    import ray

    here = run(LocalExecutor(1), fake_workers.digest, tmp_path)
    for workers in (1, 2):
        assert run(RayExecutor(workers, cluster), fake_workers.digest, tmp_path) == here
        assert not ray.is_initialized()


@needs_ray
@pytest.mark.slow
def test_work_waits_for_results_and_closing_ends_it(connected: None, tmp_path: Path) -> None:
    results = RayExecutor(2).run(maker(fake_workers.leave_mark), jobs_in(tmp_path, 40))
    next(results)
    time.sleep(1.0)
    assert len(list(tmp_path.iterdir())) <= 1 + 2 * 2
    results.close()
    assert wait_until(lambda: not running(pids_that_left_marks(tmp_path)), 120)
    assert set(run(RayExecutor(2), fake_workers.tell_threads, tmp_path, count=2).values()) == {b"1"}
    assert run(RayExecutor(2), fake_workers.digest, tmp_path, count=0) == {}


@needs_ray
@pytest.mark.slow
def test_an_actor_that_is_killed_is_replaced(connected: None, tmp_path: Path) -> None:
    expected = run(LocalExecutor(1), fake_workers.digest, tmp_path)
    assert run(RayExecutor(2), fake_workers.die_at_first, tmp_path) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job1", "job4"]


@needs_ray
@pytest.mark.slow
def test_a_job_that_always_kills_its_actor_is_named(connected: None, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"job2.*: 3 workers ended .*was lost: .*fewer --workers"):
        run(RayExecutor(2), fake_workers.die_always, tmp_path)
    # Three deaths are laid to job2; one more may be laid to a job whose answer was lost with its actor.
    assert 3 <= len(pids_that_left_marks(tmp_path)) <= 6


@needs_ray
@pytest.mark.slow
def test_errors_arrive(connected: None, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"^data/é\.jpg: expected an image, got 3 bytes\n  - replace it$"):
        run(RayExecutor(2), fake_workers.refuse, tmp_path)
    with pytest.raises(WorkerError, match=r"(?s)Traceback.*in crash\b.*KeyError: 'no such key'"):
        run(RayExecutor(1), fake_workers.crash, tmp_path)
    with pytest.raises(PipelineError, match=r"^weights/vit_b\.pth: truncated; fetch it again$"):
        list(RayExecutor(1).run(fake_workers.make_none, jobs_in(tmp_path, 2)))


@needs_ray
@pytest.mark.slow
def test_a_cluster_without_room_is_given_up(connected: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors_ray, "START_WAIT_S", 2.0)
    with pytest.raises(PipelineError, match=r"none got ready; each asks for 64 CPU and 0 GPU, free are [\d.]+ and 0;"):
        run(RayExecutor(1, cpus_per_worker=64), fake_workers.digest, tmp_path)


def children_of(parent: int) -> set[int]:
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True).stdout
    return {int(pid) for pid, ppid in map(str.split, listing.splitlines()) if int(ppid) == parent}


@needs_ray
@pytest.mark.slow
def test_no_part_of_an_own_cluster_outlives_the_driver(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    marks = tmp_path / "marks"
    marks.mkdir()
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    settings["HOME"] = str(tmp_path)
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        settings.pop(name, None)
    driver = subprocess.Popen([sys.executable, str(script), str(marks)], env=settings)
    try:
        assert wait_until(lambda: len(pids_that_left_marks(marks)) == 2, 120)
        pids = pids_that_left_marks(marks) | children_of(driver.pid)
        assert len(pids) > 4, "two actors, and Ray's own servers"
        driver.kill()
        assert wait_until(lambda: not running(pids), 120)
    finally:
        driver.kill()
        driver.wait(20)
    assert not (tmp_path / ".ray").exists(), "Ray's token was not saved in the home folder"


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Something that is not Ray: it gives each caller one answer, or says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    line, _ = server.accept()
                    with line:
                        line.recv(100)
                        time.sleep(0 if answer else 2)
                        line.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@needs_ray
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", r"what answers at '127.0.0.1:\d+' is not a Ray cluster.*dashboard"),
        (b"", r"no cluster can be reached at '127.0.0.1:\d+' \(timed out\); start one"),
    ],
)
def test_other_servers_are_told_apart(
    answer: bytes, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors_ray, "CONNECT_WAIT_S", 0.5)
    with answering(answer) as address, pytest.raises(PipelineError, match=text):
        run(RayExecutor(2, address), fake_workers.digest, tmp_path)


@needs_ray
@pytest.mark.parametrize("by_variable", [False, True])
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens(
    scheme: str, by_variable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{scheme}127.0.0.1:{free_port()}"
    if by_variable:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(PipelineError, match=r"no cluster can be reached at '.*' \(.*refused\); start one there with"):
        run(RayExecutor(2, None if by_variable else address), fake_workers.digest, tmp_path)


@needs_ray
@pytest.mark.parametrize("address", ["cluster", "6379", ":6379", "host:", "host:port", "host:99999"])
def test_what_is_no_address(address: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=f"expected --address as HOST:PORT.*got '{address}'"):
        run(RayExecutor(2, address), fake_workers.digest, tmp_path)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PipelineError, match=r"not installed; pip install 'dotmask\[ray\]', or use --executor local"):
        run(RayExecutor(2), fake_workers.digest, tmp_path)
