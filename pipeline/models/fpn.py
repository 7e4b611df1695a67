"""Feature pyramid: the maps of an encoder brought to one width, each with what the coarser ones know."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Fpn(nn.Module):
    """Turns maps of growing stride into as many of one width, and one more at twice the last stride.

    Args:
        in_channels: Channels of the encoder's maps, finest first.
        width: Channels of every level; 256 in the published network.
    """

    def __init__(self, in_channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in in_channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Give the levels, finest first: strides 4, 8, 16, 32 and 64 from maps at strides 4, 8, 16 and 32."""
        sides = [lateral(level) for lateral, level in zip(self.lateral, maps, strict=True)]
        for k in range(len(sides) - 1, 0, -1):
            finer = sides[k - 1]
            sides[k - 1] = finer + F.interpolate(sides[k], size=finer.shape[-2:], mode="nearest")
        levels = [smooth(side) for smooth, side in zip(self.smooth, sides, strict=True)]
        return [*levels, F.max_pool2d(levels[-1], kernel_size=1, stride=2)]
