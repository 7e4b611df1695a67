"""Encoders: any timm network that gives features at the strides a head asks for, or the compact one of this project."""

import difflib
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError

STRIDES = (8, 16)
"""Strides of the taps that the crowd network uses."""
PYRAMID_STRIDES = (4, 8, 16, 32)
"""Strides of the taps that a feature pyramid uses."""
COMPACT = "compact"
"""Name of this project's own small encoder, beside timm's names."""
COMPACT_CHANNELS = (16, 32, 48, 64)
"""Its channels at strides 4, 8, 16 and 32."""


class Backbone(nn.Module):
    """The part of a timm network up to its last tap, with one tap for each stride.

    Of several stages with one stride the last is tapped. In timm's VGG networks strides 8 and 16 are the ends of blocks
    4 and 5 (after batch norm and ReLU, before the pool that follows), 512 channels each, which are the taps of XMask's
    paper.

    Args:
        name: timm model name.
        pretrained: Start from timm's weights instead of a random start.
        strides: Image pixels per cell of each tap, ascending.

    Raises:
        PipelineError: If timm has no such network, it lacks a stride, or its weights cannot be had.
    """

    def __init__(self, name: str, *, pretrained: bool, strides: Sequence[int] = STRIDES) -> None:
        super().__init__()
        import timm  # late: it takes seconds, and every command reads the options that stand beside the networks

        indices = _tap_indices(name, strides)
        try:
            self.body = timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=indices)
        except Exception as error:  # hub, network and disk faults share no base class
            if not pretrained:
                raise
            raise PipelineError(
                f"backbone: the ImageNet weights of {name!r} cannot be loaded ({error}); connect this machine to "
                "the Hugging Face hub once (or set HF_HOME to a folder that has them), or set pretrained: false"
            ) from error
        info: Any = self.body.feature_info
        self.channels: tuple[int, ...] = tuple(info.channels())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Give the features of (B, 3, H, W) images, one map for each stride."""
        return tuple(self.body(images))


class CompactBackbone(nn.Module):
    """A stem and four stages of two 3×3 convolutions each, group norm throughout; for networks trained on a CPU.

    0.12 M parameters; a step of 8 images of 96×96 px took a core 10 ms, that of resnet10t 168 ms.

    Args:
        strides: Image pixels per cell of each tap, ascending; some of 4, 8, 16 and 32.
    """

    def __init__(self, *, strides: Sequence[int] = PYRAMID_STRIDES) -> None:
        super().__init__()
        depth = PYRAMID_STRIDES.index(max(strides)) + 1
        widths = (COMPACT_CHANNELS[0], *COMPACT_CHANNELS[:depth])
        self.stem = _compact_block(3, widths[0], stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(_compact_block(before, width, stride=2), _compact_block(width, width, stride=1))
            for before, width in itertools.pairwise(widths)
        )
        self._taps = tuple(PYRAMID_STRIDES.index(stride) for stride in strides)
        self.channels: tuple[int, ...] = tuple(COMPACT_CHANNELS[tap] for tap in self._taps)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Give the features of (B, 3, H, W) images, one map for each stride."""
        features, maps = self.stem(images), []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return tuple(maps[tap] for tap in self._taps)


def _compact_block(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(8, out_channels), nn.ReLU(inplace=True))


def build_backbone(name: str, *, pretrained: bool, strides: Sequence[int] = STRIDES) -> Backbone | CompactBackbone:
    """Build an encoder: ``compact`` is :class:`CompactBackbone`, any other name :class:`Backbone`.

    Raises:
        PipelineError: If the network is unknown, lacks a stride, or its weights cannot be had.
    """
    if name != COMPACT:
        return Backbone(name, pretrained=pretrained, strides=strides)
    if pretrained:
        raise PipelineError(
            f"pretrained: {COMPACT!r} has no ImageNet weights; set it to false, or choose a network of timm"
        )
    return CompactBackbone(strides=strides)


def _tap_indices(name: str, wanted: Sequence[int]) -> tuple[int, ...]:
    """Find the last stage of each stride, on a network without memory."""
    import timm  # late, as above

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; timm.list_models() lists the names"
        raise PipelineError(f"backbone: timm {timm.__version__} has no network {name!r}{hint}")
    try:
        with torch.device("meta"):
            info: Any = timm.create_model(name, pretrained=False, features_only=True).feature_info
        strides = info.reduction()
    except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
        raise PipelineError(f"backbone: {name!r} has no features_only form ({error}); choose another") from error
    if not set(wanted) <= set(strides):
        names = f"{', '.join(map(str, wanted[:-1]))} and {wanted[-1]}" if len(wanted) > 1 else f"{wanted[0]}"
        raise PipelineError(
            f"backbone: {name!r} has features at strides {strides}, expected {names} among them; choose another"
        )
    last = {stride: index for index, stride in enumerate(strides)}
    return tuple(last[stride] for stride in wanted)
