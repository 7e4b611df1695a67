"""The teacher: a running average of the student's weights."""

import copy

import torch
from torch import nn


class MeanTeacher:
    """Exponential moving average of a network: of its parameters, and of its buffers where asked for.

    Args:
        student: Network to follow; the teacher starts from its weights.
        decay: Share of the old average that is kept at each step, in [0, 1).
        average_buffers: Average floating point buffers as well (batch norm's running statistics); they are copied
            otherwise, as whole numbers always are.
    """

    def __init__(self, student: nn.Module, *, decay: float, average_buffers: bool = False) -> None:
        self.net = copy.deepcopy(student).eval().requires_grad_(False)
        self._decay, self._average_buffers = decay, average_buffers

    @torch.no_grad()
    def update(self, student: nn.Module, *, step: int) -> None:
        """Take in the student's weights.

        Args:
            student: Network after its step.
            step: Steps taken before, from 0; the first ones count more, so that the start is soon forgotten.
        """
        keep = min(self._decay, (1 + step) / (10 + step))
        for average, weight in zip(self.net.parameters(), student.parameters(), strict=True):
            average.lerp_(weight.detach().to(average.dtype), 1 - keep)
        for own, buffer in zip(self.net.buffers(), student.buffers(), strict=True):
            if self._average_buffers and own.is_floating_point():
                own.lerp_(buffer.to(own.dtype), 1 - keep)
            else:
                own.copy_(buffer)
