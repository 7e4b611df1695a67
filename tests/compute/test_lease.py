import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.compute import lease
from pipeline.compute.lease import hold_lease, oldest_lease_s

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from pipeline.compute.lease import hold_lease
with hold_lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lease_lives_as_long_as_its_block(tmp_path: Path) -> None:
    folder = tmp_path / "leases"
    assert oldest_lease_s(folder) is None
    before_s = time.time()
    with hold_lease(folder):
        first = oldest_lease_s(folder)
        assert first is not None
        assert before_s - 1 < first < time.time() + 1
        with hold_lease(folder):
            assert oldest_lease_s(folder) == first
    assert oldest_lease_s(folder) is None
    assert list(folder.iterdir()) == []


def test_a_lease_ends_with_the_error_that_ends_its_block(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="stop"), hold_lease(tmp_path):
        raise KeyError("stop")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_holds_no_more(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert oldest_lease_s(tmp_path) is not None
        holder.send_signal(signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 1, "the file of the killed one is still there"
    assert oldest_lease_s(tmp_path) is None
    assert list(tmp_path.iterdir()) == [], "and is cleared away"


def test_without_locks_the_block_runs_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "no locks here")

    monkeypatch.setattr(lease.fcntl, "flock", refuse)
    ran = False
    with pytest.warns(UserWarning, match="no locks here.*do not run python -m stages.cache gc beside it"):  # noqa: SIM117
        with hold_lease(tmp_path):
            ran = True
    assert ran
    assert list(tmp_path.iterdir()) == []


def test_a_lease_of_which_nothing_can_be_told_counts_as_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hold_lease(tmp_path):

        def refuse(*_: object) -> None:
            raise OSError(38, "no locks here")

        monkeypatch.setattr(lease.fcntl, "flock", refuse)
        assert oldest_lease_s(tmp_path) is not None
