"""SOLOv2: instances without boxes; every cell of a grid gives a class and a kernel that draws its mask.

Five levels of a feature pyramid are each brought to a grid of S×S cells. A cell's kernel, a vector, is multiplied with
the one mask feature map of the image: mask = σ(kernel · F). See arXiv 2003.10152 and specs/pointwssis.md, section 2.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.backbones import COMPACT, PYRAMID_STRIDES, build_backbone
from pipeline.models.fpn import Fpn
from pipeline.models.network_input import normalize_image, require_sides

LEVEL_STRIDES = (8, 8, 16, 32, 32)
"""Image pixels per cell of the five maps that are brought to the grids."""
MASK_STRIDE = 4
"""Image pixels per cell of the mask features."""
SIZE_MULTIPLE = 32
"""Both sides of an input are multiples of this."""
MAX_GROUPS = 32

TEACHER_GRIDS = (80, 64, 32, 24, 12)
"""PointWSSIS's teacher: dense grids, for images with a short side of 640 to 800 px."""
STUDENT_GRIDS = (40, 36, 24, 16, 12)
"""PointWSSIS's student, and SOLOv2 as published."""


@dataclass(frozen=True)
class Solov2Options:
    """Size and start of the network.

    Published: ``backbone="resnet101", pretrained=True, fpn_width=256, tower_width=512, tower_depth=4, kernel_dim=256,
    mask_width=128``, with :data:`TEACHER_GRIDS` or :data:`STUDENT_GRIDS`. The defaults have 0.3 M parameters and train
    on images of 64 to 128 px on a CPU.

    Args:
        backbone: timm model with features at strides 4, 8, 16 and 32, or ``compact``.
        pretrained: Start the backbone from timm's ImageNet weights (fetched once, needs a network).
        fpn_width: Channels of the pyramid.
        tower_width: Channels of the class tower and of the kernel tower.
        tower_depth: Convolutions in each tower.
        kernel_dim: Channels of the kernels and of the mask features.
        mask_width: Channels of the mask branch before them.
        grids: Cells along each side, one number for each of the five levels, finest level first.
        prior_prob: Probability of every class that each cell starts with, in (0, 1).
    """

    backbone: str = COMPACT
    pretrained: bool = False
    fpn_width: int = 32
    tower_width: int = 32
    tower_depth: int = 2
    kernel_dim: int = 32
    mask_width: int = 32
    grids: tuple[int, ...] = (12, 10, 8, 6, 4)
    prior_prob: float = 0.01

    def __post_init__(self) -> None:
        """Refuse sizes that no network can have."""
        for name in ("fpn_width", "tower_width", "kernel_dim", "mask_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1 channel, got {getattr(self, name)}")
        if self.tower_depth < 1:
            raise ValueError(f"tower_depth: expected at least 1 convolution, got {self.tower_depth}")
        if len(self.grids) != len(LEVEL_STRIDES) or min(self.grids) < 1:
            levels = len(LEVEL_STRIDES)
            raise ValueError(f"grids: expected {levels} numbers of at least 1, one for each level, got {self.grids}")
        if not 0.0 < self.prior_prob < 1.0:
            raise ValueError(f"prior_prob: expected a probability strictly between 0 and 1, got {self.prior_prob}")


class SoloOutput(NamedTuple):
    """What the network says of a batch. A named tuple, since Fabric and DDP look into those and not into dataclasses.

    Args:
        class_logits: Per level (B, C, S, S); channel c is class_id c.
        kernels: Per level (B, E, S, S).
        mask_features: (B, E, H/4, W/4).
    """

    class_logits: list[Tensor]
    kernels: list[Tensor]
    mask_features: Tensor

    @property
    def grids(self) -> tuple[int, ...]:
        """Cells along each side, per level."""
        return tuple(level.shape[-1] for level in self.class_logits)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.class_logits[0].shape[1])

    def image(self, index: int) -> "SoloOutput":
        """Give one image as a batch of one."""
        return self.images(slice(index, index + 1))

    def images(self, part: slice) -> "SoloOutput":
        """Give a part of the images."""
        logits, kernels = ([level[part] for level in levels] for levels in (self.class_logits, self.kernels))
        return SoloOutput(logits, kernels, self.mask_features[part])

    def detach(self) -> "SoloOutput":
        """Give the same values without their history."""
        logits, kernels = ([level.detach() for level in levels] for levels in (self.class_logits, self.kernels))
        return SoloOutput(logits, kernels, self.mask_features.detach())


class Solov2(nn.Module):
    """Class logits and mask kernels on five grids, and the features that the kernels draw masks from.

    Args:
        options: Sizes; see :class:`Solov2Options`.
        n_classes: Number of classes.

    Raises:
        PipelineError: If the backbone is unknown, lacks a stride, or its weights cannot be had.
    """

    def __init__(self, options: Solov2Options, n_classes: int) -> None:
        super().__init__()
        if n_classes < 1:
            raise ValueError(f"n_classes: expected at least 1, got {n_classes}")
        self.options = options
        self.n_classes = n_classes
        self.encoder = build_backbone(options.backbone, pretrained=options.pretrained, strides=PYRAMID_STRIDES)
        self.fpn = Fpn(self.encoder.channels, options.fpn_width)
        self.class_tower = _tower(options.fpn_width, options.tower_width, options.tower_depth)
        self.kernel_tower = _tower(options.fpn_width + 2, options.tower_width, options.tower_depth)
        self.class_head = nn.Conv2d(options.tower_width, n_classes, 3, padding=1)
        self.kernel_head = nn.Conv2d(options.tower_width, options.kernel_dim, 3, padding=1)
        self.mask_branch = MaskBranch(options.fpn_width, options.mask_width, options.kernel_dim)
        self._start()

    def _start(self) -> None:
        for part in (self.class_tower, self.kernel_tower, self.class_head, self.kernel_head):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, std=0.01)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        prior = self.options.prior_prob
        assert self.class_head.bias is not None
        nn.init.constant_(self.class_head.bias, math.log(prior / (1.0 - prior)))

    def forward(self, images: Tensor) -> SoloOutput:
        """Run the network.

        Args:
            images: (B, 3, H, W) float RGB in [0, 1]; H and W are multiples of 32. ImageNet's mean and deviation are
                taken off inside.

        Raises:
            ValueError: If a side is not a multiple of 32.
        """
        require_sides(images, SIZE_MULTIPLE)
        levels = self.fpn(self.encoder(normalize_image(images)))
        class_logits, kernels = [], []
        for level, grid in zip(self._level_maps(levels), self.options.grids, strict=True):
            cells = _resize(level, (grid, grid))
            class_logits.append(self.class_head(self.class_tower(cells)))
            kernels.append(self.kernel_head(self.kernel_tower(append_coordinates(cells))))
        return SoloOutput(class_logits, kernels, self.mask_branch(levels[:-1]))

    @staticmethod
    def _level_maps(levels: list[Tensor]) -> list[Tensor]:
        """P2 at half its size, P3, P4, P5, and P6 at the size of P5."""
        finest, *middle, coarsest = levels
        half = F.interpolate(finest, scale_factor=0.5, mode="bilinear", align_corners=False)
        return [half, *middle, _resize(coarsest, (middle[-1].shape[-2], middle[-1].shape[-1]))]


class MaskBranch(nn.Module):
    """Adds P2 to P5 up, at stride 4, to the features that kernels draw masks from.

    Args:
        in_channels: Channels of the pyramid.
        width: Channels of the branch.
        out_channels: Channels of the features.
    """

    def __init__(self, in_channels: int, width: int, out_channels: int) -> None:
        super().__init__()
        self.rise = nn.ModuleList()
        for k in range(len(PYRAMID_STRIDES)):
            first = in_channels + 2 * (k == len(PYRAMID_STRIDES) - 1)
            blocks: list[nn.Module] = []
            for step in range(max(k, 1)):
                blocks += conv_group_norm_relu(width if step else first, width)
                if k:
                    blocks.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.rise.append(nn.Sequential(*blocks))
        self.join = nn.Sequential(*conv_group_norm_relu(width, out_channels, size=1))

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Turn P2 to P5 into (B, out_channels, H/4, W/4)."""
        inputs = [*levels[:-1], append_coordinates(levels[-1])]
        risen = [rise(level) for rise, level in zip(self.rise, inputs, strict=True)]
        total = risen[0]
        for level in risen[1:]:
            total = total + level
        joined: Tensor = self.join(total)
        return joined


def build_solov2(options: Solov2Options, n_classes: int) -> Solov2:
    """Build the network on the CPU, in training mode; see :class:`Solov2`."""
    return Solov2(options, n_classes)


def group_count(width: int) -> int:
    """Groups of a group norm: 32, fewer where a group would hold less than 4 channels or the width does not divide."""
    most = max(min(MAX_GROUPS, width // 4), 1)
    return next(groups for groups in range(most, 0, -1) if width % groups == 0)


def conv_group_norm_relu(in_channels: int, out_channels: int, *, size: int = 3) -> tuple[nn.Module, ...]:
    """Build the block that towers and mask branch are made of."""
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)
    return conv, nn.GroupNorm(group_count(out_channels), out_channels), nn.ReLU(inplace=True)


def append_coordinates(cells: Tensor) -> Tensor:
    """Add two channels to (B, C, h, w): x and y of the cells' centres, the map's outer edges being -1 and 1."""
    height, width = cells.shape[-2:]
    y, x = (
        (2.0 * torch.arange(side, device=cells.device, dtype=torch.float32) + 1.0) / side - 1.0
        for side in (height, width)
    )
    grid = torch.stack([x[None, :].expand(height, -1), y[:, None].expand(-1, width)])
    return torch.cat([cells, grid.to(cells.dtype).expand(len(cells), -1, -1, -1)], dim=1)


def _tower(in_channels: int, width: int, depth: int) -> nn.Sequential:
    blocks = [conv_group_norm_relu(width if k else in_channels, width) for k in range(depth)]
    return nn.Sequential(*(module for block in blocks for module in block))


def _resize(cells: Tensor, size_hw: tuple[int, int]) -> Tensor:
    return F.interpolate(cells, size=size_hw, mode="bilinear", align_corners=False)
