"""What a piece of work costs one core: processor seconds in one thread, and memory, in a process of its own.

Processor seconds of one thread are its seconds on a core that nothing else uses, so that a busy machine does not count.
"""

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.measure import peak_memory_mib

T = TypeVar("T")


def on_one_core(work: Callable[[float], T], scale: float) -> T:
    """Do work in a fresh process that computes in one thread.

    Args:
        work: A function at the top of its module.
        scale: Its argument.

    Raises:
        Exception: Whatever the work raises.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return pool.submit(work, scale).result()


def core_seconds(*forms: Callable[[], object], rounds: int = 3) -> tuple[float, ...]:
    """Least processor seconds of each form; the forms take turns."""
    best = [float("inf")] * len(forms)
    for _ in range(rounds):
        for index, form in enumerate(forms):
            begin = time.process_time()
            form()
            best[index] = min(best[index], time.process_time() - begin)
    return tuple(best)


def added_memory_mib(form: Callable[[], object]) -> float:
    """Most memory that a call holds beyond what the process held before it, MiB.

    The process's peak only rises, so the smaller form comes first; one that stays below an earlier peak seems larger.
    """
    gc.collect()
    _return_free_memory()
    before = _held_memory_mib()
    form()
    return max(0.0, peak_memory_mib() - before)


def _return_free_memory() -> None:
    """Give what was freed back to the system, where the C library can; a call that used it anew would seem small."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _held_memory_mib() -> float:
    status = Path("/proc/self/status")
    if status.is_file():
        held_kib = next((line for line in status.read_text().splitlines() if line.startswith("VmRSS:")), None)
        if held_kib is not None:
            return int(held_kib.split()[1]) / 1024
    return peak_memory_mib()
