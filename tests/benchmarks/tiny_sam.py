"""Segment Anything in its smallest form, with random weights: 64 px input, one block, 16 channels."""

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from benchmarks.timed_model import random_model
from pipeline.models.sam import PromptableModel

SIDE_PX, CHANNELS = 64, 16


def tiny_sam() -> Sam:
    torch.manual_seed(0)
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=SIDE_PX, patch_size=16, embed_dim=32, depth=1, num_heads=2, out_chans=CHANNELS
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=CHANNELS, image_embedding_size=(4, 4), input_image_size=(SIDE_PX, SIDE_PX), mask_in_chans=4
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=CHANNELS,
            transformer=TwoWayTransformer(depth=1, embedding_dim=CHANNELS, num_heads=2, mlp_dim=16),
            iou_head_hidden_dim=16,
        ),
    ).eval()


def tiny_model() -> PromptableModel:
    return random_model("tiny", tiny_sam(), torch.device("cpu"))
