"""A promptable model that is asked twice, about a tile and about its mirror image, and answers with the mean."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:  # its import takes seconds, and every stage reads this floor's options
    from pipeline.models.sam import PromptableModel


class MirroredModel:
    """Looks like the model that it asks; everything else is that one's.

    Args:
        model: The promptable model.
    """

    def __init__(self, model: "PromptableModel") -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        """Give what the model has."""
        return getattr(self._model, name)

    def encode(self, tiles: Tensor) -> Tensor:
        """Embed tiles (T, 3, S, S) and their mirror images: (T, 2, C, h, w)."""
        return torch.stack([self._model.encode(tiles), self._model.encode(tiles.flip(3))], 1)

    def decode(
        self, embedding: Tensor, points_xy: Tensor, boxes_xyxy: Tensor | None, negatives_xy: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts of one tile; see :meth:`pipeline.models.sam.PromptableModel.decode`."""
        plain, mirrored = embedding
        last = self._model.input_px - 1

        def turn(xy: Tensor) -> Tensor:
            return torch.stack([last - xy[..., 0], xy[..., 1]], -1)

        boxes = None
        if boxes_xyxy is not None:
            left, top, right, bottom = boxes_xyxy.unbind(1)
            boxes = torch.stack([last - right, top, last - left, bottom], 1)
        logits, estimates = self._model.decode(plain, points_xy, boxes_xyxy, negatives_xy)
        negatives = None if negatives_xy is None else turn(negatives_xy)
        turned, again = self._model.decode(mirrored, turn(points_xy), boxes, negatives)
        return (logits + turned.flip(3)) / 2, (estimates + again) / 2
