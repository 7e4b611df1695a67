"""Training of the compact promptable model on endless synthetic crowds (specification EDP-SAM §6).

Each step takes a few scenes, prompts some people of each with a point in the head, a box, or both, and compares the
decoder's three candidates with the person's true visible mask, above all inside the exclusion circle.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pipeline.compute.files import atomic_write_bytes, digest_file, digest_json
from pipeline.compute.progress import track
from pipeline.models.compact_sam import build_compact_sam
from pipeline.training.muon import KernelMuon, split_kernels
from pipeline.training.prompt_scenes import CrowdPrompts, PromptableOptions, PromptBatch


def promptable_loss(
    logits: Tensor, iou_estimates: Tensor, batch: PromptBatch, outside_weight: float
) -> tuple[Tensor, Tensor]:
    """Loss of one image's prompts: 5·BCE + dice inside the circle, and the MSE of the IoU estimate.

    The best candidate counts half, the mean of all three the other half: unlike Segment Anything's training there is
    one right answer, so candidates that differ much are of no use to the choice among them.

    Args:
        logits: (P, 3, 64, 64) mask logits.
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
    loss = 0.5 * (each.min(1).values.mean() + each.mean()) + F.mse_loss(iou_estimates, iou)
    return loss, iou.max(1).values


def layout_loss(seen: Tensor, layout: Tensor) -> Tensor:
    """Loss of what the encoder sees in each cell: BCE of person, head and border, smooth L1 of the offset to the head.

    Every pixel so teaches the encoder, not only those near a prompt. Offsets count near the heads alone: farther off
    they are guesses, no circle reaches there, and they outweighed all else.

    Args:
        seen: (B, 5, 64, 64) the last maps of the encoder: logits of person, head and border, xy offsets.
        layout: (B, 6, 64, 64), see :class:`PromptBatch`.
    """
    near = layout[:, 3:4]
    offset = F.smooth_l1_loss(seen[:, 3:], layout[:, 4:], reduction="none", beta=0.25) * near
    return 3 * F.binary_cross_entropy_with_logits(seen[:, :3], layout[:, :3]) + offset.sum() / near.sum().clamp(min=1)


def decode_prompts(sam: Sam, embedding: Tensor, batch: PromptBatch) -> tuple[Tensor, Tensor]:
    """Decode one image's prompts into three candidates: logits (P, 3, 64, 64) and IoU estimates (P, 3)."""
    points = None
    if batch.kind != "box":
        absent = batch.negatives_xy.isnan().any(2)
        labels = torch.cat(
            [batch.points_xy.new_ones(len(absent), 1), -absent.float()], 1
        )  # 1 positive, 0 negative, -1 no point
        points = torch.cat([batch.points_xy[:, None], batch.negatives_xy.nan_to_num()], 1), labels
    boxes = batch.boxes_xyxy if batch.kind != "point" else None
    with torch.autocast(embedding.device.type, enabled=False):  # bfloat16 knows a position only to a pixel
        sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
        image_pe = sam.prompt_encoder.get_dense_pe()
    logits, estimates = sam.mask_decoder(
        image_embeddings=embedding[None],
        image_pe=image_pe,
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

    With one thread (``OMP_NUM_THREADS=1``) a resumed run ends with the weights of an unbroken one. With more, sums
    differ in their last bits, and Muon's bfloat16 magnifies that.

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
    kernels, others = split_kernels(sam)
    optimizers: list[torch.optim.Optimizer] = [
        KernelMuon(kernels, lr=options.kernel_learning_rate, weight_decay=options.weight_decay),
        torch.optim.AdamW(others, lr=options.learning_rate, weight_decay=options.weight_decay),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, lambda step: _rate(step, options)) for one in optimizers]
    state_file = resume / f"compact_{digest_json(asdict(options))[:12]}.pt"
    start = _load_state(state_file, sam, optimizers, schedules)
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
            embeddings = sam.image_encoder(images)
            outputs = [decode_prompts(sam, one, batch) for one, batch in zip(embeddings, batches, strict=True)]
        parts = [
            promptable_loss(logits.float(), estimates.float(), batch, options.outside_weight)
            for (logits, estimates), batch in zip(outputs, batches, strict=True)
        ]
        layout = layout_loss(embeddings[:, -5:].float(), torch.stack([batch.layout for batch in batches]))
        loss = torch.stack([part[0] for part in parts]).mean() + options.layout_weight * layout
        sam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(sam.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
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
            _save_state(state_file, step + 1, sam, optimizers, schedules)
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


def _save_state(path: Path, step: int, network: nn.Module, optimizers: Sequence[Any], schedules: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    state = {
        "step": step,
        "network": network.state_dict(),
        "optimizers": [one.state_dict() for one in optimizers],
        "schedules": [one.state_dict() for one in schedules],
    }
    torch.save(state, partial)
    partial.replace(path)
    path.with_suffix(".json").write_text(json.dumps({"step": step}) + "\n")


def _load_state(path: Path, network: nn.Module, optimizers: Sequence[Any], schedules: Sequence[Any]) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    network.load_state_dict(state["network"])
    for key, parts in (("optimizers", optimizers), ("schedules", schedules)):
        for one, saved in zip(parts, state[key], strict=True):
            one.load_state_dict(saved)
    return int(state["step"])
