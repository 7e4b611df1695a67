"""Several images at once on a CPU, results in order, bytes that do not depend on how many."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(function: Callable[[T], R], items: Iterable[T], *, workers: int) -> Iterator[R]:
    """Apply a function to items in threads and give the results in the items' order.

    At most twice as many items as workers are under way, so memory stays bounded. An error surfaces at its item's turn;
    items not begun by then never are.

    Args:
        function: Must be safe to call from several threads; NumPy, OpenCV and PyTorch let others run meanwhile.
        items: What to work on.
        workers: Threads, at least 1; with 1 everything happens in the caller's thread.

    Yields:
        One result per item.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def one_thread_per_operation() -> Iterator[None]:
    """Let PyTorch compute each operation in one thread: sums then come in one order, whatever runs beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
