"""What a training is made of: its phases, each with a loss, a length and learning rates."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor, nn

from pipeline.training.options import PhaseOptions

B = TypeVar("B")
B_contra = TypeVar("B_contra", contravariant=True)

FINAL_RATE = 0.01
"""Share of the learning rate that is left at the end of a cosine decay."""


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
    options: PhaseOptions
    trained: tuple[str, ...]
    make_batch: Callable[[int], B]
    loss: Loss[B]
    describe: Callable[[int], str] = name_by_step
    keeps_start: bool = False


def rate_share(options: PhaseOptions, phase_step: int) -> float:
    """Give the share of the learning rate that holds at a step of a phase."""
    ramp = min(1.0, (phase_step + 1) / (options.ramp_steps + 1))
    if options.decay == "constant":
        return ramp
    return ramp * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * phase_step / options.steps)))
