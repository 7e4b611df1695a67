"""The training loop: phases of optimiser steps, a teacher average, looks at held-out images, exact resume.

Nothing random survives a step: batches are functions of the seed and the step, so that the weights, the optimiser and
the counters are the whole state.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from pipeline.compute.progress import JsonLines, track
from pipeline.errors import PipelineError
from pipeline.training.checkpoint import ResumeFile
from pipeline.training.crops import made_ahead
from pipeline.training.mean_teacher import MeanTeacher
from pipeline.training.options import LoopOptions, PhaseOptions

B = TypeVar("B")
B_contra = TypeVar("B_contra", contravariant=True)

FINAL_RATE = 0.01
"""Share of the learning rate that is left at the end of a cosine decay."""


class Loss(Protocol[B_contra]):
    """Gives the loss of a batch, under ``loss``, and figures to log beside it."""

    def __call__(
        self, student: nn.Module, teacher: nn.Module, batch: B_contra, phase_step: int
    ) -> Mapping[str, Tensor]:
        """Compute it; ``phase_step`` counts from 0."""


@dataclass(frozen=True)
class Phase(Generic[B]):
    """A stretch of training with one loss and one optimiser.

    Args:
        name: Name in curves and logs.
        options: Length and learning rates.
        trained: Children of the network that learn; the others stand still, their batch norm in evaluation mode.
        make_batch: Gives the batch of a step of the whole training; called in threads.
        loss: Gives the loss.
    """

    name: str
    options: PhaseOptions
    trained: tuple[str, ...]
    make_batch: Callable[[int], B]
    loss: Loss[B]


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


@dataclass
class Trained:
    """What a training gives.

    Args:
        chosen: Teacher weights with the least held-out error.
        last: The last teacher weights.
        curves: Figures by step, in order.
    """

    chosen: Chosen
    last: Chosen
    curves: list[tuple[int, dict[str, float]]]


@dataclass
class _State:
    """Where the training stands, beside the networks and the optimiser."""

    phase: int = 0
    phase_step: int = 0
    step: int = 0
    chosen: Chosen | None = None
    last: Chosen | None = None
    curves: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)
    summed_steps: int = 0


class Training(Generic[B]):
    """Trains a network through its phases; each goes on from the weights chosen in the one before.

    Args:
        net: Network on its device; trained in place.
        phases: What to do; phases of no steps are left out.
        options: Averaging, clipping, intervals.
        fabric: Device and precision.
        evaluate: Gives the figures of a network on the held-out images after a phase, by its name.
        error_name: Which of these figures chooses the checkpoint; the least wins, of equals the latest.
        resume: Where the state is kept.
        log: Where lines are written.
    """

    def __init__(
        self,
        net: nn.Module,
        phases: Sequence[Phase[B]],
        *,
        options: LoopOptions,
        fabric: Fabric,
        evaluate: Callable[[nn.Module, str], dict[str, float]],
        error_name: str,
        resume: ResumeFile,
        log: JsonLines,
    ) -> None:
        self._phases = [phase for phase in phases if phase.options.steps]
        if not self._phases:
            raise PipelineError(
                "there is nothing to train: every phase has 0 steps; give at least one phase some steps"
            )
        self._net, self._options, self._fabric = net, options, fabric
        self._teacher = MeanTeacher(net, decay=options.ema_decay)
        self._evaluate, self._error_name = evaluate, error_name
        self._resume, self._log = resume, log
        self._state = _State()

    def run(self, description: str) -> Trained:
        """Train, from the beginning or from where a killed run left its state.

        Args:
            description: What the progress display calls it.

        Raises:
            PipelineError: If the loss stops being a number.
        """
        saved = self._resume.load(self._fabric.device)
        optimizer_state = self._restore(saved) if saved else None
        total = sum(phase.options.steps for phase in self._phases)
        with _repeatable(self._fabric.device):
            for _ in track(
                self._steps(optimizer_state), description=description, total=total - self._state.step, unit="steps"
            ):
                pass
        state = self._state
        assert state.chosen is not None
        assert state.last is not None
        return Trained(chosen=state.chosen, last=state.last, curves=state.curves)

    def _steps(self, optimizer_state: dict[str, Any] | None) -> Iterator[int]:
        state = self._state
        while state.phase < len(self._phases):
            phase = self._phases[state.phase]
            student, optimizer = self._begin(phase, optimizer_state)
            optimizer_state = None
            ahead = range(state.step, state.step + phase.options.steps - state.phase_step)
            for _, batch in made_ahead(phase.make_batch, ahead, workers=self._options.load_workers):
                self._step(phase, student, optimizer, batch)
                ends = state.phase_step == phase.options.steps
                if ends or state.phase_step % self._options.evaluate_every == 0:
                    self._look(phase)
                if ends:
                    state.phase, state.phase_step = state.phase + 1, 0
                    self._hand_on()
                if state.step % self._options.checkpoint_every == 0:
                    self._save(optimizer)
                yield state.step
        self._save(None)

    def _begin(
        self, phase: Phase[B], optimizer_state: dict[str, Any] | None
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Set what learns, and give the network and its optimiser as Fabric runs them."""
        unknown = set(phase.trained) - {name for name, _ in self._net.named_children()}
        assert not unknown, unknown
        self._net.train()
        groups = []
        for name, child in self._net.named_children():
            learns = name in phase.trained
            child.train(learns).requires_grad_(learns)
            if learns:
                options = phase.options
                rate = options.encoder_learning_rate if name == "encoder" else options.learning_rate
                groups.append({"params": list(child.parameters()), "lr": rate, "full_lr": rate})
        optimizer = torch.optim.Adam(groups, weight_decay=phase.options.weight_decay)
        if optimizer_state is not None:
            optimizer.load_state_dict(optimizer_state)
        student, wrapped = self._fabric.setup(self._net, optimizer)
        return student, wrapped

    def _step(self, phase: Phase[B], student: nn.Module, optimizer: torch.optim.Optimizer, batch: B) -> None:
        state = self._state
        for group in optimizer.param_groups:
            group["lr"] = group["full_lr"] * rate_share(phase.options, state.phase_step)
        figures = phase.loss(student, self._teacher.net, batch, state.phase_step)
        optimizer.zero_grad(set_to_none=True)
        self._fabric.backward(figures["loss"])
        self._fabric.clip_gradients(student, optimizer, max_norm=self._options.clip_norm, error_if_nonfinite=False)
        optimizer.step()
        self._teacher.update(self._net, step=state.phase_step)
        state.phase_step += 1
        state.step += 1
        state.summed_steps += 1
        for name, value in figures.items():
            state.sums[name] = state.sums.get(name, torch.zeros_like(value.detach())) + value.detach()
        if state.step % self._options.log_every == 0 or state.phase_step == phase.options.steps:
            self._log_curves(phase)

    def _log_curves(self, phase: Phase[B]) -> None:
        state = self._state
        means = {f"{phase.name}/{name}": float(value) / state.summed_steps for name, value in state.sums.items()}
        state.sums, state.summed_steps = {}, 0
        if not all(math.isfinite(value) for value in means.values()):
            raise PipelineError(
                f"the loss of phase {phase.name!r} is no longer a number at step {state.step}: {means}; lower its "
                "learning_rate in params.yaml"
            )
        state.curves.append((state.step, means))
        self._log.write(step=state.step, **means)

    def _look(self, phase: Phase[B]) -> None:
        """Evaluate the teacher, and keep its weights if they are the best so far."""
        state = self._state
        metrics = self._evaluate(self._teacher.net, phase.name)
        self._log.write(step=state.step, **{f"held_out/{name}": value for name, value in metrics.items()})
        state.curves.append((state.step, {f"held_out/{name}": value for name, value in metrics.items()}))
        if state.phase_step < self._options.choose_from_frac * phase.options.steps:
            return
        weights = {name: value.detach().cpu().clone() for name, value in self._teacher.net.state_dict().items()}
        state.last = Chosen(state.step, metrics, weights)
        if state.chosen is None or metrics[self._error_name] <= state.chosen.metrics[self._error_name]:
            state.chosen = state.last

    def _hand_on(self) -> None:
        """Let the next phase, if there is one, go on from the chosen weights and choose anew."""
        state = self._state
        if state.phase == len(self._phases):
            return
        assert state.chosen is not None
        self._net.load_state_dict(state.chosen.weights)
        self._teacher.net.load_state_dict(state.chosen.weights)
        state.chosen = None

    def _save(self, optimizer: torch.optim.Optimizer | None) -> None:
        state = self._state
        between_phases = state.phase_step == 0
        self._resume.save(
            {
                "net": self._net.state_dict(),
                "teacher": self._teacher.net.state_dict(),
                "optimizer": None if optimizer is None or between_phases else optimizer.state_dict(),
                "state": vars(state) | {name: vars(kept) if kept else None for name, kept in self._kept().items()},
            }
        )

    def _kept(self) -> dict[str, Chosen | None]:
        return {"chosen": self._state.chosen, "last": self._state.last}

    def _restore(self, saved: dict[str, Any]) -> dict[str, Any] | None:
        self._net.load_state_dict(saved["net"])
        self._teacher.net.load_state_dict(saved["teacher"])
        fields = saved["state"]
        for name in self._kept():
            if kept := fields[name]:
                weights = {key: value.cpu() for key, value in kept["weights"].items()}
                fields[name] = Chosen(kept["step"], kept["metrics"], weights)
        self._state = _State(**fields)
        optimizer: dict[str, Any] | None = saved["optimizer"]
        return optimizer


def rate_share(options: PhaseOptions, phase_step: int) -> float:
    """Give the share of the learning rate that holds at a step of a phase."""
    ramp = min(1.0, (phase_step + 1) / (options.ramp_steps + 1))
    if options.decay == "constant":
        return ramp
    return ramp * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * phase_step / options.steps)))


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Use deterministic kernels on the CPU, where a resumed run must give the bytes of an unbroken one."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(device.type == "cpu", warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
