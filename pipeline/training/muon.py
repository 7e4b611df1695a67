"""Muon for convolutions: PyTorch's optimiser, which takes matrices alone, on kernels laid flat."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class KernelMuon(torch.optim.Muon):
    """Steps along the orthogonalised momentum of each kernel (Jordan et al. 2024, "Muon").

    A kernel (out, in, h, w) counts as the matrix (out, in·h·w), in place.

    Args:
        kernels: Contiguous parameters of two dimensions or more.
        **options: Those of :class:`torch.optim.Muon`.
    """

    def __init__(self, kernels: Iterable[nn.Parameter], **options: Any) -> None:
        self._kernels = list(kernels)
        super().__init__([nn.Parameter(kernel.detach().flatten(1)) for kernel in self._kernels], **options)

    def step(self, closure: Any = None) -> Any:
        """Move every kernel that has a gradient; see :meth:`torch.optim.Optimizer.step`."""
        for kernel, flat in zip(self._kernels, self.param_groups[0]["params"], strict=True):
            flat.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        return super().step(closure)  # type: ignore[no-untyped-call]


def split_kernels(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Divide a network's parameters into those for Muon and those for AdamW.

    Muon gets the kernels between hidden layers; first and last layers, norms, biases and linear layers are left, as its
    author advises.

    Args:
        network: The network; a convolution of fewer than 8 channels in or out counts as its first or last.
    """
    kernels: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in network.parameters():
        hidden = parameter.ndim == 4 and min(parameter.shape[:2]) >= 8
        (kernels if hidden else others).append(parameter)
    return kernels, others
