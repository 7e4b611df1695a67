"""What the compact model learns from: endless synthetic crowds with prompts, and the truth about each.

Step ``t`` is a pure function of (seed, t), so a resumed training sees what it would have seen.
"""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.annotators.prompting import DEFAULT_NEGATIVES, nearest_others
from pipeline.datasets.crowd_scene.scene import Scene, render_scene
from pipeline.geometry.nnec import nnec_radii
from pipeline.models.compact_sam import INPUT_PX, OFFSET_UNIT_PX, STRIDE, WINDOW_CELLS

SCENE_REUSE = 4
NEAR_RADII = 1.5
MAGNIFICATIONS = 0.75, 3.9
MEDIAN_RADII_PX = 22.0, 48.0
"""Median radius of a tile's circles in pixels of the model's input: what planned tiles give, and somewhat more."""
RADII_PER_SPACING = 0.54
"""Median radius in these scenes, as a share of the root of the area per head."""
MAX_RADIUS_PX = WINDOW_CELLS * STRIDE / 2 - STRIDE
"""No larger circle is asked for: planned tiles have none, and the decoder's window would not hold it."""
NEGATIVES, NEGATIVES_PROB = DEFAULT_NEGATIVES["compact"], 0.8


@dataclass(frozen=True)
class PromptableOptions:
    """How the compact model is trained.

    Args:
        steps: Optimiser steps.
        images_per_step: Synthetic scenes in a step.
        prompts_per_image: People prompted in a scene, at most.
        learning_rate: Peak of the AdamW rate, reached after ``warmup_steps``, cosine to zero after.
        kernel_learning_rate: The same of Muon's, which moves the kernels of hidden layers.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Decoupled weight decay of both.
        outside_weight: Weight of all cells outside the exclusion circle together; that of all inside is 1.
        seed: Seed of scenes, prompts and initial weights.
        checkpoint_every: Steps between resumable checkpoints.
        layout_weight: Weight of the auxiliary loss that tells persons and their heads' places from the tokens.
        bf16: Compute the network in bfloat16 where that is safe; 1.4 times as fast on a CPU that has it.
    """

    steps: int = 10_000
    images_per_step: int = 4
    prompts_per_image: int = 12
    learning_rate: float = 1e-3
    kernel_learning_rate: float = 0.02
    warmup_steps: int = 100
    weight_decay: float = 0.01
    outside_weight: float = 0.3
    seed: int = 1
    checkpoint_every: int = 100
    bf16: bool = True
    layout_weight: float = 1.0


@dataclass(frozen=True)
class PromptBatch:
    """One image with its prompts and targets, in the model's 256 px frame.

    Args:
        image: (3, 256, 256) uint8.
        points_xy: (P, 2) float32, a pixel in each prompted head.
        boxes_xyxy: (P, 4) float32 around the visible mask inside the circle, loosened at random; some are the circle's
            own square.
        negatives_xy: (P, K, 2) float32, the nearest other heads as the annotator gives them, NaN where there are fewer.
        kind: ``point``, ``box`` or ``both``.
        targets: (P, 64, 64) float32 share of each cell that the person covers.
        circles: (P, 64, 64) bool cells inside the exclusion circle.
        layout: (6, 64, 64) float32 of the whole scene, in cells of stride 4: whether a cell shows a person, a head, the
            border of a person; whether it lies within 1.5 radii of its person's head; and there, the xy offset from
            its centre to that head in units of 32 px.
    """

    image: Tensor
    points_xy: Tensor
    boxes_xyxy: Tensor
    negatives_xy: Tensor
    kind: str
    targets: Tensor
    circles: Tensor
    layout: Tensor

    def to(self, device: torch.device) -> "PromptBatch":
        """Move all tensors."""
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


class CrowdPrompts(Dataset[list[PromptBatch]]):
    """Step ``t`` of training as a pure function of (seed, t), so that a resumed run sees what it would have seen."""

    def __init__(self, options: PromptableOptions) -> None:
        self.options = options
        self._scenes: dict[tuple[int, int], tuple[Scene, int]] = {}

    def __len__(self) -> int:
        return self.options.steps

    def __getitem__(self, step: int) -> list[PromptBatch]:
        batches = []
        for slot in range(self.options.images_per_step):
            scene, tile_px = self._scene(slot, (step + slot) // SCENE_REUSE)
            rng = np.random.default_rng([self.options.seed, 1, step, slot])
            batches.append(sample_prompts(rng, scene, tile_px, self.options.prompts_per_image))
        return batches

    def _scene(self, slot: int, number: int) -> tuple[Scene, int]:
        if (slot, number) not in self._scenes:
            self._scenes = {key: scene for key, scene in self._scenes.items() if key[0] != slot}
            self._scenes[slot, number] = draw_scene(np.random.default_rng([self.options.seed, 0, slot, number]))
        return self._scenes[slot, number]


def draw_scene(rng: np.random.Generator) -> tuple[Scene, int]:
    """Draw a scene, and choose the side of the tiles to be cut from it, as an annotator would for its circles.

    Args:
        rng: Source of randomness.

    Returns:
        The scene, square, and the side of a tile in its pixels, at most its own.
    """
    tile_px = INPUT_PX / np.exp(rng.uniform(*np.log(MAGNIFICATIONS)))
    median_radius_px = np.exp(rng.uniform(*np.log(MEDIAN_RADII_PX))) * tile_px / INPUT_PX
    side = round(tile_px * rng.uniform(1.0, 1.4))
    n_heads = max(2, round((RADII_PER_SPACING * side / median_radius_px) ** 2))
    return render_scene(rng, size_hw=(side, side), n_heads=n_heads), int(tile_px)


def sample_prompts(rng: np.random.Generator, scene: Scene, tile_px: int, n_prompts: int) -> PromptBatch:
    """Cut a tile from a scene, bring it to 256 px, mirror it at random, and draw prompts with their targets.

    Circles are those of the whole scene. People whose circle is larger than the decoder's window are not asked for.

    Args:
        rng: Source of randomness.
        scene: A square scene with at least one head.
        tile_px: Side of the tile, at most the scene's.
        n_prompts: People to prompt, at most.

    Returns:
        Tensors on the CPU.
    """
    side, scale = scene.image.shape[0], INPUT_PX / tile_px
    radii = nnec_radii(
        scene.points_xy, size_hw=(side, side), min_radius_px=3.0, max_radius_frac=0.25, radius_scale=1.0
    ).radius_px
    about = scene.points_xy[rng.integers(len(radii))]
    corner = np.clip(np.round(about - rng.uniform(0.05, 0.95, 2) * tile_px), 0, side - tile_px).astype(np.int64)
    here = np.s_[corner[1] : corner[1] + tile_px, corner[0] : corner[0] + tile_px]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(scene.image[here], (INPUT_PX, INPUT_PX), interpolation=method)
    labels = cv2.resize(
        scene.label_map[here].astype(np.float32), (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_NEAREST_EXACT
    )
    points = (scene.points_xy - corner + 0.5) * scale - 0.5
    radii, boxes_wh = radii * scale, scene.boxes_wh_px * scale
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
        points = points * [-1, 1] + [INPUT_PX - 1, 0]
    layout = _layout(labels.astype(np.int64), points, radii, boxes_wh)
    shown = ((points > -0.5) & (points < INPUT_PX - 0.5)).all(1)
    count = NEGATIVES if rng.random() < NEGATIVES_PROB else 0
    negatives = nearest_others(points, radii, count)
    negatives[((negatives <= -0.5) | (negatives >= INPUT_PX - 0.5)).any(2)] = np.nan
    asked = np.flatnonzero(shown & (radii <= MAX_RADIUS_PX))
    chosen = rng.permutation(asked if len(asked) else np.flatnonzero(shown))[:n_prompts]
    points, circle_px, negatives = points[chosen], radii[chosen], negatives[chosen]
    masks = labels[None] == (chosen + 1)[:, None, None]
    grid = np.arange(INPUT_PX)
    distance = np.hypot(grid[None, None, :] - points[:, 0, None, None], grid[None, :, None] - points[:, 1, None, None])
    circles = distance <= circle_px[:, None, None]
    spread = rng.normal(0, 0.11, points.shape) * boxes_wh[chosen, 1, None]
    moved = np.clip(points + spread, 0, INPUT_PX - 1)
    inside = masks[np.arange(len(chosen)), np.round(moved[:, 1]).astype(int), np.round(moved[:, 0]).astype(int)]
    prompts = np.where(inside[:, None], moved, points)
    boxes = _loose_boxes(rng, masks & circles)
    whole = rng.random(len(chosen)) < 0.2
    reach = circle_px[whole, None]
    boxes[whole] = np.clip(np.concatenate([points[whole] - reach, points[whole] + reach], 1), 0, INPUT_PX - 1)
    return PromptBatch(
        image=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
        points_xy=torch.from_numpy(prompts.astype(np.float32)),
        boxes_xyxy=torch.from_numpy(boxes),
        negatives_xy=torch.from_numpy(negatives.astype(np.float32)),
        kind=str(rng.choice(["point", "box", "both"], p=[0.5, 0.05, 0.45])),
        targets=F.avg_pool2d(torch.from_numpy(masks.astype(np.float32)), STRIDE),
        circles=F.max_pool2d(torch.from_numpy(circles.astype(np.float32)), STRIDE) > 0,
        layout=torch.from_numpy(layout),
    )


def _layout(
    labels: NDArray[np.int64],
    points_xy: NDArray[np.float64],
    radius_px: NDArray[np.float64],
    boxes_wh_px: NDArray[np.float64],
) -> NDArray[np.float32]:
    """What the whole scene shows in cells of stride 4, see :attr:`PromptBatch.layout`."""
    cells = labels[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    person = cells > 0
    at = np.maximum(cells - 1, 0)
    rows, columns = np.mgrid[: cells.shape[0], : cells.shape[1]] * STRIDE + (STRIDE - 1) / 2
    offset = np.stack([points_xy[at, 0] - columns, points_xy[at, 1] - rows])
    near = person & (np.hypot(*offset) < NEAR_RADII * radius_px[at])
    head = person & (((2 * offset / boxes_wh_px[at].transpose(2, 0, 1)) ** 2).sum(0) < 1)
    block = labels.reshape(cells.shape[0], STRIDE, cells.shape[1], STRIDE)
    border = block.min((1, 3)) != block.max((1, 3))
    return np.concatenate([np.stack([person, head, border, near]), offset / OFFSET_UNIT_PX * near]).astype(np.float32)


def _loose_boxes(rng: np.random.Generator, masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Bounding boxes (P, 4) xyxy of masks, as wrong as those of superpixel regions: most a little, some by half."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for row, mask in enumerate(masks):
        ys, xs = np.nonzero(mask)
        box = (
            np.array([xs.min(), ys.min(), xs.max(), ys.max()])
            if len(xs)
            else np.array([0, 0, INPUT_PX - 1, INPUT_PX - 1])
        )
        reach = np.tile([box[2] - box[0] + 1, box[3] - box[1] + 1], 2)
        error = 0.09 if rng.random() < 0.5 else 0.3
        moved = box + np.clip(rng.normal(0, error, 4), -0.45, 0.45) * reach
        boxes[row] = np.clip(moved, 0, INPUT_PX - 1)
    return boxes
