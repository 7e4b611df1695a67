import os

import numpy as np
import torch

from benchmarks.one_core import added_memory_mib, core_seconds, on_one_core


def where(scale: float) -> tuple[int, int, float]:
    return os.getpid(), torch.get_num_threads(), scale


def test_work_runs_in_a_process_of_its_own_with_one_thread() -> None:
    process, threads, scale = on_one_core(where, 0.5)
    assert process != os.getpid()
    assert threads == 1
    assert scale == 0.5


def test_least_seconds_of_forms_that_take_turns() -> None:
    calls: list[str] = []
    busy, idle = core_seconds(lambda: calls.append(str(sum(range(300_000)))[:0] + "busy"), lambda: calls.append("idle"))
    assert calls == ["busy", "idle"] * 3
    assert busy > idle >= 0


def test_memory_of_a_call() -> None:
    assert added_memory_mib(lambda: None) < 4096
    assert added_memory_mib(lambda: np.ones(2**26, np.uint8)) >= 60
