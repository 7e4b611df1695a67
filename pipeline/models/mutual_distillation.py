"""P2Seg's network: class logits, offsets to the own point, and an embedding whose inner products say "same mask".

Any encoder with features at strides 4 to 32 (arXiv 2401.09709; specification P2Seg §1). Its centre heatmap, which has
no weight there, is left out.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.backbones import COMPACT, PYRAMID_STRIDES, build_backbone
from pipeline.models.fpn import Fpn
from pipeline.models.network_input import normalize_image, require_sides

STRIDE = 4
"""Image pixels per cell of the class logits and of the offsets."""
SIZE_MULTIPLE = 32
"""Both sides of an input are multiples of this."""
START_SCALE = 4.0
"""Learned scale of the cosines at the start: affinities then lie between σ(−4) and σ(4)."""


@dataclass(frozen=True)
class MutualDistillationOptions:
    """Size and start of the network.

    Published: ``backbone="hrnet_w48", pretrained=True, width=256, affinity_dim=256, affinity_stride=4``. The defaults
    have 0.2 M parameters and train on images of about 100 px on a CPU.

    Args:
        backbone: timm model with features at strides 4, 8, 16 and 32, or ``compact``.
        pretrained: Start the backbone from timm's ImageNet weights (fetched once, needs a network).
        width: Channels of the fused features and of the heads.
        affinity_dim: Channels of the embedding.
        affinity_stride: Image pixels per cell of the embedding; 8 takes a sixteenth of the work of 4.
    """

    backbone: str = COMPACT
    pretrained: bool = False
    width: int = 32
    affinity_dim: int = 32
    affinity_stride: Literal[4, 8] = 8

    def __post_init__(self) -> None:
        """Refuse sizes that no network can have."""
        for name in ("width", "affinity_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1 channel, got {getattr(self, name)}")
        if self.affinity_stride not in (4, 8):
            raise ValueError(f"affinity_stride: expected 4 or 8, got {self.affinity_stride}")


class MutualOutput(NamedTuple):
    """What the network says of a batch.

    Args:
        class_logits: (B, C + 1, H/4, W/4); channel 0 is background, channel k + 1 is class_id k.
        offsets: (B, 2, H/4, W/4) way to the own point as (dy, dx), pixels of the input.
        embedding: (B, E, H/s, W/s); the affinity of two cells is σ of their inner product, its columns being unit
            vectors times the root of the learned scale.
    """

    class_logits: Tensor
    offsets: Tensor
    embedding: Tensor


class AffinityHead(nn.Module):
    """One convolution to unit vectors, times the root of a learned scale.

    Args:
        in_channels: Channels of the features, at stride 4.
        out_channels: Channels of the embedding.
        stride: Image pixels per cell of the embedding: 4 or 8.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride // STRIDE, padding=1)
        self.log_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))

    def forward(self, features: Tensor) -> Tensor:
        """Turn (B, C, h, w) into (B, E, h', w')."""
        return F.normalize(self.conv(features), dim=1) * (0.5 * self.log_scale).exp()


class MutualDistillation(nn.Module):
    """Encoder, pyramid and three heads.

    Args:
        options: Sizes; see :class:`MutualDistillationOptions`.
        n_classes: Number of classes, without background.

    Raises:
        PipelineError: If the backbone is unknown, lacks a stride, or its weights cannot be had.
    """

    def __init__(self, options: MutualDistillationOptions, n_classes: int) -> None:
        super().__init__()
        if n_classes < 1:
            raise ValueError(f"n_classes: expected at least 1, got {n_classes}")
        self.options = options
        self.n_classes = n_classes
        self.encoder = build_backbone(options.backbone, pretrained=options.pretrained, strides=PYRAMID_STRIDES)
        self.fpn = Fpn(self.encoder.channels, options.width)
        self.class_head = _head(options.width, n_classes + 1)
        self.offset_head = _head(options.width, 2)
        self.affinity_head = AffinityHead(options.width, options.affinity_dim, options.affinity_stride)

    def forward(self, images: Tensor) -> MutualOutput:
        """Run the network.

        Args:
            images: (B, 3, H, W) float RGB in [0, 1]; H and W are multiples of 32. ImageNet's mean and deviation are
                taken off inside.

        Raises:
            ValueError: If a side is not a multiple of 32.
        """
        require_sides(images, SIZE_MULTIPLE)
        features = F.relu(self.fpn(self.encoder(normalize_image(images)))[0])
        # in units of the stride, so that a head that starts near zero can move by many pixels
        offsets = self.offset_head(features) * STRIDE
        return MutualOutput(self.class_head(features), offsets, self.affinity_head(features))


def _head(width: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, out_channels, 1))


def build_mutual_distillation(options: MutualDistillationOptions, n_classes: int) -> MutualDistillation:
    """Build the network on the CPU, in training mode; see :class:`MutualDistillation`."""
    return MutualDistillation(options, n_classes)
