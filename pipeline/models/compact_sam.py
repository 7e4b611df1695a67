"""The compact promptable model: Segment Anything's three parts in a form that learns from nothing on two CPU cores.

A :class:`segment_anything.modeling.Sam` like the others, so that every caller treats it alike (``SamPredictor``, too);
256 px input, logits of stride 4, about 5 M parameters. It stands for specification EDP-SAM §6 and differs inside, where
a few thousand training steps had to be enough:

- The encoder is a plain residual U-Net with group normalisation.
- Prompts stay coordinates. The decoder looks at a window centred on the head, as Mask R-CNN's (He et al. 2017, §3)
  looks at a region, and draws its mask with a small U-Net. Segment Anything's two-way transformer, from nothing, had
  an IoU of 0.47 after 400 steps where a mask drawn in a window had 0.55 after 100 (docs/annotators.md).
- The encoder also tells, cell by cell, whether there is a person, a head, a border, and where that person's head is;
  training asks it for that everywhere, and the decoder sees how far each such vote is from the prompt.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn

INPUT_PX = 256
STRIDE = 4
LOGIT_PX = INPUT_PX // STRIDE
WINDOW_CELLS = 24
"""Side of the decoder's window, cells of stride 4: no circle in a planned tile reaches farther, since a tile's side is
at least 5.6 radii."""
OFFSET_UNIT_PX = 32.0
FAR_LOGIT = -8.0
"""Logit of all cells outside the window."""
WIDTHS = (32, 64, 128, 192, 256)
"""Channels of the encoder at strides 2, 4, 8, 16 and 32."""
BLOCKS = (1, 1, 2, 1)
"""Residual blocks at strides 4, 8, 16 and 32."""
PYRAMID = (128, 96, 64)
"""Channels on the way up, at strides 16, 8 and 4."""
WINDOW_WIDTHS = (48, 80, 112)
"""Channels of the decoder at strides 4, 8 and 16; the first is also what the encoder hands it."""
LAYOUT = 5
"""Maps of what the encoder sees in a cell: logits of person, head and border, xy offset to the head."""
HINTS = 13
"""What the decoder is told of a cell beside its features, see :func:`_hints`."""
MASKS = 4
"""One for ``multimask_output=False``, three candidates."""


class CompactEncoder(nn.Module):
    """A residual U-Net down to stride 32 and up to 4, and what it sees in every cell."""

    img_size = INPUT_PX

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(3, WIDTHS[0], stride=2)
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(narrow, wide, stride=2), *(_Residual(wide) for _ in range(blocks)))
            for (narrow, wide), blocks in zip(pairwise(WIDTHS), BLOCKS, strict=True)
        )
        self.up = nn.ModuleList(
            nn.Sequential(_convolution(coarse + fine, out, size=1), _convolution(out, out))
            for coarse, fine, out in zip((WIDTHS[4], *PYRAMID[:2]), WIDTHS[3:0:-1], PYRAMID, strict=True)
        )
        self.hand_over = nn.Conv2d(PYRAMID[2], WINDOW_WIDTHS[0], 3, padding=1, bias=False)
        self.layout = nn.Conv2d(PYRAMID[2], LAYOUT, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images.

        Args:
            images: (B, 3, 256, 256).

        Returns:
            (B, 53, 64, 64): 48 features, then the logits of a person, a head and a person's border, and the xy offset
            from the cell's centre to that person's head in units of 32 px.
        """
        current = self.stem(images)
        taps = []
        for stage in self.down:
            current = stage(current)
            taps.append(current)
        for merge, tap in zip(self.up, taps[-2::-1], strict=True):
            raised = F.interpolate(current, size=tap.shape[-2:], mode="bilinear", align_corners=False)
            current = merge(torch.cat([raised, tap], 1))
        return torch.cat([self.hand_over(current), self.layout(current)], 1)


class CoordinatePrompts(nn.Module):
    """Prompts as they are: coordinates in pixels of the model's input, without an embedding."""

    image_embedding_size = LOGIT_PX // 4, LOGIT_PX // 4
    input_image_size = INPUT_PX, INPUT_PX

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Lay out prompts.

        Args:
            points: (P, K, 2) xy and (P, K) labels: 1 positive, 0 negative, -1 no point; or None.
            boxes: (P, 4) xyxy, or None.
            masks: Not used; a mask is no prompt of this model.

        Returns:
            (P, K + 2, 3): x, y and label of each point, then the box's corners with the labels 2 and 3, or -1 for
            none; and a (P, 1, 1, 1) placeholder for the embedding of masks.
        """
        given = [torch.cat([points[0], points[1][..., None].to(points[0].dtype)], -1)] if points is not None else []
        if boxes is not None:
            corners = boxes.reshape(-1, 2, 2)
            labels = corners.new_tensor([2.0, 3.0])[None, :, None].expand(len(corners), -1, -1)
            given.append(torch.cat([corners, labels], -1))
        elif given:
            given.append(torch.full_like(given[0][:, :1].expand(-1, 2, -1), -1.0))
        sparse = torch.cat(given, 1)
        return sparse, sparse.new_zeros(len(sparse), 1, 1, 1)

    def get_dense_pe(self) -> Tensor:
        """Give a placeholder: the decoder needs no position code."""
        return torch.zeros(1, 1, 1, 1)


class WindowMaskDecoder(nn.Module):
    """Draws each prompt's masks in a window around its head, with a small U-Net."""

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = WINDOW_WIDTHS
        self.hint = nn.Conv2d(HINTS, fine, 3, padding=1, bias=False)
        self.enter = _normed(fine)
        self.down = nn.ModuleList(
            [
                nn.Sequential(_convolution(fine, middle, stride=2), _convolution(middle, middle)),
                nn.Sequential(_convolution(middle, coarse, stride=2), _convolution(coarse, coarse)),
            ]
        )
        self.narrow = nn.ModuleList([nn.Conv2d(coarse, middle, 1, bias=False), nn.Conv2d(middle, fine, 1, bias=False)])
        self.up = nn.ModuleList(
            [
                nn.Sequential(_normed(middle), _convolution(middle, middle)),
                nn.Sequential(_normed(fine), _convolution(fine, fine)),
            ]
        )
        self.masks = nn.Conv2d(fine, MASKS, 1)
        self.quality = nn.Sequential(nn.Linear(coarse + middle, 128), nn.ReLU(), nn.Linear(128, MASKS))

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Decode the prompts of one image.

        Args:
            image_embeddings: (1, 53, 64, 64) of :class:`CompactEncoder`.
            image_pe: Not used.
            sparse_prompt_embeddings: (P, K + 2, 3) of :class:`CoordinatePrompts`.
            dense_prompt_embeddings: Not used.
            multimask_output: Three candidates rather than one mask.

        Returns:
            Logits (P, 3 or 1, 64, 64) and IoU estimates (P, 3 or 1).
        """
        prompts = sparse_prompt_embeddings
        centers = _centers(prompts)
        first = ((centers - (STRIDE - 1) / 2) / STRIDE).round().long() - WINDOW_CELLS // 2 + 1
        span = torch.arange(WINDOW_CELLS, device=prompts.device)
        columns, rows = first[:, :1] + span, first[:, 1:] + span
        within = ((columns >= 0) & (columns < LOGIT_PX))[:, None, :] & ((rows >= 0) & (rows < LOGIT_PX))[:, :, None]
        place = rows.clamp(0, LOGIT_PX - 1)[:, :, None], columns.clamp(0, LOGIT_PX - 1)[:, None, :]
        seen = image_embeddings[0].permute(1, 2, 0)[place].permute(0, 3, 1, 2)
        features, layout = seen[:, : WINDOW_WIDTHS[0]], seen[:, WINDOW_WIDTHS[0] :]
        x, y = columns * STRIDE + (STRIDE - 1) / 2, rows * STRIDE + (STRIDE - 1) / 2
        hints = _hints(prompts, centers, x, y, layout.detach(), within)
        logits, estimates = self._draw(self.enter(features + self.hint(hints.to(features.dtype))))
        canvas = logits.new_full(
            (len(prompts), LOGIT_PX + 2 * WINDOW_CELLS, LOGIT_PX + 2 * WINDOW_CELLS, MASKS), FAR_LOGIT
        )
        which = torch.arange(len(prompts), device=prompts.device)[:, None, None]
        canvas = canvas.index_put(
            (which, rows[:, :, None] + WINDOW_CELLS, columns[:, None, :] + WINDOW_CELLS), logits.permute(0, 2, 3, 1)
        )
        inner = slice(WINDOW_CELLS, WINDOW_CELLS + LOGIT_PX)
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        return canvas[:, inner, inner].permute(0, 3, 1, 2)[:, chosen], estimates[:, chosen]

    def _draw(self, fine: Tensor) -> tuple[Tensor, Tensor]:
        middle = self.down[0](fine)
        coarse = self.down[1](middle)
        merged = self.up[0](_twice(self.narrow[0](coarse)) + middle)
        drawn = self.up[1](_twice(self.narrow[1](merged)) + fine)
        summary = torch.cat([coarse.mean((2, 3)), merged.mean((2, 3))], 1)
        return self.masks(drawn), self.quality(summary)


def _centers(prompts: Tensor) -> Tensor:
    """Where each prompt's window is centred: (P, 2) xy of its positive point, else of its box."""
    labels = prompts[..., 2]
    boxes = prompts[:, -2:, :2].mean(1)
    positive = (labels == 1).to(prompts.dtype)
    first = positive.argmax(1)
    points = prompts[torch.arange(len(prompts), device=prompts.device), first, :2]
    return torch.where((positive.sum(1) > 0)[:, None], points, boxes)


def _hints(prompts: Tensor, centers: Tensor, x: Tensor, y: Tensor, layout: Tensor, within: Tensor) -> Tensor:
    """What a cell is told beside its features: (P, 13, h, w) float32.

    Whether it lies in the image; where it lies from the prompt (x, y, nearness); where the head it votes for lies from
    the prompt (x, y); whether it lies in the box; how near a negative point is; by how much it lies, and the head it
    votes for lies, farther from the nearest negative point than from the prompt; its logits of person, head and border.
    """
    from_x = ((x - centers[:, :1]) / OFFSET_UNIT_PX)[:, None, :].expand(-1, y.shape[1], -1)
    from_y = ((y - centers[:, 1:]) / OFFSET_UNIT_PX)[:, :, None].expand(-1, -1, x.shape[1])
    near = torch.exp(-4 * (from_x.square() + from_y.square()))
    logits = layout[:, :3].float().clamp(-6, 6) / 3
    vote_x, vote_y = from_x + layout[:, 3].float(), from_y + layout[:, 4].float()
    low, high = prompts[:, -2, :2, None], prompts[:, -1, :2, None]
    has_box = (prompts[:, -1, 2] == 3)[:, None, None]
    in_x, in_y = (x >= low[:, 0]) & (x <= high[:, 0]), (y >= low[:, 1]) & (y <= high[:, 1])
    box = torch.where(has_box, torch.where(in_y[:, :, None] & in_x[:, None, :], 1.0, -1.0), 0.0)
    away = _from_negatives(prompts, x[:, None, :].expand_as(from_x), y[:, :, None].expand_as(from_y))
    at_x, at_y = (
        x[:, None, :] + OFFSET_UNIT_PX * layout[:, 3].float(),
        y[:, :, None] + OFFSET_UNIT_PX * layout[:, 4].float(),
    )
    margin = (away - torch.hypot(from_x, from_y)).clamp(-2, 2)
    vote_margin = (_from_negatives(prompts, at_x, at_y) - torch.hypot(vote_x, vote_y)).clamp(-2, 2)
    vote_x, vote_y = vote_x.clamp(-4, 4), vote_y.clamp(-4, 4)
    repelled = torch.exp(-8 * away.square())
    hints = [within.float(), from_x, from_y, near, vote_x, vote_y, box, repelled, margin, vote_margin]
    return torch.cat([torch.stack(hints, 1), logits], 1)


def _from_negatives(prompts: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Distance of places (P, h, w) to the nearest negative point of their prompt, in units of 32 px; 8 without one."""
    nearest = torch.full_like(x, 8.0, dtype=torch.float32)
    for number in range(prompts.shape[1] - 2):
        point = prompts[:, number, :, None, None]
        distance = torch.hypot(x - point[:, 0], y - point[:, 1]) / OFFSET_UNIT_PX
        nearest = torch.where(point[:, 2] == 0, torch.minimum(nearest, distance), nearest)
    return nearest


def build_compact_sam() -> Sam:
    """Build the compact model with random weights; load a state dict next."""
    return Sam(
        image_encoder=CompactEncoder(),
        prompt_encoder=CoordinatePrompts(),
        mask_decoder=WindowMaskDecoder(),
    )


class _Residual(nn.Module):
    """Two convolutions beside a short cut; begins as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = _norm(width)
        nn.init.zeros_(last.weight)
        self.body = nn.Sequential(_convolution(width, width), nn.Conv2d(width, width, 3, padding=1, bias=False), last)

    def forward(self, value: Tensor) -> Tensor:
        return F.relu(value + self.body(value))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(8, width)


def _convolution(width_in: int, width_out: int, *, size: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(width_in, width_out, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, *_normed(width_out))


def _normed(width: int) -> nn.Sequential:
    return nn.Sequential(_norm(width), nn.ReLU())


def _twice(coarse: Tensor) -> Tensor:
    return F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
