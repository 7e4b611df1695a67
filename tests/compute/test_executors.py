import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

from pipeline.compute.crew import WorkerError
from pipeline.compute.executors import Executor, LocalExecutor
from pipeline.errors import PipelineError
from tests.compute import fake_workers
from tests.compute.fake_workers import Work, jobs_in, maker, pids_that_left_marks

ROOT = Path(__file__).parents[2]
DRIVER = """
import signal
import sys
from pathlib import Path
from pipeline.compute.executors import LocalExecutor
from tests.compute.fake_workers import jobs_in, leave_mark_and_sleep, maker

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell begins with it ignored
    list(LocalExecutor(2).run(maker(leave_mark_and_sleep), jobs_in(Path(sys.argv[1]), 6)))
"""


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


def running(pids: Iterable[int]) -> list[int]:
    """Those that run; one that has ended and waits for its parent to look does not."""
    states = {
        pid: subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
        for pid in pids
    }
    return [pid for pid, state in states.items() if state and not state.startswith("Z")]


def run(work: Work, folder: Path, *, workers: int = 2, count: int = 6) -> dict[int, bytes]:
    executor: Executor = LocalExecutor(workers)
    results = list(executor.run(maker(work), jobs_in(folder, count)))
    assert len(results) == len(dict(results)), "no job is given twice"
    assert multiprocessing.active_children() == []
    return dict(results)


def test_results_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    here = run(fake_workers.digest, tmp_path, workers=1)
    assert sorted(here) == list(range(6))
    assert here[3].startswith(b"job3")
    assert len(here[3]) > 300_000, "results are larger than a pipe holds"
    assert run(fake_workers.digest, tmp_path, workers=2) == here
    assert run(fake_workers.digest, tmp_path, workers=2, count=0) == {}


def test_one_worker_or_one_job_stays_in_this_process(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    assert run(fake_workers.tell_torch_threads, tmp_path, workers=1) == dict.fromkeys(range(6), b"1")
    assert torch.get_num_threads() == before
    run(fake_workers.leave_mark, tmp_path, workers=8, count=1)
    assert pids_that_left_marks(tmp_path) == {multiprocessing.current_process().pid}
    with pytest.raises(PipelineError, match=r"^weights/vit_b\.pth: truncated; fetch it again$"):
        list(LocalExecutor(1).run(fake_workers.make_none, jobs_in(tmp_path, 2)))


def test_workers_compute_in_one_thread(tmp_path: Path) -> None:
    assert set(run(fake_workers.tell_threads, tmp_path, count=2).values()) == {b"1"}


def test_work_waits_for_results_to_be_taken(tmp_path: Path) -> None:
    results = LocalExecutor(2).run(maker(fake_workers.leave_mark), jobs_in(tmp_path, 40))
    next(results)
    time.sleep(1.0)
    assert len(list(tmp_path.iterdir())) <= 1 + 2 * 2
    assert len(list(results)) == 39


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    assert run(fake_workers.die_at_first, tmp_path) == run(fake_workers.digest, tmp_path, workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job1", "job4"]


def test_a_job_that_always_kills_its_worker_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        PipelineError, match=r"job2.*: 3 workers ended .*was killed by SIGKILL.*memory.*fewer --workers"
    ):
        run(fake_workers.die_always, tmp_path)
    assert len(pids_that_left_marks(tmp_path)) == 3
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("work", "error", "text"),
    [
        (fake_workers.refuse, PipelineError, r"^data/é\.jpg: expected an image, got 3 bytes\n  - replace it$"),
        (fake_workers.crash, WorkerError, r"(?s)Traceback.*in crash\b.*KeyError: 'no such key'"),
        (fake_workers.answer_what_does_not_pickle, WorkerError, r"(?s)Traceback.*lambda"),
        (fake_workers.exit_always, PipelineError, r"exited with code 7"),
    ],
)
def test_errors_arrive(work: Work, error: type[Exception], text: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=text):
        run(work, tmp_path, count=3)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (fake_workers.make_none, r"^weights/vit_b\.pth: truncated; fetch it again$"),
        (fake_workers.make_dead, r"3 ended before they were ready .*SIGKILL"),
    ],
)
def test_workers_that_cannot_be_built(make: Callable[[], Work], text: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=text):
        list(LocalExecutor(2).run(make, jobs_in(tmp_path, 4)))
    assert multiprocessing.active_children() == []


def test_closing_early_leaves_no_process(tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path, 40)
    results = LocalExecutor(2).run(maker(fake_workers.leave_mark), jobs)
    next(results)
    pids = {child.pid for child in multiprocessing.active_children()}
    assert len(pids) == 2
    results.close()
    assert running(pid for pid in pids if pid) == []
    assert len(list(tmp_path.iterdir())) < len(jobs)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT], ids=lambda blow: blow.name)
def test_no_worker_outlives_the_driver(blow: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    marks = tmp_path / "marks"
    marks.mkdir()
    driver = subprocess.Popen(
        [sys.executable, str(script), str(marks)], env={"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    )
    try:
        assert wait_until(lambda: len(pids_that_left_marks(marks)) == 2)
        pids = pids_that_left_marks(marks)
        assert len(running(pids)) == 2
        driver.send_signal(blow)
        assert wait_until(lambda: not running(pids), 120)
    finally:
        driver.kill()
        _, errors = driver.communicate(timeout=120)
    assert ("KeyboardInterrupt" in errors) == (blow is signal.SIGINT)
