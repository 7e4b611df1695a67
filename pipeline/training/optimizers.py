"""Optimisers of the training loop: Adam and SGD as published, and Muon for networks that start from nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.training.phases import PhaseLength

KERNEL_RATE = 15.0
"""Rate of Muon on kernels, as a multiple of the rate of Adam on all else."""
KERNEL_DECAY = 0.01
MOMENTUM = 0.95
ORTHOGONALIZING = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (Jordan et al. 2024)."""


def build_optimizer(children: Mapping[str, nn.Module], options: PhaseLength) -> torch.optim.Optimizer:
    """Build the optimiser of a phase.

    Args:
        children: Name → part of the network that learns; ``encoder`` has its own rate.
        options: Rates, weight decay, kind of optimiser.

    Returns:
        One whose groups carry their full rate under ``full_lr``, beside ``lr``, which the loop sets at each step.
    """
    groups = []
    for name, child in children.items():
        rate = options.encoder_learning_rate if name == "encoder" else options.learning_rate
        groups.append({"params": list(child.parameters()), "lr": rate, "full_lr": rate})
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=options.momentum, weight_decay=options.weight_decay)
    if options.optimizer == "muon":
        return AdamWithMuon(groups, weight_decay=options.weight_decay)
    assert options.optimizer == "adam", options.optimizer
    return torch.optim.Adam(groups, weight_decay=options.weight_decay)


class AdamWithMuon(torch.optim.Adam):
    """Muon on the kernels between hidden layers, Adam on everything else.

    Muon steps along the orthogonalised momentum of each kernel (Jordan et al. 2024, "Muon"); a kernel (out, in, h, w)
    counts as the matrix (out, in·h·w). First and last layers, norms and biases are left to Adam, as its author advises:
    kernels of fewer than 8 channels in or out count as such. The kernels' rate is :data:`KERNEL_RATE` times the
    group's.

    Args:
        groups: Parameter groups with their rates.
        weight_decay: Of Adam; Muon's is :data:`KERNEL_DECAY`, decoupled.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], *, weight_decay: float) -> None:
        super().__init__(groups, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every parameter that has a gradient; see :meth:`torch.optim.Optimizer.step`."""
        kernels = [
            (kernel, kernel.grad, group["lr"])
            for group in self.param_groups
            for kernel in group["params"]
            if kernel.grad is not None and kernel.ndim == 4 and min(kernel.shape[:2]) >= 8
        ]
        for kernel, gradient, rate in kernels:
            self._move(kernel, gradient, KERNEL_RATE * rate)
            kernel.grad = None  # Adam leaves it alone
        result = super().step(closure)
        for kernel, gradient, _ in kernels:
            kernel.grad = gradient
        return result

    def _move(self, kernel: Tensor, gradient: Tensor, rate: float) -> None:
        state = self.state[kernel]
        if "momentum" not in state:
            state["step"] = torch.tensor(0.0)  # Adam restores no state without it
            state["momentum"] = torch.zeros_like(kernel)
        state["step"] += 1
        momentum: Tensor = state["momentum"]
        momentum.mul_(MOMENTUM).add_(gradient)
        update = orthogonalize((gradient + MOMENTUM * momentum).flatten(1))
        rows, columns = update.shape
        kernel.mul_(1 - KERNEL_DECAY * rate)
        kernel.sub_(update.reshape(kernel.shape), alpha=rate * max(1.0, rows / columns) ** 0.5)


def orthogonalize(matrix: Tensor, *, iterations: int = 5) -> Tensor:
    """Bring the singular values of a matrix near 1, its singular vectors as they are.

    Args:
        matrix: (M, N) float32.
        iterations: Steps of the quintic Newton–Schulz iteration, in bfloat16 as its author runs it.

    Returns:
        (M, N) in the matrix's type, singular values from about 0.7 to 1.2; zeros for zeros.
    """
    first, third, fifth = ORTHOGONALIZING
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=third, alpha=fifth), x, beta=first)
    return (x.T if tall else x).to(matrix.dtype)
