"""EDP-SAM: masks from head points with a promptable model, two kinds of prompt and an exclusion circle.

A reconstruction of Exclusion-Constrained Dual-Prompt SAM (arXiv 2603.16241) from its published description; its authors
have released neither code nor masks. Sections in the comments are those of our specification.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from pipeline.annotators.base import MarkedImage
from pipeline.annotators.exclusion import (
    CircleWindows,
    ExclusionOptions,
    Judged,
    circle_windows,
    disc_window,
    head_component,
    judge,
    keep_apart,
)
from pipeline.annotators.superpixel import SuperpixelOptions, grow_regions
from pipeline.geometry.tiles import Tile, plan_tiles
from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window

if TYPE_CHECKING:  # its import takes seconds, and every stage reads this module's options
    from pipeline.models.sam import PromptableModel

PROMPT_KINDS = ("head", "superpixel", "box")
CHUNK = 8


@dataclass(frozen=True)
class EdpSamOptions:
    """How EDP-SAM tiles, prompts and chooses.

    Args:
        prompts: Kinds of prompt for every head, of ``head``, ``superpixel`` and ``box``.
        negatives: So many of the nearest other heads within two radii become negative points of head prompts.
        min_radius_model_px: Wanted median radius of the circles in pixels of the model's input; 0 takes 12 for a
            1024 px model and 24 for the compact one, in proportion between.
        max_magnification: No tile is enlarged more than this.
        exclusive: False drops the exclusion terms from the ranking, for ablations; masks are clipped all the same.
        exclusion: Weights and bounds of the choice among candidates.
        superpixel: How the regions behind superpixel prompts are grown.
    """

    prompts: tuple[str, ...] = ("head", "superpixel")
    negatives: int = 0
    min_radius_model_px: float = 0.0
    max_magnification: float = 4.0
    exclusive: bool = True
    exclusion: ExclusionOptions = field(default_factory=ExclusionOptions)
    superpixel: SuperpixelOptions = field(default_factory=SuperpixelOptions)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        unknown = sorted(set(self.prompts) - set(PROMPT_KINDS))
        if unknown or not self.prompts or len(set(self.prompts)) < len(self.prompts):
            raise ValueError(
                f"prompts must be one or more of {', '.join(PROMPT_KINDS)}, each once, got {list(self.prompts)}"
            )
        if self.negatives < 0:
            raise ValueError(f"negatives must be at least 0, got {self.negatives}")
        if self.min_radius_model_px < 0:
            raise ValueError(f"min_radius_model_px must be at least 0, got {self.min_radius_model_px}")
        if self.max_magnification < 1:
            raise ValueError(f"max_magnification must be at least 1, got {self.max_magnification}")


@dataclass(frozen=True)
class _EncodedTile:
    """A tile with its embedding and all heads inside it, its own ones and the others."""

    tile: Tile
    embedding: Tensor
    head_rows: NDArray[np.int64]
    heads_xy: Tensor


@dataclass(frozen=True)
class _Prompts:
    """One kind of prompt for all heads, image pixels: boxes (N, 4), negative points (N, K, 2), NaN where none."""

    kind: str
    boxes_xyxy: NDArray[np.float64] | None = None
    negatives_xy: NDArray[np.float64] | None = None


@dataclass
class _Choice:
    """The best candidate of one head so far, in its circle's window."""

    rank: float
    source: str
    logits: NDArray[np.float32]
    window: Window
    pred_iou: float
    stability: float
    leak_frac: float
    area_px: float


class EdpSamAnnotator:
    """EDP-SAM with one loaded model.

    Args:
        model: The promptable model.
        options: Tiles, prompts and ranking.
    """

    name = "edp_sam"
    algorithm_version = 1

    def __init__(self, model: "PromptableModel", options: EdpSamOptions) -> None:
        self.model = model
        self.options = options

    @property
    def weights_sha256(self) -> str:
        """Digest of the model's weights."""
        return self.model.weights_sha256

    def annotate(self, marked: MarkedImage) -> Instances:
        """Give one row per point: its best mask clipped to its circle, or a small disc where none was left (§4)."""
        choices: list[_Choice | None] = [None] * len(marked.points_xy)
        all_prompts = [self._prompts(kind, marked) for kind in self.options.prompts]
        for encoded in self._encoded_tiles(marked):
            for prompts in all_prompts:
                for rows in _chunks(encoded.tile.rows):
                    self._try_prompts(marked, encoded, rows, prompts, choices)
        return self._assemble(marked, choices)

    def _encoded_tiles(self, marked: MarkedImage) -> Iterator[_EncodedTile]:
        wanted = self.options.min_radius_model_px or _default_min_radius(self.model.input_px)
        tiles = plan_tiles(
            marked.points_xy,
            marked.radius_px,
            size_hw=marked.size_hw,
            model_px=self.model.input_px,
            min_radius_model_px=wanted,
            max_magnification=self.options.max_magnification,
        )
        for tile in tiles:
            pixels = cut_tile(marked.image, tile, self.model.input_px, self.model.sam.pixel_mean)
            head_rows = _heads_in(tile, marked.points_xy)
            heads_xy = torch.from_numpy(marked.points_xy[head_rows]).to(self.model.device)
            yield _EncodedTile(tile, self.model.encode(pixels[None])[0], head_rows, heads_xy)

    def _prompts(self, kind: str, marked: MarkedImage) -> _Prompts:
        """Lay out one kind of prompt for every head (§3)."""
        if kind == "superpixel":
            return _Prompts(kind, grow_regions(marked, self.options.superpixel).boxes_xyxy)
        if kind == "box":
            reach = marked.radius_px[:, None]
            return _Prompts(kind, np.concatenate([marked.points_xy - reach, marked.points_xy + reach], axis=1))
        if self.options.negatives == 0:
            return _Prompts(kind)
        return _Prompts(kind, negatives_xy=nearest_others(marked.points_xy, marked.radius_px, self.options.negatives))

    def _try_prompts(
        self,
        marked: MarkedImage,
        encoded: _EncodedTile,
        rows: NDArray[np.int64],
        prompts: _Prompts,
        choices: list[_Choice | None],
    ) -> None:
        """Decode one chunk of prompts; its size depends on the tile's heads alone, so the bytes do too (§5)."""
        tile, side, device = encoded.tile, self.model.input_px, self.model.device
        points = to_model_xy(marked.points_xy[rows], tile, side)
        boxes = negatives = None
        if prompts.boxes_xyxy is not None:
            boxes = to_model_xy(prompts.boxes_xyxy[rows].reshape(-1, 2), tile, side).reshape(-1, 4)
        if prompts.negatives_xy is not None:
            negatives_xy = _nan_outside(tile, prompts.negatives_xy[rows].reshape(-1, 2))
            negatives = to_model_xy(negatives_xy, tile, side).reshape(len(rows), -1, 2)
        logits, estimates = self.model.decode(encoded.embedding, points, boxes, negatives)
        points_xy = torch.from_numpy(marked.points_xy[rows]).to(device)
        windows = circle_windows(points_xy, torch.from_numpy(marked.radius_px[rows]).to(device), marked.size_hw)
        judged = judge(
            logits[: len(rows)].float(),
            estimates[: len(rows)].float(),
            windows,
            tile,
            torch.from_numpy(np.searchsorted(encoded.head_rows, rows)).to(device),
            encoded.heads_xy,
            marked.size_hw,
            self.options.exclusion,
            exclusive=self.options.exclusive,
        )
        self._keep_better(judged, windows, rows, prompts.kind, choices)

    def _keep_better(
        self,
        judged: Judged,
        windows: CircleWindows,
        rows: NDArray[np.int64],
        kind: str,
        choices: list[_Choice | None],
    ) -> None:
        scores = (
            torch.stack([judged.rank, judged.pred_iou, judged.stability, judged.leak_frac, judged.area_px])
            .cpu()
            .numpy()
        )
        shapes = torch.stack([windows.x0, windows.y0, windows.heights, windows.widths]).cpu().numpy()
        logits, inside = judged.logits.cpu().numpy(), windows.inside.cpu().numpy()
        for k, row in enumerate(rows):
            rank, best = float(scores[0, k]), choices[row]
            if not np.isfinite(rank) or (best is not None and best.rank >= rank):
                continue
            x0, y0, height, width = (int(value) for value in shapes[:, k])
            own = logits[k, :height, :width].copy()
            window = Window((own > 0) & inside[k, :height, :width], x0, y0)
            choices[row] = _Choice(rank, kind, own, window, *(float(value) for value in scores[1:, k]))

    def _assemble(self, marked: MarkedImage, choices: list[_Choice | None]) -> Instances:
        """Clip, mend, keep apart, and write one row per point (§4)."""
        options = self.options.exclusion
        windows, strength = [], []
        for (x, y), radius, choice in zip(marked.points_xy, marked.radius_px, choices, strict=True):
            if choice is None:
                disc = disc_window(x, y, options.fallback_radius_frac * radius, marked.size_hw)
                windows.append(disc)
                strength.append(np.zeros(disc.mask.shape, np.float32))
                continue
            x0, y0 = choice.window.x0, choice.window.y0
            circle = circle_mask(choice.window, x, y, radius)
            mask = head_component(choice.window.mask, x - x0, y - y0, fill_holes=True) & circle
            windows.append(Window(mask, x0, y0))
            strength.append(np.where(mask, np.maximum(choice.logits, 0), choice.logits))
        windows = keep_apart(windows, strength, marked.points_xy, marked.radius_px, marked.size_hw)
        area = np.array([window.mask.sum() for window in windows], np.float64)
        found = np.array([choice is not None for choice in choices], bool)
        column = {
            name: np.array([np.nan if c is None else getattr(c, name) for c in choices], np.float64)
            for name in ("rank", "pred_iou", "stability", "leak_frac", "area_px")
        }
        return Instances.from_windows(
            marked.size_hw,
            windows,
            point_id=marked.point_id,
            class_id=marked.class_id,
            points_xy=marked.points_xy,
            radius_px=marked.radius_px,
            score=np.where(area == 0, 0.0, np.where(found, column["rank"], options.fallback_score)),
            pred_iou=column["pred_iou"],
            stability=column["stability"],
            leak_frac=column["leak_frac"],
            clipped_frac=np.clip(1 - area / np.maximum(column["area_px"], 1), 0, 1),
            source=["fallback" if c is None else c.source for c in choices],
            status=list(np.where(area == 0, "empty", np.where(found, "ok", "fallback"))),
        )


def cut_tile(image: NDArray[np.uint8], tile: Tile, model_px: int, pixel_mean: Tensor) -> Tensor:
    """Cut a tile and scale it to the model's input; what lies beyond the image becomes the model's mean colour.

    Args:
        image: (H, W, 3) uint8 RGB.
        tile: The square.
        model_px: Side of the model's input.
        pixel_mean: (3, 1, 1) mean colour, [0, 255].

    Returns:
        (3, S, S) float32 in [0, 255] on the CPU.
    """
    part = image[tile.y0 : tile.y0 + tile.side_px, tile.x0 : tile.x0 + tile.side_px]
    scale = model_px / tile.side_px
    size_hw = max(1, round(part.shape[0] * scale)), max(1, round(part.shape[1] * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(part, size_hw[::-1], interpolation=method)
    result = pixel_mean.detach().cpu().float().expand(3, model_px, model_px).clone()
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


def circle_mask(window: Window, x: float, y: float, radius_px: float) -> NDArray[np.bool_]:
    """Pixels of a window inside a circle: (h, w) bool."""
    height, width = window.mask.shape
    rows, columns = np.ogrid[window.y0 : window.y0 + height, window.x0 : window.x0 + width]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius_px**2, bool)


def _default_min_radius(model_px: int) -> float:
    """12 px for a 1024 px model; the coarser compact model needs 24: with 5 it loses 10 points of IoU."""
    return float(np.interp(model_px, [256, 1024], [24.0, 12.0]))


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


def _chunks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]
