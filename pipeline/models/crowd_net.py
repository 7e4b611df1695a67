"""XMask's network: one encoder, a counting head and a mask head (arXiv 2603.16241, section 3)."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.backbones import build_backbone
from pipeline.models.network_input import normalize_image, require_sides

Suppress = Literal["local_max_3x3", "none"]

STRIDE = 4
"""Image pixels per cell of the logits and of the embedding."""
COORD_STRIDE = 8
"""Image pixels per cell of the fused features, where the coordinates join."""
SIZE_MULTIPLE = 16
"""Both sides of an input are multiples of this."""


@dataclass(frozen=True)
class CrowdNetOptions:
    """Size and start of the network.

    The paper's network is ``backbone="vgg16_bn", pretrained=True, width=256, mask_width=256``; the defaults are small
    enough to train on a CPU.

    Args:
        backbone: timm model with ``features_only`` and features at strides 8 and 16.
        pretrained: Start the backbone from timm's ImageNet weights (fetched once, needs a network).
        width: Channels of the fused features and of both heads.
        mask_width: Channels at stride 4 in the mask head, before the embedding.
        embed_dim: Channels of the embedding.
        prior_prob: Probability of a head that every cell starts with, in (0, 1).
    """

    backbone: str = "resnet10t"
    pretrained: bool = False
    width: int = 64
    mask_width: int = 64
    embed_dim: int = 16
    prior_prob: float = 0.05

    def __post_init__(self) -> None:
        """Refuse sizes that no network can have."""
        for name in ("width", "mask_width", "embed_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1 channel, got {getattr(self, name)}")
        if not 0.0 < self.prior_prob < 1.0:
            raise ValueError(f"prior_prob: expected a probability strictly between 0 and 1, got {self.prior_prob}")


class CrowdOutput(NamedTuple):
    """What the network says of a batch, at stride 4.

    Args:
        logits: (B, H/4, W/4); a cell with a logit above 0 is a head.
        embedding: (B, embed_dim, H/4, W/4), of unit length in every cell.
    """

    logits: Tensor
    embedding: Tensor


class CountedPoints(NamedTuple):
    """Heads read off a logit map, in (y, x) order.

    Args:
        points_xy: (N, 2) float64, image pixels.
        prob: (N,) float64, sigmoid of the logits.
    """

    points_xy: npt.NDArray[np.float64]
    prob: npt.NDArray[np.float64]


class CrowdNet(nn.Module):
    """Counting logits and exclusivity embedding of an image.

    Args:
        options: Sizes; see :class:`CrowdNetOptions`.
    """

    def __init__(self, options: CrowdNetOptions) -> None:
        super().__init__()
        self.options = options
        width = options.width
        self.encoder = build_backbone(options.backbone, pretrained=options.pretrained)
        self.fuse = Fuse(self.encoder.channels, width)
        self.count_head = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 2 * 4, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.mask_head = nn.Sequential(
            *conv_norm_relu(width + 2, width),
            *conv_norm_relu(width, width),
            nn.Conv2d(width, options.mask_width * 4, 3, padding=1),
            nn.PixelShuffle(2),
            nn.ReLU(inplace=True),
            nn.Conv2d(options.mask_width, options.embed_dim, 1),
        )
        self._start_from_prior(options.prior_prob)

    def _start_from_prior(self, prob: float) -> None:
        last = self.count_head[-2]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        half_logit = 0.5 * float(np.log(prob / (1.0 - prob)))
        with torch.no_grad():
            last.bias[:4] = -half_logit
            last.bias[4:] = half_logit

    def forward(self, images: Tensor, coords_xy: Tensor | None = None) -> CrowdOutput:
        """Run the network.

        Args:
            images: (B, 3, H, W) float, as :func:`image_to_tensor` gives; H and W are multiples of 16.
            coords_xy: (B or 1, 2, H/8, W/8) from :func:`coordinate_channels`; None when the input is a whole image.

        Raises:
            ValueError: If a side is not a multiple of 16, or the coordinates do not fit.
        """
        require_sides(images, SIZE_MULTIPLE)
        fused = self.fuse(*self.encoder(images))
        if coords_xy is None:
            height, width = images.shape[-2:]
            coords_xy = coordinate_channels((height, width)).to(fused)[None]
        if coords_xy.shape[1:] != (2, *fused.shape[-2:]):
            expected = f"(B, 2, {fused.shape[-2]}, {fused.shape[-1]})"
            raise ValueError(f"coords_xy: expected {expected}, got {tuple(coords_xy.shape)}")
        coords_xy = coords_xy.to(fused).expand(len(fused), -1, -1, -1)
        absent, present = self.count_head(fused).unbind(dim=1)
        embedding = self.mask_head(torch.cat([fused, coords_xy], dim=1))
        return CrowdOutput(logits=present - absent, embedding=F.normalize(embedding.float(), dim=1))


class Fuse(nn.Module):
    """Joins the taps at strides 8 and 16 into one map at stride 8.

    Args:
        in_channels: Channels of the two taps.
        width: Channels of the result.
    """

    def __init__(self, in_channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(in_channels[0], width, 1)
        self.coarse = nn.Conv2d(in_channels[1], width, 1)
        self.smooth = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, stride8: Tensor, stride16: Tensor) -> Tensor:
        """Fuse (B, C8, h, w) and (B, C16, h/2, w/2) into (B, width, h, w)."""
        fine = self.fine(stride8)
        coarse = F.interpolate(self.coarse(stride16), size=fine.shape[-2:], mode="bilinear", align_corners=False)
        fused: Tensor = self.smooth(fine + coarse)
        return fused


def conv_norm_relu(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    """Build the 3×3 block of the mask head."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)


def build_crowd_net(options: CrowdNetOptions) -> CrowdNet:
    """Build the network on the CPU, in training mode.

    Raises:
        PipelineError: If the backbone is unknown, lacks the strides, or its weights cannot be had.
    """
    return CrowdNet(options)


def coordinate_channels(
    size_hw: tuple[int, int], *, origin_xy: tuple[int, int] = (0, 0), window_hw: tuple[int, int] | None = None
) -> Tensor:
    """Coordinates in [-1, 1] of the stride-8 cells of an image, or of one tile of it.

    Args:
        size_hw: Size of the whole image, pixels; its outer edges are -1 and 1. Cells in padding lie beyond 1.
        origin_xy: First pixel of the tile, multiples of 8.
        window_hw: Size of the tile, multiples of 8; the whole image when None.

    Returns:
        (2, h/8, w/8) float32, channel 0 is x.
    """
    height, width = window_hw or size_hw
    axes = []
    for origin, extent, whole in zip(origin_xy, (width, height), (size_hw[1], size_hw[0]), strict=True):
        if origin % COORD_STRIDE or extent % COORD_STRIDE:
            raise ValueError(f"a tile begins and ends at multiples of {COORD_STRIDE} px, got {origin} + {extent}")
        corner = origin + COORD_STRIDE * torch.arange(extent // COORD_STRIDE, dtype=torch.float64)
        axes.append((2.0 * corner + COORD_STRIDE) / whole - 1.0)
    x, y = axes
    return torch.stack([x[None, :].expand(len(y), -1), y[:, None].expand(-1, len(x))]).float()


def image_to_tensor(image: npt.NDArray[np.uint8]) -> Tensor:
    """Turn an (H, W, 3) uint8 RGB image into the network's (3, H, W) float32 input."""
    return normalize_image(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255.0)


def count_points(
    logits: Tensor, threshold: float = 0.0, *, suppress: Suppress = "none", stride: int = STRIDE
) -> CountedPoints:
    """Read heads off a logit map: cells above the threshold, as image points.

    Args:
        logits: (h, w).
        threshold: A cell counts if its logit is greater.
        suppress: ``none`` is the paper's count; ``local_max_3x3`` keeps peaks only.
        stride: Image pixels per cell.

    Returns:
        The points, in (y, x) order.
    """
    logits = logits.detach()
    keep = logits > threshold
    if suppress == "local_max_3x3":
        keep &= local_maxima(logits)
    row, column = torch.nonzero(keep, as_tuple=True)
    cells_xy = torch.stack([column, row], dim=1).cpu().numpy()
    prob = torch.sigmoid(logits[row, column].double()).cpu().numpy()
    return CountedPoints(points_xy=stride * cells_xy.astype(np.float64) + (stride - 1) / 2, prob=prob)


def local_maxima(values: Tensor) -> Tensor:
    """Mark the cells of an (h, w) map that no neighbour in 3×3 exceeds; of equal ones the first in (y, x) stays."""
    height, width = values.shape
    padded = F.pad(values, (1, 1, 1, 1), value=float("-inf"))
    peak = torch.ones_like(values, dtype=torch.bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if (dy, dx) == (0, 0):
                continue
            neighbor = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
            peak &= values > neighbor if (dy, dx) < (0, 0) else values >= neighbor
    return peak
