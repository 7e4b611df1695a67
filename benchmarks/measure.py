"""How things are measured: both forms in one process, taking turns, the best of a few rounds."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        what: What was measured.
        work: How much of it.
        seconds: Seconds of this project's form.
        reference: Name of the plain form.
        reference_seconds: Its seconds.
        reach: The ratio to reach, as text.
    """

    what: str
    work: str
    seconds: float
    reference: str
    reference_seconds: float
    reach: str

    @property
    def ratio(self) -> float:
        """Seconds as a multiple of the reference's."""
        return self.seconds / self.reference_seconds


def best_seconds(*forms: Callable[[], object], rounds: int = 3) -> tuple[float, ...]:
    """Least seconds of each form; the forms take turns, so that a busy machine slows all of them."""
    best = [float("inf")] * len(forms)
    for _ in range(rounds):
        for index, form in enumerate(forms):
            begin = time.perf_counter()
            form()
            best[index] = min(best[index], time.perf_counter() - begin)
    return tuple(best)
