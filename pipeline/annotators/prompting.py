"""EDP-SAM's network part: tiles, prompts, and the network's candidates for every head of an image.

Sections are those of our specification EDP-SAM; the method is that of arXiv 2603.16241.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from pipeline.annotators.base import MarkedImage
from pipeline.annotators.mirrored import MirroredModel
from pipeline.annotators.proposals import CellSpans, Proposals, cell_spans, crop_cells, quantize
from pipeline.annotators.superpixel import SuperpixelOptions, grow_regions
from pipeline.compute.batches import Batches
from pipeline.geometry.tiles import Tile, plan_tiles

if TYPE_CHECKING:  # its import takes seconds, and every stage reads this module's options
    from pipeline.models.sam import PromptableModel

NETWORK_VERSION = 2
"""Raised by hand whenever the same image, heads, options and weights would give other proposals."""
PROMPT_KINDS = ("head", "superpixel", "box")
DEFAULT_NEGATIVES = {"compact": 6}
MIRROR_PADDED = frozenset({"compact"})
"""Models for which a tile goes on beyond the image's edge as its mirror image: their normalisation looks at the whole
tile. Segment Anything's own were trained with their mean colour there."""
PROMPTS_PER_CHUNK = {"cpu": 8, "cuda": 256}
TILES_PER_BATCH = {"cpu": 4, "cuda": 16}


@dataclass(frozen=True)
class PromptOptions:
    """How EDP-SAM tiles and prompts: all that moves the network's part.

    Args:
        prompts: Kinds of prompt for every head, of ``head``, ``superpixel`` and ``box``.
        negatives: So many of the nearest other heads within two radii become negative points; -1 takes 6 for the
            compact model, which was trained with them, and none for the others, whose users report harm.
        min_radius_model_px: Wanted median radius of the circles in pixels of the model's input; 0 takes 12 for a
            1024 px model and 36 for the compact one, in proportion between.
        max_magnification: No tile is enlarged more than this.
        coarser_steps: A head may go to a tile so many steps of 2^⅓ coarser than its own where one lies there anyway: 1
            gives fewer tiles, in which some heads are seen smaller than wanted.
        mirrored: Ask about each tile's mirror image, too, and take the mean of the logits: twice the time.
        superpixel: How the regions behind superpixel prompts are grown.
    """

    prompts: tuple[str, ...] = ("head", "superpixel")
    negatives: int = -1
    min_radius_model_px: float = 0.0
    max_magnification: float = 4.0
    coarser_steps: int = 0
    mirrored: bool = False
    superpixel: SuperpixelOptions = field(default_factory=SuperpixelOptions)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        unknown = sorted(set(self.prompts) - set(PROMPT_KINDS))
        if unknown or not self.prompts or len(set(self.prompts)) < len(self.prompts):
            raise ValueError(
                f"prompts must be one or more of {', '.join(PROMPT_KINDS)}, each once, got {list(self.prompts)}"
            )
        if self.negatives < -1:
            raise ValueError(f"negatives must be at least 0, or -1 for the model's own, got {self.negatives}")
        if self.min_radius_model_px < 0:
            raise ValueError(f"min_radius_model_px must be at least 0, got {self.min_radius_model_px}")
        if self.max_magnification < 1:
            raise ValueError(f"max_magnification must be at least 1, got {self.max_magnification}")
        if self.coarser_steps < 0:
            raise ValueError(f"coarser_steps must be at least 0, got {self.coarser_steps}")


@dataclass(frozen=True)
class _Prompts:
    """One kind of prompt for all heads, image pixels: boxes (N, 4), negative points (N, K, 2), NaN where none."""

    boxes_xyxy: NDArray[np.float64] | None = None
    negatives_xy: NDArray[np.float64] | None = None


@dataclass
class _Drawn:
    """What the network drew for one image, filled in tile by tile; arrays are (N, C) and ``cells`` N int8 arrays."""

    tiles: list[Tile]
    prompts: list[_Prompts]
    cells: list[NDArray[np.int8]]
    spans: CellSpans
    figures: NDArray[np.float32]


class Prompter:
    """Asks a promptable model about every head of images.

    On a GPU tiles of several images share a batch. On a CPU the caller gives one image at a time: batches and chunks
    then depend on that image alone, and so do the bytes of the result (specification §5).

    Args:
        model: The promptable model.
        options: Tiles and prompts.
    """

    def __init__(self, model: "PromptableModel", options: PromptOptions) -> None:
        self.model = cast("PromptableModel", MirroredModel(model)) if options.mirrored else model
        self.options = options
        kind = "cuda" if model.device.type == "cuda" else "cpu"
        self._tile_batches = Batches(TILES_PER_BATCH[kind], "tiles")
        self._prompt_chunks = Batches(PROMPTS_PER_CHUNK[kind], "prompts")

    def propose(self, images: Sequence[MarkedImage]) -> list[Proposals]:
        """Give the candidates of every head of every image.

        Args:
            images: Images with their heads; at least one head each.
        """
        drawn = [self._lay_out(marked) for marked in images]
        places = [(number, tile) for number, one in enumerate(drawn) for tile in one.tiles]

        def encode(start: int, stop: int) -> Tensor:
            cut = [self._cut(images[number], tile) for number, tile in places[start:stop]]
            return self.model.encode(torch.stack(cut))

        done = 0
        for embeddings in self._tile_batches.run(encode, len(places)):
            for embedding, (number, tile) in zip(embeddings, places[done:], strict=False):
                self._draw(images[number], tile, embedding, drawn[number])
            done += len(embeddings)
        return [self._gather(one) for one in drawn]

    def _lay_out(self, marked: MarkedImage) -> _Drawn:
        """Plan the tiles of an image (§2) and its prompts (§3)."""
        options = self.options
        tiles = plan_tiles(
            marked.points_xy,
            marked.radius_px,
            size_hw=marked.size_hw,
            model_px=self.model.input_px,
            min_radius_model_px=options.min_radius_model_px or _default_min_radius(self.model.input_px),
            max_magnification=options.max_magnification,
            coarser_steps=options.coarser_steps,
        )
        count, n_candidates = len(marked.points_xy), 3 * len(options.prompts)
        return _Drawn(
            tiles=tiles,
            prompts=[self._prompts(kind, marked) for kind in options.prompts],
            cells=[np.zeros((0, 0, 0), np.int8)] * count,
            spans=CellSpans(np.zeros((count, 2), np.int64), np.zeros((count, 2), np.int64)),
            figures=np.zeros((3, count, n_candidates), np.float32),
        )

    def _prompts(self, kind: str, marked: MarkedImage) -> _Prompts:
        boxes_xyxy = negatives_xy = None
        if kind == "superpixel":
            boxes_xyxy = grow_regions(marked, self.options.superpixel).boxes_xyxy()
        if kind == "box":
            reach = marked.radius_px[:, None]
            boxes_xyxy = np.concatenate([marked.points_xy - reach, marked.points_xy + reach], axis=1)
        count = self.options.negatives if self.options.negatives >= 0 else DEFAULT_NEGATIVES.get(self.model.name, 0)
        if count:
            negatives_xy = nearest_others(marked.points_xy, marked.radius_px, count)
        return _Prompts(boxes_xyxy, negatives_xy)

    def _cut(self, marked: MarkedImage, tile: Tile) -> Tensor:
        beyond = None if self.model.name in MIRROR_PADDED else self.model.sam.pixel_mean
        return cut_tile(marked.image, tile, self.model.input_px, beyond)

    def _draw(self, marked: MarkedImage, tile: Tile, embedding: Tensor, drawn: _Drawn) -> None:
        """Decode all prompts of one tile in chunks and keep what lies under the circles."""
        head_rows = _heads_in(tile, marked.points_xy)
        heads_xy = torch.from_numpy(marked.points_xy[head_rows]).to(self.model.device)
        spans = cell_spans(
            marked.points_xy[tile.rows], marked.radius_px[tile.rows], tile, self.model.logit_px, marked.size_hw
        )
        drawn.spans.first_xy[tile.rows], drawn.spans.sizes_hw[tile.rows] = spans.first_xy, spans.sizes_hw

        def decode(start: int, stop: int) -> tuple[slice, Tensor, Tensor]:
            here = slice(start, min(stop, len(tile.rows)))
            rows, cells, figures = tile.rows[here], [], []
            own = torch.from_numpy(np.searchsorted(head_rows, rows)).to(self.model.device)
            for prompts in drawn.prompts:
                logits, estimates = self._ask(marked, tile, embedding, rows, prompts)
                cells.append(quantize(crop_cells(logits, CellSpans(spans.first_xy[here], spans.sizes_hw[here]))))
                area_px = mask_area(logits, tile, marked.size_hw)
                figures.append(torch.stack([estimates, area_px, other_heads(logits, tile, own, heads_xy)]))
            return here, torch.cat(cells, 1), torch.cat(figures, 2)

        for here, cells, figures in self._prompt_chunks.run(decode, len(tile.rows)):
            rows, on_cpu = tile.rows[here], cells.cpu().numpy()
            drawn.figures[:, rows] = figures.cpu().numpy()
            for own_cells, row, (height, width) in zip(on_cpu, rows, spans.sizes_hw[here], strict=True):
                drawn.cells[row] = own_cells[:, :height, :width].copy()

    def _ask(
        self,
        marked: MarkedImage,
        tile: Tile,
        embedding: Tensor,
        rows: NDArray[np.int64],
        prompts: _Prompts,
    ) -> tuple[Tensor, Tensor]:
        side = self.model.input_px
        boxes = negatives = None
        if prompts.boxes_xyxy is not None:
            boxes = to_model_xy(prompts.boxes_xyxy[rows].reshape(-1, 2), tile, side).reshape(-1, 4)
        if prompts.negatives_xy is not None:
            negatives_xy = _nan_outside(tile, prompts.negatives_xy[rows].reshape(-1, 2))
            negatives = to_model_xy(negatives_xy, tile, side).reshape(len(rows), -1, 2)
        points = to_model_xy(marked.points_xy[rows], tile, side)
        logits, estimates = self.model.decode(embedding, points, boxes, negatives)
        return logits.float(), estimates.float()

    def _gather(self, drawn: _Drawn) -> Proposals:
        estimates, area_px, others = drawn.figures
        return Proposals.join(drawn.tiles, self.model.logit_px, drawn.cells, drawn.spans, estimates, area_px, others)


def mask_area(logits: Tensor, tile: Tile, size_hw: tuple[int, int]) -> Tensor:
    """Area in image pixels of masks from their low-resolution logits (P, C, G, G), without the tile's padding: (P, C).

    So a mask that floods far beyond its circle is seen (§4).
    """
    cell_px = tile.side_px / logits.shape[-1]
    rows = min(logits.shape[-2], int(np.ceil((size_hw[0] - tile.y0) / cell_px)))
    columns = min(logits.shape[-1], int(np.ceil((size_hw[1] - tile.x0) / cell_px)))
    return (logits[:, :, :rows, :columns] > 0).sum((2, 3)).float() * cell_px**2


def other_heads(logits: Tensor, tile: Tile, own: Tensor, heads_xy: Tensor) -> Tensor:
    """Count the other heads under masks given by low-resolution logits (P, C, G, G): (P, C) float.

    Args:
        logits: The masks.
        tile: Where they lie in the image.
        own: (P,) int64, row of each mask's head in ``heads_xy``.
        heads_xy: (K, 2) float64, all annotated heads in the tile, image pixels.
    """
    grid = ((heads_xy - heads_xy.new_tensor([tile.x0, tile.y0]) + 0.5) / tile.side_px * 2 - 1).to(logits.dtype)
    at_heads = F.grid_sample(
        logits,
        grid[None, None].expand(len(logits), -1, -1, -1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[:, :, 0]
    # A head at the same place is the same head marked twice, not another one.
    same_place = (heads_xy[own][:, None] == heads_xy[None]).all(2)
    return ((at_heads > 0) & ~same_place[:, None]).sum(2).float()


def cut_tile(image: NDArray[np.uint8], tile: Tile, model_px: int, beyond: Tensor | None) -> Tensor:
    """Cut a tile and scale it to the model's input.

    Args:
        image: (H, W, 3) uint8 RGB.
        tile: The square.
        model_px: Side of the model's input.
        beyond: Colour of what lies beyond the image, (3, 1, 1) in [0, 255]; None goes on with the mirror image.

    Returns:
        (3, S, S) float32 in [0, 255] on the CPU.
    """
    part = image[tile.y0 : tile.y0 + tile.side_px, tile.x0 : tile.x0 + tile.side_px]
    scale = model_px / tile.side_px
    size_hw = max(1, round(part.shape[0] * scale)), max(1, round(part.shape[1] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(part, size_hw[::-1], interpolation=method)
    if beyond is None:
        scaled = np.pad(scaled, [(0, model_px - size_hw[0]), (0, model_px - size_hw[1]), (0, 0)], mode="symmetric")
        return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1))).float()
    result = beyond.detach().cpu().float().expand(3, model_px, model_px).clone()
    result[:, : size_hw[0], : size_hw[1]] = torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1))).float()
    return result


def to_model_xy(points_xy: NDArray[np.float64], tile: Tile, model_px: int) -> Tensor:
    """Image pixels to pixels of the model's input, centres whole in both; clipped to the input: (P, 2) float32."""
    scaled = (points_xy - [tile.x0, tile.y0] + 0.5) * (model_px / tile.side_px) - 0.5
    return torch.from_numpy(np.clip(scaled, 0, model_px - 1).astype(np.float32))


def nearest_others(points_xy: NDArray[np.float64], radius_px: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The nearest heads at other places within two radii of each: (N, count, 2), NaN where there are fewer."""
    result = np.full((len(points_xy), count, 2), np.nan)
    places_xy = np.unique(points_xy, axis=0)
    for row, found in enumerate(KDTree(places_xy).query_ball_point(points_xy, 2 * radius_px)):
        others_xy = places_xy[sorted(found)]
        distance = np.hypot(*(others_xy - points_xy[row]).T)
        others_xy = others_xy[np.argsort(distance, kind="stable")][(distance == 0).sum() :][:count]
        result[row, : len(others_xy)] = others_xy
    return result


def _default_min_radius(model_px: int) -> float:
    """12 px for a 1024 px model, 36 for the compact one: on training scenes a mean IoU of 0.915, and 0.913 with 32."""
    return float(np.interp(model_px, [256, 1024], [36.0, 12.0]))


def _inside(tile: Tile, points_xy: NDArray[np.float64]) -> NDArray[np.bool_]:
    offset = points_xy - [tile.x0, tile.y0]
    return np.asarray(((offset >= -0.5) & (offset < tile.side_px - 0.5)).all(1))


def _heads_in(tile: Tile, points_xy: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows of the heads that a tile owns or shows, ascending."""
    found = _inside(tile, points_xy)
    found[tile.rows] = True
    return np.flatnonzero(found)


def _nan_outside(tile: Tile, points_xy: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(_inside(tile, points_xy)[:, None], points_xy, np.nan)
