"""Encoders: any timm network that gives features at strides 8 and 16."""

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError

STRIDES = (8, 16)


class Backbone(nn.Module):
    """The part of a timm network up to stride 16, with taps at strides 8 and 16.

    Of several stages with one stride the last is tapped. In timm's VGG networks these are the ends of blocks 4 and 5
    (after batch norm and ReLU, before the pool that follows), 512 channels each, which are the taps of XMask's paper.

    Args:
        name: timm model name.
        pretrained: Start from timm's weights instead of a random start.

    Raises:
        PipelineError: If timm has no such network, it lacks a stride, or its weights cannot be had.
    """

    def __init__(self, name: str, *, pretrained: bool) -> None:
        super().__init__()
        import timm  # late: it takes seconds, and every command reads the options that stand beside the networks

        indices = _tap_indices(name)
        try:
            self.body = timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=indices)
        except Exception as error:  # hub, network and disk faults share no base class
            if not pretrained:
                raise
            raise PipelineError(
                f"model.backbone: the ImageNet weights of {name!r} cannot be loaded ({error}); connect this machine to "
                "the Hugging Face hub once (or set HF_HOME to a folder that has them), or set model.pretrained: false"
            ) from error
        info: Any = self.body.feature_info
        fine, coarse = info.channels()
        self.channels: tuple[int, int] = (fine, coarse)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give the features of (B, 3, H, W) images at strides 8 and 16."""
        fine, coarse = self.body(images)
        return fine, coarse


def build_backbone(name: str, *, pretrained: bool) -> Backbone:
    """Build an encoder; see :class:`Backbone`."""
    return Backbone(name, pretrained=pretrained)


def _tap_indices(name: str) -> tuple[int, int]:
    """Find the last stage of each stride, on a network without memory."""
    import timm  # late, as above

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; timm.list_models() lists the names"
        raise PipelineError(f"model.backbone: timm {timm.__version__} has no network {name!r}{hint}")
    try:
        with torch.device("meta"):
            info: Any = timm.create_model(name, pretrained=False, features_only=True).feature_info
        strides = info.reduction()
    except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
        raise PipelineError(f"model.backbone: {name!r} has no features_only form ({error}); choose another") from error
    if not set(STRIDES) <= set(strides):
        raise PipelineError(
            f"model.backbone: {name!r} has features at strides {strides}, expected 8 and 16 among them; choose another"
        )
    last = {stride: index for index, stride in enumerate(strides)}
    return last[STRIDES[0]], last[STRIDES[1]]
