"""How things are measured: both forms in one process, taking turns, the best of a few rounds."""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        what: What was measured.
        work: How much of it.
        ours: Seconds of this project's form, or another amount in ``unit``.
        reference: Name of the plain form.
        theirs: Its amount.
        reach: What is to be reached, as text.
        met: Whether it was, at this size; None where the row only tells.
        unit: Of both amounts.
        notes: More figures, for the JSON file alone.
    """

    what: str
    work: str
    ours: float
    reference: str
    theirs: float
    reach: str
    met: bool | None
    unit: str = "s"
    notes: Mapping[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Our amount as a multiple of the reference's."""
        return self.ours / self.theirs


def best_seconds(*forms: Callable[[], object], rounds: int = 3) -> tuple[float, ...]:
    """Least seconds of each form; the forms take turns, so that a busy machine slows all of them."""
    best = [float("inf")] * len(forms)
    for _ in range(rounds):
        for index, form in enumerate(forms):
            best[index] = min(best[index], seconds_of(form))
    return tuple(best)


def seconds_of(form: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    form()
    return time.perf_counter() - begin


def peak_memory_mib() -> float:
    """Most memory that this process ever held, MiB.

    Linux hands a parent's ``ru_maxrss`` down to the programs that it starts, so that a small child of a large process
    would seem large; its status file counts this program alone.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        peak_kib = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        if peak_kib is not None:
            return int(peak_kib.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024
