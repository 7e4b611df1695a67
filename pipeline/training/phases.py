"""What a training is made of: its phases, each with a loss, a length, an optimiser and learning rates."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor, nn

from pipeline.training.options import Precision

B = TypeVar("B")
B_contra = TypeVar("B_contra", contravariant=True)

FINAL_RATE = 0.01
"""Share of the learning rate that is left at the end of a cosine decay."""

DROP = 0.1
"""What the learning rate is multiplied with where it drops."""


class PhaseLength(Protocol):
    """What the loop reads of a phase's options: those of the crowd trainings know Adam alone, others SGD too."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""

    @property
    def optimizer(self) -> str:
        """``adam``, ``muon`` or ``sgd``."""

    @property
    def learning_rate(self) -> float:
        """Learning rate of all but the network's child ``encoder``."""

    @property
    def encoder_learning_rate(self) -> float:
        """Learning rate of the child ``encoder``."""

    @property
    def momentum(self) -> float:
        """Momentum of SGD."""

    @property
    def weight_decay(self) -> float:
        """L2 penalty."""

    @property
    def decay(self) -> str:
        """``cosine``, ``steps`` or ``constant``."""

    @property
    def drop_at_frac(self) -> tuple[float, ...]:
        """Shares of the phase after which ``steps`` lowers the rate."""

    @property
    def ramp_steps(self) -> int:
        """Steps over which the rate rises from 0."""


class LoopSettings(Protocol):
    """What the loop reads of the options that all phases share; they say what each means."""

    @property
    def ema_decay(self) -> float:
        """Share of the old average kept at each step."""

    @property
    def ema_buffers(self) -> bool:
        """Whether buffers are averaged, too."""

    @property
    def clip_norm(self) -> float:
        """Greatest norm of the gradient."""

    @property
    def evaluate_every(self) -> int:
        """Steps between two looks at the held-out images."""

    @property
    def choose_from_frac(self) -> float:
        """Share of a phase from which on looks compete."""

    @property
    def patience(self) -> int:
        """Looks without a better one that end a phase; 0 for no end."""

    @property
    def frozen_norm(self) -> bool:
        """Whether batch norm stands still."""

    @property
    def checkpoint_every(self) -> int:
        """Steps between two resumable states."""

    @property
    def log_every(self) -> int:
        """Steps between two points of the curves."""

    @property
    def precision(self) -> Precision:
        """Precision of Fabric."""

    @property
    def load_workers(self) -> int:
        """Threads that prepare batches."""


class Loss(Protocol[B_contra]):
    """Gives the loss of a batch, under ``loss``, and figures to log beside it.

    The loss is a mean over the batch's samples: ranks have equally many of them, so that the mean over ranks, which is
    what the gradients are averaged to, is the loss of all their samples and no other normaliser must be shared. Of the
    figures beside it, shares of a batch's heads are averaged over ranks, too, however many heads each has.
    """

    def __call__(
        self, student: nn.Module, teacher: nn.Module, batch: B_contra, phase_step: int
    ) -> Mapping[str, Tensor]:
        """Compute it; ``phase_step`` counts from 0."""


def name_by_step(step: int) -> str:
    """Name a batch of which no more is known."""
    return f"batch {step}"


@dataclass(frozen=True)
class Phase(Generic[B]):
    """A stretch of training with one loss and one optimiser.

    Args:
        name: Name in curves and logs.
        options: Length and learning rates.
        trained: Children of the network that learn; the others stand still, their batch norm in evaluation mode.
        make_batch: Gives this rank's batch of a step of the whole training, from 0; called in threads.
        loss: Gives the loss.
        describe: Says what is in the batch of a step, on all ranks, for messages.
        keeps_start: Whether the weights that it starts from stay chosen unless a look beats them or is as good; for
            phases that go on with what an earlier one has learnt. The others choose anew.
    """

    name: str
    options: PhaseLength
    trained: tuple[str, ...]
    make_batch: Callable[[int], B]
    loss: Loss[B]
    describe: Callable[[int], str] = name_by_step
    keeps_start: bool = False


def rate_share(options: PhaseLength, phase_step: int) -> float:
    """Give the share of the learning rate that holds at a step of a phase."""
    ramp = min(1.0, (phase_step + 1) / (options.ramp_steps + 1))
    if options.decay == "constant":
        return ramp
    if options.decay == "steps":
        return ramp * DROP ** sum(phase_step >= frac * options.steps for frac in options.drop_at_frac)
    return ramp * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * phase_step / options.steps)))
