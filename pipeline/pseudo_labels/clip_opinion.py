"""CLIP as a second opinion on classes: masked pictures of instances against the names of the classes.

PL-DC pools CLIP's features inside the mask; here each instance is cut out, with grey (CLIP's mean colour) around it, as
any CLIP can read that. The package is the extra ``clip``; weights come from a folder, and nothing is fetched.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances

CONFIG = "open_clip_config.json"
TEMPLATE = "a photo of a {}."
MARGIN_FRAC = 0.1
"""Border around an instance, share of its longer side."""
_BATCH = 32
"""Pictures looked at at a time; it changes no result but rounding."""


@dataclass(frozen=True, eq=False)
class ClipOpinion:
    """CLIP's view of instances; a :class:`~pipeline.pseudo_labels.category.SecondOpinion`.

    Args:
        model: open_clip's, in evaluation mode.
        class_features: (C, D) unit vectors, of the names.
        size_px: Side of the square pictures that it looks at.
        mean: RGB, 0 to 1, of its training pictures.
        std: Likewise.
        device: Where it is.
    """

    model: Any
    class_features: Tensor
    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: torch.device
    name: str = "CLIP"

    @classmethod
    @torch.no_grad()
    def load(
        cls, folder: Path, class_names: Sequence[str], *, device: torch.device, template: str = TEMPLATE
    ) -> "ClipOpinion":
        """Load a CLIP as open_clip keeps it: ``open_clip_config.json`` and its weights beside.

        Args:
            folder: Where it lies.
            class_names: C names, as CLIP shall read them.
            device: Where to compute.
            template: What CLIP reads, ``{}`` being the name.

        Raises:
            PipelineError: If the package is missing, or the folder does not hold such a model.
        """
        open_clip = _package()
        _check(folder, template)
        place = f"local-dir:{folder}"
        try:
            model = open_clip.create_model(place, device=device, require_pretrained=True).eval()
            tokenizer = open_clip.get_tokenizer(place)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise PipelineError(
                f"{folder}: this CLIP cannot be loaded ({error}); expected {CONFIG} and the weights that belong to it"
            ) from error
        tokens = tokenizer([template.format(name.replace("_", " ")) for name in class_names])
        features = F.normalize(model.encode_text(tokens.to(device)).float(), dim=-1)
        size = model.visual.image_size
        look = open_clip.get_model_preprocess_cfg(model)
        return cls(
            model, features, size if isinstance(size, int) else size[0], tuple(look["mean"]), tuple(look["std"]), device
        )

    @torch.no_grad()
    def probabilities(self, pixels: npt.NDArray[np.uint8], rows: Instances) -> npt.NDArray[np.float64]:
        """Say what the instances of an image are; those without a mask may be of any class.

        Args:
            pixels: (H, W, 3) RGB.
            rows: N rows of that image.

        Returns:
            (N, C), each row summing to 1.

        Raises:
            ValueError: If the image is of another size.
        """
        if pixels.shape[:2] != rows.size_hw:
            raise ValueError(f"pixels: expected an image of {rows.size_hw}, got {pixels.shape[:2]}")
        n_classes = len(self.class_features)
        probs = np.full((len(rows), n_classes), 1.0 / n_classes)
        shown = np.flatnonzero(rows.area_px > 0)
        for first in range(0, len(shown), _BATCH):
            some = shown[first : first + _BATCH]
            pictures = torch.cat([self.picture(pixels, rows, row) for row in some.tolist()]).to(self.device)
            features = F.normalize(self.model.encode_image(pictures).float(), dim=-1)
            logits = self.model.logit_scale.exp().float() * features @ self.class_features.T
            probs[some] = logits.double().softmax(dim=1).cpu().numpy()
        return probs

    def picture(self, pixels: npt.NDArray[np.uint8], rows: Instances, row: int) -> Tensor:
        """Cut one instance out: (1, 3, S, S) float32, as CLIP takes it, 0 outside the mask."""
        mask, x0, y0 = rows.window(row)
        height, width = mask.shape
        window = torch.from_numpy(pixels[y0 : y0 + height, x0 : x0 + width].copy()).permute(2, 0, 1).float() / 255.0
        mean, std = (torch.tensor(each)[:, None, None] for each in (self.mean, self.std))
        masked = (window - mean) / std * torch.from_numpy(mask)
        border = max(1, round(MARGIN_FRAC * max(height, width)))
        side = max(height, width) + 2 * border
        left, top = (side - width) // 2, (side - height) // 2
        square = F.pad(masked, (left, side - width - left, top, side - height - top))
        size = (self.size_px, self.size_px)
        return F.interpolate(square[None], size=size, mode="bicubic", antialias=True, align_corners=False)


def _package() -> Any:
    try:
        import open_clip  # late: an extra
    except ImportError as error:
        raise PipelineError(
            "CLIP as a second opinion: the package open_clip is not installed; pip install 'dotmask[clip]', or use "
            "prototypes"
        ) from error
    return open_clip


def _check(folder: Path, template: str) -> None:
    if "{}" not in template:
        raise PipelineError(f"template: expected '{{}}' where the name of the class goes, got {template!r}")
    path = folder / CONFIG
    try:
        text_cfg = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"{path}: expected the description of a CLIP ({type(error).__name__}); put a model as open_clip keeps it "
            "into this folder (its page on the Hugging Face hub has both files)"
        ) from error
    # A text tower of the hub would be looked up there.
    named = [key for key in ("hf_model_name", "hf_tokenizer_name") if text_cfg.get(key)]
    if named:
        raise PipelineError(
            f"{path}: names parts of the Hugging Face hub ({', '.join(named)}), and nothing is fetched; take a CLIP "
            "with open_clip's own text tower, ViT-B-32 or convnext_base_w, say"
        )
