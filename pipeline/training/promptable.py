"""Training of the compact promptable model on endless synthetic crowds (specification EDP-SAM §6).

Each step draws four scenes, up to eight people in each, prompts them with a point in the head, a box, or both, and
compares the decoder's three candidates with the person's true visible mask, above all inside the exclusion circle.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipeline.compute.files import atomic_write_bytes, digest_file, digest_json
from pipeline.compute.progress import track
from pipeline.datasets.crowd_scene.scene import Scene, render_scene
from pipeline.geometry.nnec import nnec_radii
from pipeline.models.compact_sam import CHANNELS, INPUT_PX, TOKEN_STRIDE, build_compact_sam

SCENE_REUSE = 3
LOGIT_PX = INPUT_PX // 2
OFFSET_UNIT_PX = 32.0


@dataclass(frozen=True)
class PromptableOptions:
    """How the compact model is trained.

    Args:
        steps: Optimiser steps.
        images_per_step: Synthetic scenes in a step.
        prompts_per_image: People prompted in a scene, at most.
        learning_rate: Peak of the AdamW rate, reached after ``warmup_steps``, cosine to zero after.
        warmup_steps: Steps of linear warm-up.
        weight_decay: AdamW weight decay.
        outside_weight: Weight of all cells outside the exclusion circle together; that of all inside is 1.
        seed: Seed of scenes, prompts and initial weights.
        checkpoint_every: Steps between resumable checkpoints.
        layout_weight: Weight of the auxiliary loss that tells persons and their heads' places from the tokens.
        bf16: Compute the network in bfloat16 where that is safe; 1.4 times as fast on a CPU that has it.
    """

    steps: int = 3000
    images_per_step: int = 4
    prompts_per_image: int = 8
    learning_rate: float = 6e-4
    warmup_steps: int = 100
    weight_decay: float = 0.01
    outside_weight: float = 1.0
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
        boxes_xyxy: (P, 4) float32 around the visible mask inside the circle, loosened at random.
        kind: ``point``, ``box`` or ``both``.
        targets: (P, 128, 128) float32 share of each cell that the person covers.
        circles: (P, 128, 128) bool cells inside the exclusion circle.
        layout: (3, 128, 128) float32 of the whole scene: whether a cell shows a person, and the xy offset from it to
            that person's head in units of 32 px.
    """

    image: Tensor
    points_xy: Tensor
    boxes_xyxy: Tensor
    kind: str
    targets: Tensor
    circles: Tensor
    layout: Tensor

    def to(self, device: torch.device) -> "PromptBatch":
        """Move all tensors."""
        image, points_xy, boxes_xyxy = self.image.to(device), self.points_xy.to(device), self.boxes_xyxy.to(device)
        targets, circles, layout = self.targets.to(device), self.circles.to(device), self.layout.to(device)
        return PromptBatch(image, points_xy, boxes_xyxy, self.kind, targets, circles, layout)


class CrowdPrompts(Dataset[list[PromptBatch]]):
    """Step ``t`` of training as a pure function of (seed, t), so that a resumed run sees what it would have seen."""

    def __init__(self, options: PromptableOptions) -> None:
        self.options = options
        self._scenes: dict[tuple[int, int], Scene] = {}

    def __len__(self) -> int:
        return self.options.steps

    def __getitem__(self, step: int) -> list[PromptBatch]:
        batches = []
        for slot in range(self.options.images_per_step):
            scene = self._scene(slot, (step + slot) // SCENE_REUSE)
            rng = np.random.default_rng([self.options.seed, 1, step, slot])
            batches.append(sample_prompts(rng, scene, self.options.prompts_per_image))
        return batches

    def _scene(self, slot: int, number: int) -> Scene:
        if (slot, number) not in self._scenes:
            self._scenes = {key: scene for key, scene in self._scenes.items() if key[0] != slot}
            rng = np.random.default_rng([self.options.seed, 0, slot, number])
            side = int(np.clip(INPUT_PX / np.exp(rng.uniform(np.log(0.7), np.log(3.2))), 96, 352))
            n_heads = int(np.exp(rng.uniform(np.log(3), np.log(min(160, 0.0022 * side * side + 6)))))
            self._scenes[slot, number] = render_scene(rng, size_hw=(side, side), n_heads=n_heads)
        return self._scenes[slot, number]


def sample_prompts(rng: np.random.Generator, scene: Scene, n_prompts: int) -> PromptBatch:
    """Bring a scene to 256 px, mirror it at random, and draw prompts with their targets.

    Args:
        rng: Source of randomness.
        scene: A scene with at least one head.
        n_prompts: People to prompt, at most.

    Returns:
        Tensors on the CPU.
    """
    side = scene.image.shape[0]
    scale = INPUT_PX / side
    radii = nnec_radii(
        scene.points_xy, size_hw=(side, side), min_radius_px=3.0, max_radius_frac=0.25, radius_scale=1.0
    ).radius_px
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(scene.image, (INPUT_PX, INPUT_PX), interpolation=method)
    labels = cv2.resize(scene.label_map.astype(np.float32), (INPUT_PX, INPUT_PX), interpolation=cv2.INTER_NEAREST_EXACT)
    points = (scene.points_xy + 0.5) * scale - 0.5
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
        points = points * [-1, 1] + [INPUT_PX - 1, 0]
    layout = _layout(labels.astype(np.int64), points)
    chosen = rng.permutation(len(points))[:n_prompts]
    points, circle_px = points[chosen], radii[chosen] * scale
    masks = labels[None] == (chosen + 1)[:, None, None]
    grid = np.arange(INPUT_PX)
    distance = np.hypot(grid[None, None, :] - points[:, 0, None, None], grid[None, :, None] - points[:, 1, None, None])
    circles = distance <= circle_px[:, None, None]
    head_px = scene.boxes_wh_px[chosen, 1] * scale / 2
    spread = rng.normal(0, 0.22, points.shape) * head_px[:, None]
    moved = np.clip(points + spread, 0, INPUT_PX - 1)
    inside = masks[np.arange(len(chosen)), np.round(moved[:, 1]).astype(int), np.round(moved[:, 0]).astype(int)]
    prompts = np.where(inside[:, None], moved, points)
    kind = str(rng.choice(["point", "box", "both"], p=[0.5, 0.12, 0.38]))
    return PromptBatch(
        image=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
        points_xy=torch.from_numpy(prompts.astype(np.float32)),
        boxes_xyxy=torch.from_numpy(_loose_boxes(rng, masks & circles)),
        kind=kind,
        targets=F.avg_pool2d(torch.from_numpy(masks.astype(np.float32)), 2),
        circles=F.max_pool2d(torch.from_numpy(circles.astype(np.float32)), 2) > 0,
        layout=torch.from_numpy(layout),
    )


def _layout(labels: NDArray[np.int64], points_xy: NDArray[np.float64]) -> NDArray[np.float32]:
    """What the whole scene shows at 128 px: a person or not, and where that person's head is from there."""
    cells = labels[::2, ::2]
    heads_xy = np.concatenate([np.zeros((1, 2)), points_xy])[cells]
    rows, columns = np.mgrid[: cells.shape[0], : cells.shape[1]] * 2
    offsets = np.stack([heads_xy[..., 0] - columns, heads_xy[..., 1] - rows]) / OFFSET_UNIT_PX
    return np.concatenate([(cells > 0)[None], np.clip(offsets, -4, 4) * (cells > 0)]).astype(np.float32)


def _loose_boxes(rng: np.random.Generator, masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Bounding boxes (P, 4) xyxy of masks, each side moved by up to about a fifth of the box."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for row, mask in enumerate(masks):
        ys, xs = np.nonzero(mask)
        box = (
            np.array([xs.min(), ys.min(), xs.max(), ys.max()])
            if len(xs)
            else np.array([0, 0, INPUT_PX - 1, INPUT_PX - 1])
        )
        reach = np.tile([box[2] - box[0] + 1, box[3] - box[1] + 1], 2)
        boxes[row] = np.clip(box + rng.normal(0, 0.09, 4) * reach, 0, INPUT_PX - 1)
    return boxes


def promptable_loss(
    logits: Tensor, iou_estimates: Tensor, batch: PromptBatch, outside_weight: float
) -> tuple[Tensor, Tensor]:
    """Loss of one image's prompts: 5·BCE + dice inside the circle for the best candidate, MSE of the IoU estimate.

    Args:
        logits: (P, 3, 128, 128) mask logits.
        iou_estimates: (P, 3) estimated IoU.
        batch: Targets.
        outside_weight: Weight of all cells outside the circle together, relative to all inside.

    Returns:
        The scalar loss, and (P,) IoU inside the circle of the best candidate.
    """
    target, circle = batch.targets[:, None], batch.circles[:, None]
    weight = torch.where(
        circle, 1.0, outside_weight * circle.sum((2, 3), keepdim=True) / (~circle).sum((2, 3), keepdim=True)
    )
    bce = (F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none") * weight).sum((2, 3))
    bce = bce / weight.sum((2, 3))
    inside = logits.sigmoid() * circle
    wanted = target * circle
    dice = 1 - (2 * (inside * wanted).sum((2, 3)) + 1) / (inside.sum((2, 3)) + wanted.sum((2, 3)) + 1)
    each = 5 * bce + dice
    with torch.no_grad():
        drawn, truth = (logits > 0) & circle, (target > 0.5) & circle
        iou = (drawn & truth).sum((2, 3)) / (drawn | truth).sum((2, 3)).clamp(min=1)
    loss = each.min(1).values.mean() + 0.15 * each.mean() + F.mse_loss(iou_estimates, iou)
    return loss, iou.max(1).values


class LayoutHead(nn.Module):
    """Predicts the scene's layout from the tokens, in training only, so that every pixel teaches the encoder."""

    def __init__(self) -> None:
        super().__init__()
        side = LOGIT_PX * TOKEN_STRIDE // INPUT_PX
        self.project = nn.Sequential(nn.Conv2d(CHANNELS, 3 * side**2, 1), nn.PixelShuffle(side))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, 128, 32, 32) to layouts (B, 3, 128, 128): logit of a person, xy offset."""
        layout: Tensor = self.project(tokens)
        return layout


def layout_loss(predicted: Tensor, layout: Tensor) -> Tensor:
    """BCE of person or not, and smooth L1 of the offset to the head where there is a person; both (B, 3, 128, 128)."""
    person = layout[:, :1]
    offset = F.smooth_l1_loss(predicted[:, 1:], layout[:, 1:], reduction="none", beta=0.1) * person
    return F.binary_cross_entropy_with_logits(predicted[:, :1], person) + offset.sum() / person.sum().clamp(min=1)


def decode_prompts(sam: Sam, embedding: Tensor, batch: PromptBatch) -> tuple[Tensor, Tensor]:
    """Decode one image's prompts into three candidates: logits (P, 3, 128, 128) and IoU estimates (P, 3)."""
    points = (batch.points_xy[:, None], torch.ones_like(batch.points_xy[:, :1])) if batch.kind != "box" else None
    boxes = batch.boxes_xyxy if batch.kind != "point" else None
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
    logits, estimates = sam.mask_decoder(
        image_embeddings=embedding[None],
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    return logits, estimates


def train_compact_sam(
    options: PromptableOptions,
    *,
    device: torch.device,
    resume: Path,
    report: Callable[[dict[str, Any]], None],
    workers: int = 1,
) -> Sam:
    """Train the compact model, going on from the last checkpoint of the same options.

    Args:
        options: What to train.
        device: Where to train.
        resume: Folder for the resumable state; one file, replaced atomically.
        report: Called after each step with ``step, loss, iou, seconds``.
        workers: Processes that draw scenes.

    Returns:
        The trained model, on ``device``, in training mode and unfused.
    """
    torch.manual_seed(options.seed)
    sam = build_compact_sam().to(device).train()
    layout_head = LayoutHead().to(device)
    network = nn.ModuleDict({"sam": sam, "layout_head": layout_head})
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options))
    state_file = resume / f"compact_{digest_json(asdict(options))[:12]}.pt"
    start = _load_state(state_file, network, optimizer, schedule)
    steps = list(range(start, options.steps))
    loader: DataLoader[list[PromptBatch]] = DataLoader(
        CrowdPrompts(options),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    rounds = zip(steps, _on_device(loader, device), strict=True)
    for step, batches in track(rounds, description="train compact", total=len(steps), unit="steps"):
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            images = sam.preprocess(torch.stack([batch.image for batch in batches]).float())
            tokens = sam.image_encoder(images)
            layouts = layout_head(tokens)
            outputs = [decode_prompts(sam, one, batch) for one, batch in zip(tokens, batches, strict=True)]
        parts = [
            promptable_loss(logits.float(), estimates.float(), batch, options.outside_weight)
            for (logits, estimates), batch in zip(outputs, batches, strict=True)
        ]
        layout = layout_loss(layouts.float(), torch.stack([batch.layout for batch in batches]))
        loss = torch.stack([part[0] for part in parts]).mean() + options.layout_weight * layout
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        iou = float(torch.cat([part[1] for part in parts]).mean())
        report(
            {
                "step": step + 1,
                "loss": round(loss.item(), 4),
                "layout_loss": round(layout.item(), 4),
                "iou": round(iou, 4),
                "seconds": round(time.perf_counter() - began, 3),
            }
        )
        if (step + 1) % options.checkpoint_every == 0 or step + 1 == options.steps:
            _save_state(state_file, step + 1, network, optimizer, schedule)
    return sam


def save_compact_weights(sam: Sam, path: Path) -> str:
    """Write the model's weights as half-precision safetensors, atomically, and give their SHA-256.

    Args:
        sam: The trained model, unfused.
        path: File to write.
    """
    tensors = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for key, value in sam.state_dict().items()
    }
    atomic_write_bytes(path, save(tensors))
    return digest_file(path)


def _rate(step: int, options: PromptableOptions) -> float:
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    share = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    return 0.5 * (1 + float(np.cos(np.pi * min(1.0, share))))


def _on_device(loader: DataLoader[list[PromptBatch]], device: torch.device) -> Iterator[list[PromptBatch]]:
    for batches in loader:
        yield [batch.to(device) for batch in batches]


def _save_state(path: Path, step: int, network: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    state = {
        "step": step,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
    }
    torch.save(state, partial)
    partial.replace(path)
    path.with_suffix(".json").write_text(json.dumps({"step": step}) + "\n")


def _load_state(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return int(state["step"])
