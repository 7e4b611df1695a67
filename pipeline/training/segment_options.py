"""Options of the trainings that learn masks of classes: SOLOv2's and the refiner's; the crowd's are in ``options``."""

from dataclasses import dataclass
from typing import Literal

from pipeline.training.bounds import require
from pipeline.training.options import SharedLoopOptions


@dataclass(frozen=True)
class SegmentPhaseOptions:
    """One phase of training: its length, its optimiser and its learning rates.

    Args:
        steps: Optimiser steps; 0 leaves the phase out.
        optimizer: ``sgd`` with momentum, ``adam``, or ``muon`` for networks that start from nothing.
        learning_rate: Learning rate of all but the encoder.
        encoder_rate_share: Share of it that the encoder learns with; 0 leaves its weights as they are.
        momentum: Momentum of ``sgd``; not read by ``adam``.
        weight_decay: L2 penalty.
        decay: ``cosine`` lowers the rate to 1 % of itself by the end of the phase, ``steps`` divides it by 10 at each
            of ``drop_at_frac``, ``constant`` leaves it.
        drop_at_frac: Shares of the phase after which ``steps`` lowers the rate, rising.
        ramp_steps: Steps over which the rate rises from 0 at the start of the phase.
    """

    steps: int = 100
    optimizer: Literal["adam", "muon", "sgd"] = "sgd"
    learning_rate: float = 0.05
    encoder_rate_share: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay: Literal["cosine", "steps", "constant"] = "cosine"
    drop_at_frac: tuple[float, ...] = (0.78, 0.93)
    ramp_steps: int = 10

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require("steps", self.steps, "at least 0", self.steps >= 0)
        require("learning_rate", self.learning_rate, "above 0", self.learning_rate > 0)
        require("encoder_rate_share", self.encoder_rate_share, "at least 0", self.encoder_rate_share >= 0)
        require("momentum", self.momentum, "at least 0 and below 1", 0 <= self.momentum < 1)
        require("weight_decay", self.weight_decay, "at least 0", self.weight_decay >= 0)
        require("ramp_steps", self.ramp_steps, "at least 0", self.ramp_steps >= 0)
        rising = all(low < high for low, high in zip((0.0, *self.drop_at_frac), (*self.drop_at_frac, 1.0), strict=True))
        if not rising:
            raise ValueError(f"drop_at_frac: expected rising shares between 0 and 1, got {list(self.drop_at_frac)}")

    @property
    def encoder_learning_rate(self) -> float:
        """Learning rate of the encoder."""
        return self.encoder_rate_share * self.learning_rate


@dataclass(frozen=True)
class SegmentLoopOptions(SharedLoopOptions):
    """What the phases of these trainings share.

    Args:
        ema_decay: Published: 0.
    """

    ema_decay: float = 0.0
    clip_norm: float = 10.0
    evaluate_every: int = 100
