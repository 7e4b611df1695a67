"""The training loop: phases of optimiser steps, a teacher average, looks at held-out images, exact resume.

Nothing random survives a step: batches are functions of the seed and the step, so that the weights, the optimiser and
the counters are the whole state. Ranks of a distributed run hold the same weights; the first one looks, logs and saves.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch import Tensor, nn

from pipeline.compute.progress import JsonLines, track
from pipeline.errors import PipelineError
from pipeline.training.checkpoint import ResumeFile
from pipeline.training.choice import Choice, Chosen
from pipeline.training.crops import made_ahead
from pipeline.training.mean_teacher import MeanTeacher
from pipeline.training.optimizers import build_optimizer
from pipeline.training.phases import B, LoopSettings, Phase, rate_share
from pipeline.training.ranks import mean_over_ranks, share_buffers


@dataclass
class Trained:
    """What a training gives.

    Args:
        chosen: Teacher weights with the least held-out error.
        last: The last teacher weights.
        curves: Figures by step, in order.
        oracle: Figures and step of the least error seen on the test images, where they were looked at.
    """

    chosen: Chosen
    last: Chosen
    curves: list[tuple[int, dict[str, float]]]
    oracle: dict[str, float] | None = None


@dataclass
class _State:
    """Where the training stands, beside the networks, the optimiser and the choice."""

    phase: int = 0
    phase_step: int = 0
    step: int = 0
    curves: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)
    summed_steps: dict[str, int] = field(default_factory=dict)


class Training(Generic[B]):
    """Trains a network through its phases; each goes on from the weights chosen in the one before.

    Args:
        net: Network on its device; trained in place.
        phases: What to do; phases of no steps are left out.
        options: Averaging, clipping, intervals.
        fabric: Device, precision and ranks, launched.
        evaluate: Gives the figures of a network on the held-out images after a phase, by its name.
        error_name: Which of these figures chooses the checkpoint; the least wins, of equals the latest.
        resume: Where the state is kept.
        log: Where lines are written; None on other ranks than the first.
        rescue: Writes the last good weights of a training that diverged, and says where.
        oracle: Gives the figures of a network on the test images; looked at beside, never for choosing.
        keep_at: Steps of the whole training after which ``keep`` is given the teacher's weights.
        keep: Takes them, on the first rank; a resumed run gives the same ones again where it had not saved its state.
    """

    def __init__(
        self,
        net: nn.Module,
        phases: Sequence[Phase[B]],
        *,
        options: LoopSettings,
        fabric: Fabric,
        evaluate: Callable[[nn.Module, str], dict[str, float]],
        error_name: str,
        resume: ResumeFile,
        log: JsonLines | None,
        rescue: Callable[[Chosen], Path],
        oracle: Callable[[nn.Module], dict[str, float]] | None = None,
        keep_at: frozenset[int] = frozenset(),
        keep: Callable[[Chosen], None] | None = None,
    ) -> None:
        self._phases = [phase for phase in phases if phase.options.steps]
        if not self._phases:
            raise PipelineError(
                "there is nothing to train: every phase has 0 steps; give at least one phase some steps"
            )
        self._net, self._options, self._fabric = net, options, fabric
        self._teacher = MeanTeacher(net, decay=options.ema_decay, average_buffers=options.ema_buffers)
        self._evaluate, self._oracle = evaluate, oracle
        self._resume, self._log, self._rescue = resume, log, rescue
        self._keep_at, self._keep = keep_at, keep
        self._choice = Choice(error_name, patience=options.patience)
        self._state = _State()
        self._description = "training"

    def run(self, description: str) -> Trained:
        """Train, from the beginning or from where a killed run left its state.

        Args:
            description: What the progress display calls it: the section of its options.

        Raises:
            PipelineError: If loss or gradient stop being numbers; no weights are spoilt by them.
        """
        self._description = description
        saved = self._resume.load(self._fabric.device)
        optimizer_state = self._restore(saved) if saved else None
        total = sum(phase.options.steps for phase in self._phases)
        shown = None if self._fabric.is_global_zero else Console(quiet=True)
        with _repeatable(self._fabric.device):
            for _ in track(
                self._steps(optimizer_state),
                description=description,
                total=total - self._state.step,
                unit="steps",
                console=shown,
            ):
                pass
        best, last = self._choice.best, self._choice.last
        assert best is not None
        assert last is not None
        return Trained(chosen=best, last=last, curves=self._state.curves, oracle=self._choice.oracle)

    def _steps(self, optimizer_state: dict[str, Any] | None) -> Iterator[int]:
        state = self._state
        while state.phase < len(self._phases):
            phase = self._phases[state.phase]
            student, optimizer = self._begin(phase, optimizer_state)
            optimizer_state = None
            ahead = range(state.step, state.step + phase.options.steps - state.phase_step)
            with closing(made_ahead(phase.make_batch, ahead, workers=self._options.load_workers)) as batches:
                for _, batch in batches:
                    self._step(phase, student, optimizer, batch)
                    ends = self._look_and_log(phase)
                    if state.step in self._keep_at and self._keep and self._fabric.is_global_zero:
                        self._keep(Chosen(state.step, {}, self._teacher_weights()))
                    if ends:
                        state.phase, state.phase_step = state.phase + 1, 0
                        self._hand_on()
                    if state.step % self._options.checkpoint_every == 0:
                        self._save(optimizer)
                    yield state.step
                    if ends:
                        break
        self._save(None)

    def _begin(
        self, phase: Phase[B], optimizer_state: dict[str, Any] | None
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Set what learns, and give the network and its optimiser as Fabric runs them."""
        unknown = set(phase.trained) - {name for name, _ in self._net.named_children()}
        assert not unknown, unknown
        self._net.train()
        for name, child in self._net.named_children():
            child.train(name in phase.trained).requires_grad_(name in phase.trained)
        if self._options.frozen_norm:
            for module in self._net.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        children = {name: child for name, child in self._net.named_children() if name in phase.trained}
        optimizer = build_optimizer(children, phase.options)
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
        norm = self._fabric.clip_gradients(
            student, optimizer, max_norm=self._options.clip_norm, error_if_nonfinite=False
        )
        assert norm is not None
        self._require_numbers(phase, optimizer, figures["loss"].detach(), norm)
        optimizer.step()
        if not self._options.frozen_norm:
            share_buffers(self._net, self._fabric)
        self._teacher.update(self._net, step=state.phase_step)
        state.phase_step += 1
        state.step += 1
        for name, value in figures.items():
            state.sums[name] = state.sums.get(name, torch.zeros_like(value.detach())) + value.detach()
            state.summed_steps[name] = state.summed_steps.get(name, 0) + 1

    def _require_numbers(
        self, phase: Phase[B], optimizer: torch.optim.Optimizer, loss: Tensor, gradient_norm: Tensor
    ) -> None:
        """Stop before the optimiser's step if loss or gradient is no number, on any rank."""
        if self._options.precision == "16-mixed":  # its scaler meets infinite gradients by itself, and skips the step
            gradient_norm = torch.zeros_like(gradient_norm)
        seen_loss, seen_norm = mean_over_ranks(torch.stack([loss, gradient_norm.to(loss)]), self._fabric).tolist()
        if math.isfinite(seen_loss) and math.isfinite(seen_norm):
            return
        state = self._state
        self._save(optimizer)
        if not self._fabric.is_global_zero:
            self._fabric.barrier()
            raise PipelineError(f"rank {self._fabric.global_rank} stops with the first one")
        kept = self._rescue(self._choice.best or Chosen(state.step, {}, self._teacher_weights()))
        self._fabric.barrier()
        raise PipelineError(
            f"the loss of phase {phase.name!r} is no longer a number at step {state.step + 1} (loss {seen_loss}, norm "
            f"of its gradient {seen_norm}), on {phase.describe(state.step)}; the last good weights are in {kept}: "
            f"lower {self._description}.{phase.name}.learning_rate in params.yaml, or look at these images"
        )

    def _look_and_log(self, phase: Phase[B]) -> bool:
        """Do what is due after a step, and say whether the phase ends with it."""
        state, options = self._state, self._options
        ends = state.phase_step == phase.options.steps
        looks = ends or state.phase_step % options.evaluate_every == 0
        if ends or state.step % options.log_every == 0:
            self._log_curves(phase)
        if looks:
            self._look(phase)
        if looks and not ends and self._choice.is_exhausted:
            ends = True
            self._log_curves(phase)
        return ends

    def _log_curves(self, phase: Phase[B]) -> None:
        state = self._state
        if not state.sums:
            return
        names = list(state.sums)
        means = torch.stack([state.sums[name] / state.summed_steps[name] for name in names])
        shared = mean_over_ranks(means, self._fabric).tolist()
        state.sums, state.summed_steps = {}, {}
        self._note({f"{phase.name}/{name}": value for name, value in zip(names, shared, strict=True)})

    def _note(self, figures: dict[str, float]) -> None:
        self._state.curves.append((self._state.step, figures))
        if self._log is not None:
            self._log.write(step=self._state.step, **figures)

    def _look(self, phase: Phase[B]) -> None:
        """Evaluate the teacher, and keep its weights if they are the best so far."""
        state, first = self._state, self._fabric.is_global_zero
        metrics = self._fabric.broadcast(self._evaluate(self._teacher.net, phase.name) if first else {})
        self._note({f"held_out/{name}": value for name, value in metrics.items()})
        if self._oracle is not None:
            self._choice.see_test(self._fabric.broadcast(self._oracle(self._teacher.net) if first else {}), state.step)
            assert self._choice.oracle is not None
            self._note({f"oracle_best/{name}": value for name, value in self._choice.oracle.items()})
        if state.phase_step >= self._options.choose_from_frac * phase.options.steps:
            self._choice.take(Chosen(state.step, metrics, self._teacher_weights()))

    def _teacher_weights(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self._teacher.net.state_dict().items()}

    def _hand_on(self) -> None:
        """Let the next phase, if there is one, go on from the chosen weights and choose anew."""
        if self._state.phase == len(self._phases):
            return
        assert self._choice.best is not None
        self._net.load_state_dict(self._choice.best.weights)
        self._teacher.net.load_state_dict(self._choice.best.weights)
        self._choice.begin_phase(keeps_start=self._phases[self._state.phase].keeps_start)

    def _save(self, optimizer: torch.optim.Optimizer | None) -> None:
        if not self._fabric.is_global_zero:
            return
        between_phases = self._state.phase_step == 0
        self._resume.save(
            {
                "net": self._net.state_dict(),
                "teacher": self._teacher.net.state_dict(),
                "optimizer": None if optimizer is None or between_phases else optimizer.state_dict(),
                "choice": self._choice.state_dict(),
                "state": vars(self._state),
            }
        )

    def _restore(self, saved: dict[str, Any]) -> dict[str, Any] | None:
        self._net.load_state_dict(saved["net"])
        self._teacher.net.load_state_dict(saved["teacher"])
        self._choice.load_state_dict(saved["choice"])
        self._state = _State(**saved["state"])
        optimizer: dict[str, Any] | None = saved["optimizer"]
        return optimizer


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Use deterministic kernels on the CPU, where a resumed run must give the bytes of an unbroken one."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(device.type == "cpu", warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
