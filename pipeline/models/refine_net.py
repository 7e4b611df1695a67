"""MaskRefineNet (PointWSSIS, CVPR 2023): a rough mask, its point and the image around them give a better mask."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.models.network_input import normalize_image

SMALL = "small"
"""Name of this file's own encoder."""
GROUPS = 8
"""Groups of group normalisation; widths are multiples of it."""


@dataclass(frozen=True)
class RefineNetOptions:
    """Size and start of the network.

    The paper's is ``backbone="resnet101", pretrained=True, context_width=512, context_rates=(3, 6, 9),
    decoder_widths=(256, 128, 64, 64)`` on crops of 256 px; the defaults suit crops of 64 to 96 px on one core.

    Args:
        backbone: Any timm model with ``features_only``, or ``small``: four stages of two convolutions, strides 2 to 16;
            with it the network takes a third of the time that it takes with timm's smallest ResNet.
        pretrained: Start the backbone from timm's ImageNet weights (fetched once, needs a network); the channels that
            the stem has beside RGB start anew in any case.
        small_widths: Channels of the stages of ``small``.
        context_width: Channels of the pyramid of dilated convolutions (ASPP) on the coarsest features.
        context_rates: Its dilations.
        decoder_widths: Channels of the decoder's stages, coarse to fine: one less than the backbone has strides.
    """

    backbone: str = SMALL
    pretrained: bool = False
    small_widths: tuple[int, ...] = (16, 32, 64, 96)
    context_width: int = 64
    context_rates: tuple[int, ...] = (1, 2, 3)
    decoder_widths: tuple[int, ...] = (64, 32, 16)

    def __post_init__(self) -> None:
        """Refuse sizes that no network can have."""
        for name in ("small_widths", "decoder_widths"):
            if not getattr(self, name):
                raise ValueError(f"{name}: expected at least one width")
        for width in (*self.small_widths, self.context_width, *self.decoder_widths):
            if width < GROUPS or width % GROUPS:
                raise ValueError(f"small_widths, context_width, decoder_widths: expected multiples of 8, got {width}")
        if not all(rate >= 1 for rate in self.context_rates):
            raise ValueError(f"context_rates: expected dilations of at least 1, got {list(self.context_rates)}")
        if self.pretrained and self.backbone == SMALL:
            raise ValueError("pretrained: the backbone 'small' has no ImageNet weights; name one of timm's")


def n_input_channels(n_classes: int) -> int:
    """Count the channels of :func:`stack_inputs`: RGB, a heatmap for each class and one for any, the rough mask."""
    return 3 + (n_classes + 1) + 1


def stack_inputs(images: Tensor, heat: Tensor, class_id: Tensor, masks: Tensor, *, n_classes: int) -> Tensor:
    """Lay out the network's input, the same in training and in inference.

    The heatmap stands in channel 3 + ``class_id``, and once more in the channel after the last class, which so serves
    every class, also one that no training image shows.

    Args:
        images: (B, 3, H, W) float RGB in [0, 1].
        heat: (B, H, W) float, 1 at the point.
        class_id: (B,) int64, 0 to ``n_classes`` - 1.
        masks: (B, H, W) bool, the rough masks.
        n_classes: Number of classes.

    Returns:
        (B, 3 + (n_classes + 1) + 1, H, W) of the images' dtype.
    """
    rgb = normalize_image(images)
    stacked = rgb.new_zeros(len(rgb), n_input_channels(n_classes), *rgb.shape[-2:])
    stacked[:, :3] = rgb
    stacked[torch.arange(len(rgb), device=rgb.device), 3 + class_id] = heat.to(rgb)
    stacked[:, 3 + n_classes] = heat.to(rgb)
    stacked[:, -1] = masks.to(rgb)
    return stacked


class RefineNet(nn.Module):
    """Two-class logits of a crop.

    Args:
        options: Sizes; see :class:`RefineNetOptions`.
        n_classes: Number of classes.

    Raises:
        PipelineError: If timm has no such backbone, it has no such features, or its weights cannot be had.
    """

    def __init__(self, options: RefineNetOptions, n_classes: int) -> None:
        super().__init__()
        self.options, self.n_classes = options, n_classes
        in_channels = n_input_channels(n_classes)
        self.encoder: SmallEncoder | TimmEncoder
        if options.backbone == SMALL:
            self.encoder = SmallEncoder(in_channels, options.small_widths)
        else:
            self.encoder = TimmEncoder(options.backbone, in_channels, pretrained=options.pretrained)
        with torch.no_grad():  # a class that training never shows then says nothing, instead of something random
            stem(self.encoder, in_channels).weight[:, 3 : 3 + n_classes] = 0
        channels = self.encoder.channels
        if len(options.decoder_widths) != len(channels) - 1:
            raise PipelineError(
                f"decoder_widths: {options.backbone!r} has features at {len(channels)} strides, so that "
                f"{len(channels) - 1} widths are expected, got {list(options.decoder_widths)}; give as many"
            )
        self.context = Context(channels[-1], options.context_width, options.context_rates)
        widths = (options.context_width, *options.decoder_widths)
        self.decoder = nn.ModuleList(
            nn.Sequential(*conv_norm_relu(coarse + skip, width), *conv_norm_relu(width, width))
            for coarse, skip, width in zip(widths[:-1], reversed(channels[:-1]), widths[1:], strict=True)
        )
        self.head = nn.Conv2d(widths[-1], 2, 1)

    def forward(self, images: Tensor, heat: Tensor, class_id: Tensor, masks: Tensor) -> Tensor:
        """Run the network; arguments as in :func:`stack_inputs`.

        Returns:
            (B, 2, H, W) logits, background first.
        """
        features = self.encoder(stack_inputs(images, heat, class_id, masks, n_classes=self.n_classes))
        found = self.context(features[-1])
        for stage, skip in zip(self.decoder, reversed(features[:-1]), strict=True):
            found = stage(torch.cat([_resized(found, skip.shape[-2:]), skip], dim=1))
        return _resized(self.head(found), images.shape[-2:])


class SmallEncoder(nn.Module):
    """Stages of two 3×3 convolutions, each with half the resolution of the one before.

    Args:
        in_channels: Channels of the input.
        widths: Channels of the stages.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = list(widths)
        self.stages = nn.ModuleList(
            nn.Sequential(*conv_norm_relu(before, width, stride=2), *conv_norm_relu(width, width))
            for before, width in zip((in_channels, *widths[:-1]), widths, strict=True)
        )

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Give the features of each stage, fine to coarse."""
        features = []
        for stage in self.stages:
            inputs = stage(inputs)
            features.append(inputs)
        return features


class TimmEncoder(nn.Module):
    """A timm network with a wider stem, tapped at the end of each stride.

    Args:
        name: timm model name.
        in_channels: Channels of the input, RGB first.
        pretrained: Start from timm's weights; the stem's channels beside RGB start anew.

    Raises:
        PipelineError: If timm has no such network, it has no features, or its weights cannot be had.
    """

    def __init__(self, name: str, in_channels: int, *, pretrained: bool) -> None:
        super().__init__()
        import timm  # late: it takes seconds, and every command reads the options that stand beside the networks

        if not timm.is_model(name):
            raise PipelineError(
                f"backbone: timm {timm.__version__} has no network {name!r}; give 'small', or one of timm.list_models()"
            )
        try:
            info: Any = timm.create_model(name, features_only=True).feature_info
            last = {stride: index for index, stride in enumerate(info.reduction())}  # of several the last
            taps = tuple(last.values())
            self.body = timm.create_model(name, features_only=True, out_indices=taps, in_chans=in_channels)
        except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
            raise PipelineError(f"backbone: {name!r} has no features_only form ({error}); choose another") from error
        self.channels: list[int] = [info.channels()[index] for index in taps]
        if pretrained:
            self._take_weights(timm, name, taps)

    def _take_weights(self, timm: Any, name: str, taps: tuple[int, ...]) -> None:
        try:
            known = timm.create_model(name, features_only=True, out_indices=taps, pretrained=True).state_dict()
        except Exception as error:  # hub, network and disk faults share no base class
            raise PipelineError(
                f"backbone: the ImageNet weights of {name!r} cannot be loaded ({error}); connect this machine to the "
                "Hugging Face hub once (or set HF_HOME to a folder that has them), or set pretrained: false"
            ) from error
        own = self.body.state_dict()
        for key, value in known.items():
            if value.shape != own[key].shape:
                wide = own[key].clone()
                wide[:, : value.shape[1]] = value
                known[key] = wide
        self.body.load_state_dict(known)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Give the features of each stride, fine to coarse."""
        return list(self.body(inputs))


class Context(nn.Module):
    """Atrous spatial pyramid pooling: dilated 3×3 convolutions, one 1×1, and the mean of all, joined.

    Args:
        in_channels: Channels of the features.
        width: Channels of each branch and of the result.
        rates: Dilations.
    """

    def __init__(self, in_channels: int, width: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        dilated = (conv_norm_relu(in_channels, width, dilation=rate) for rate in rates)
        self.branches = nn.ModuleList(
            nn.Sequential(*branch) for branch in (conv_norm_relu(in_channels, width, kernel=1), *dilated)
        )
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(in_channels, width, 1), nn.ReLU(inplace=True))
        self.join = nn.Sequential(*conv_norm_relu(width * (len(rates) + 2), width, kernel=1))

    def forward(self, features: Tensor) -> Tensor:
        """Give (B, width, h, w) of (B, in_channels, h, w)."""
        mean = self.mean(features).expand(-1, -1, *features.shape[-2:])
        joined: Tensor = self.join(torch.cat([*(branch(features) for branch in self.branches), mean], dim=1))
        return joined


def conv_norm_relu(
    in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1, dilation: int = 1
) -> tuple[nn.Module, ...]:
    """Build a convolution that keeps the size (up to its stride), with group normalisation and ReLU."""
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2 * dilation, dilation=dilation, bias=False
    )
    return conv, nn.GroupNorm(GROUPS, out_channels), nn.ReLU(inplace=True)


def stem(encoder: nn.Module, in_channels: int) -> nn.Conv2d:
    """Find the first convolution of an encoder, the one that sees the input."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == in_channels:
            return module
    raise PipelineError("backbone: its first layer is no convolution over the image; choose a convolutional network")


def build_refine_net(options: RefineNetOptions, n_classes: int) -> RefineNet:
    """Build the network on the CPU, in training mode; see :class:`RefineNet`."""
    return RefineNet(options, n_classes)


def _resized(values: Tensor, size_hw: torch.Size) -> Tensor:
    return F.interpolate(values, size=tuple(size_hw), mode="bilinear", align_corners=False)
