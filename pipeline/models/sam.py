"""Promptable models as annotators use them: tiles in, low-resolution logits and IoU estimates out."""

import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segment_anything.build_sam import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from segment_anything.modeling import Sam
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.models.compact_sam import build_compact_sam
from pipeline.models.pretrained import file_sha256, find_weights, require_weights

BUILDERS: dict[str, Callable[[], Sam]] = {
    "compact": build_compact_sam,
    "vit_b": build_sam_vit_b,
    "vit_l": build_sam_vit_l,
    "vit_h": build_sam_vit_h,
}
CANDIDATES = 3


@dataclass(frozen=True)
class PromptableModel:
    """A Segment Anything model in evaluation mode.

    Args:
        name: Name of its weights.
        sam: The network.
        device: Where it runs.
        weights_sha256: Digest of its file of weights.
        bf16: Compute in bfloat16, save positions, which it would know only to a few pixels.
    """

    name: str
    sam: Sam
    device: torch.device
    weights_sha256: str
    bf16: bool = False

    @property
    def input_px(self) -> int:
        """Side of the square input, px."""
        return int(self.sam.image_encoder.img_size)

    @property
    def logit_px(self) -> int:
        """Side of the low-resolution logits: four times the token grid."""
        return 4 * int(self.sam.prompt_encoder.image_embedding_size[0])

    @torch.inference_mode()
    def encode(self, tiles: Tensor) -> Tensor:
        """Embed tiles.

        Args:
            tiles: (T, 3, S, S) float32 RGB in [0, 255] on any device; S is :attr:`input_px`.

        Returns:
            (T, C, h, w) embeddings on the model's device.
        """
        pixels = self.sam.preprocess(tiles.to(self.device))
        with self._precision():
            embeddings: Tensor = self.sam.image_encoder(pixels)
        return embeddings

    @torch.inference_mode()
    def decode(
        self,
        embedding: Tensor,
        points_xy: Tensor,
        boxes_xyxy: Tensor | None = None,
        negatives_xy: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts of one tile: one positive point each, and a box and negative points where given.

        Args:
            embedding: (C, h, w) of the tile.
            points_xy: (P, 2) float32, pixels of the model's input; pixel centres are whole numbers.
            boxes_xyxy: (P, 4) float32 or None, the same pixels.
            negatives_xy: (P, K, 2) float32 or None, the same pixels; NaN where a prompt has fewer.

        Returns:
            Logits (P, 3, G, G), G = :attr:`logit_px`, mask where above 0; and IoU estimates (P, 3) in [0, 1].
        """
        points = points_xy.to(self.device)[:, None]
        labels = torch.ones(points.shape[:2], device=self.device)
        if negatives_xy is not None:
            negatives = negatives_xy.to(self.device)
            none = negatives.isnan().any(2)
            points = torch.cat([points, negatives.nan_to_num()], dim=1)
            labels = torch.cat([labels, -none.to(labels.dtype)], dim=1)  # 0 is a negative point, -1 no point
        boxes = None if boxes_xyxy is None else boxes_xyxy.to(self.device)
        sparse, dense = self.sam.prompt_encoder(points=(points, labels), boxes=boxes, masks=None)
        with self._precision():
            logits, estimates = self.sam.mask_decoder(
                image_embeddings=embedding[None],
                image_pe=self.sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
        return logits.float(), estimates.float().clamp(0, 1)

    def _precision(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def load_sam(name: str, device: torch.device, *, bf16: bool = False, compiled: bool = False) -> PromptableModel:
    """Load a promptable model.

    Args:
        name: ``compact``, ``vit_b``, ``vit_l`` or ``vit_h``.
        device: Where it shall run.
        bf16: Compute in bfloat16.
        compiled: Compile the encoder; the first tiles then take a minute, the others less time.

    Raises:
        PipelineError: If the name is unknown, the weights are not there, or the file holds another model.
    """
    weights = find_weights(name)
    path = require_weights(weights)
    sam = BUILDERS[name]()
    _fill(sam, _read_state(path), path, name)
    sam = sam.eval().to(device)
    if compiled:
        sam.image_encoder.compile()
    return PromptableModel(name, sam, device, file_sha256(path), bf16)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return {
                key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()
            }
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PipelineError(f"{path}: not a readable checkpoint ({reason}); delete it and get it again") from error
    if not isinstance(state, dict):
        raise PipelineError(f"{path}: expected a state dict, got {type(state).__name__}; fetch the published file")
    return state


def _fill(sam: Sam, state: dict[str, Any], path: Path, name: str) -> None:
    own = sam.state_dict()
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    reshaped = sorted(key for key in set(own) & set(state) if own[key].shape != getattr(state[key], "shape", None))
    if missing or extra or reshaped:
        raise PipelineError(
            f"{path}: a checkpoint of another model than '{name}' ({len(missing)} tensors missing, {len(extra)} "
            f"unknown, {len(reshaped)} of another shape, e.g. {(missing + extra + reshaped)[0]}); put the right file "
            "there, see python -m stages.weights list"
        )
    sam.load_state_dict(state)
