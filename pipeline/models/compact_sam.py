"""The compact promptable model: Segment Anything's prompt encoder and mask decoder on a small convolutional encoder.

A :class:`segment_anything.modeling.Sam` like the others, so that every caller treats it alike; 256 px input, tokens of
stride 8, 128 channels, two decoder layers, 5.7 M parameters (specification EDP-SAM §6, our reconstruction).
"""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.transformer import Attention
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

INPUT_PX = 256
TOKEN_STRIDE = 8
CHANNELS = 128
ATTENTION_GAIN = 1.3
POSITION_SCALE = 2.0
"""Frequencies of the position encoding, relative to Segment Anything's: a head is a smaller part of the input."""


class CompactEncoder(nn.Module):
    """RepViT-M0.9 with a feature pyramid that ends in one map of stride 8.

    Four taps (strides 4, 8, 16, 32) are brought to 128 channels, summed at stride 8 and mixed by a 3×3 convolution.
    """

    img_size = INPUT_PX

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model("repvit_m0_9", pretrained=False, features_only=True)
        info: Any = self.backbone.feature_info
        self.laterals = nn.ModuleList(
            nn.Conv2d(width, CHANNELS, 1, stride=max(1, TOKEN_STRIDE // stride))
            for width, stride in zip(info.channels(), info.reduction(), strict=True)
        )
        self.mix = nn.Sequential(
            LayerNorm2d(CHANNELS),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(CHANNELS, CHANNELS, 1),
            LayerNorm2d(CHANNELS),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images (B, 3, 256, 256) into (B, 128, 32, 32)."""
        maps = [lateral(tap) for lateral, tap in zip(self.laterals, self.backbone(images), strict=True)]
        size_hw = maps[1].shape[-2:]
        total = maps[0] + maps[1]
        for coarse in maps[2:]:
            total = total + F.interpolate(coarse, size=size_hw, mode="bilinear", align_corners=False)
        mixed: Tensor = self.mix(total)
        return mixed

    def fuse(self) -> None:
        """Merge the parallel training branches of every block into one convolution; values stay, speed doubles."""
        self.backbone = reparameterize_model(self.backbone)


def build_compact_sam() -> Sam:
    """Build the compact model with random weights; load a state dict next, then :func:`fuse_encoder` for inference."""
    tokens = INPUT_PX // TOKEN_STRIDE
    prompt_encoder = PromptEncoder(
        embed_dim=CHANNELS,
        image_embedding_size=(tokens, tokens),
        input_image_size=(INPUT_PX, INPUT_PX),
        mask_in_chans=8,
    )
    prompt_encoder.pe_layer.positional_encoding_gaussian_matrix *= POSITION_SCALE
    transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, num_heads=4, mlp_dim=4 * CHANNELS)
    _attend_by_position(transformer)
    return Sam(
        image_encoder=CompactEncoder(),
        prompt_encoder=prompt_encoder,
        mask_decoder=MaskDecoder(
            transformer_dim=CHANNELS,
            transformer=transformer,
            iou_head_hidden_dim=CHANNELS,
        ),
    )


def _attend_by_position(transformer: TwoWayTransformer) -> None:
    """Start every attention with equal query and key projections, so that a prompt attends to its own place at once.

    With independent ones the first few hundred steps go by before a prompt finds its place in the image.
    """
    for module in transformer.modules():
        if isinstance(module, Attention):
            with torch.no_grad():
                module.q_proj.weight.mul_(ATTENTION_GAIN)
                module.k_proj.weight.copy_(module.q_proj.weight)


def fuse_encoder(sam: Sam) -> Sam:
    """Prepare the compact model for inference: evaluation mode, training branches merged (in float32)."""
    sam.eval()
    with torch.no_grad():
        sam.image_encoder.fuse()
    return sam
