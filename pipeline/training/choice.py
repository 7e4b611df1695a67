"""Which teacher weights a training keeps: those with the least error on the held-out labelled images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class Chosen:
    """Teacher weights at one look.

    Args:
        step: Steps of the whole training behind them.
        metrics: Figures on the held-out images.
        weights: State dict, on the CPU.
    """

    step: int
    metrics: dict[str, float]
    weights: dict[str, Tensor]


class Choice:
    """Keeps the best look and the last one, and tells when looking on is of no use.

    Args:
        error_name: Which figure chooses; the least wins, of equals the latest.
        patience: Looks in a row without a better one after which the phase may end; 0 never ends it.
    """

    def __init__(self, error_name: str, *, patience: int) -> None:
        self._error_name, self._patience = error_name, patience
        self._looks_since_best = 0
        self.best: Chosen | None = None
        self.last: Chosen | None = None
        self.oracle: dict[str, float] | None = None

    def take(self, look: Chosen) -> None:
        """Let a look compete."""
        self.last = look
        self._looks_since_best += 1
        if self.best is None or look.metrics[self._error_name] <= self.best.metrics[self._error_name]:
            if self.best is None or look.metrics[self._error_name] < self.best.metrics[self._error_name]:
                self._looks_since_best = 0
            self.best = look

    @property
    def is_exhausted(self) -> bool:
        """Whether the looks have not become better for so long that the phase may end."""
        return bool(self._patience) and self._looks_since_best >= self._patience

    def see_test(self, metrics: Mapping[str, float], step: int) -> None:
        """Note a look at the test images: it is reported as ``oracle_best`` and chooses nothing."""
        if self.oracle is None or metrics[self._error_name] < self.oracle[self._error_name]:
            self.oracle = {**metrics, "step": step}

    def begin_phase(self, *, keeps_start: bool) -> None:
        """Forget the best look, so that the phase chooses anew, or let the phase compete with it."""
        if not keeps_start:
            self.best = None
        self._looks_since_best = 0

    def state_dict(self) -> dict[str, Any]:
        """Give all that it knows as plain data."""
        return {
            "best": vars(self.best) if self.best else None,
            "last": vars(self.last) if self.last else None,
            "oracle": self.oracle,
            "looks_since_best": self._looks_since_best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave; weights are kept on the CPU."""
        self.best, self.last = (
            None if kept is None else Chosen(**{**kept, "weights": {k: v.cpu() for k, v in kept["weights"].items()}})
            for kept in (state["best"], state["last"])
        )
        self.oracle, self._looks_since_best = state["oracle"], state["looks_since_best"]
