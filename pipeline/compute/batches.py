"""Batches that halve when the accelerator's memory runs out, so that a run goes on instead of ending."""

import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from pipeline.errors import PipelineError

R = TypeVar("R")


class Batches:
    """Work in batches of at most ``size`` items; out of memory halves the size, for good, and says so.

    Args:
        size: Items in a batch, at most.
        what: What the items are, in the plural, for the message.
    """

    def __init__(self, size: int, what: str) -> None:
        self.size = size
        self.what = what

    def run(self, function: Callable[[int, int], R], count: int) -> Iterator[R]:
        """Call ``function(start, stop)`` over ``count`` items and give its results in order.

        Args:
            function: Works on items ``start`` to ``stop``; called again for fewer when memory runs out, so it must
                leave nothing behind before it returns.
            count: Number of items.

        Raises:
            PipelineError: If not even one item fits.
        """
        start = 0
        while start < count:
            stop = min(count, start + self.size)
            try:
                result = function(start, stop)
            except torch.OutOfMemoryError as error:
                if self.size == 1:
                    raise PipelineError(
                        f"out of memory with one of the {self.what} at a time ({error}); free the accelerator's "
                        "memory, take a smaller model, or pass --device cpu"
                    ) from error
                self.size = max(1, self.size // 2)
                warnings.warn(f"out of memory: going on with {self.size} {self.what} at a time", stacklevel=2)
                torch.cuda.empty_cache()
                continue
            yield result
            start = stop
