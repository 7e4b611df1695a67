"""The refiner at work: one mask, one image, a whole mask store."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from pipeline.compute.files import digest_file
from pipeline.compute.progress import JsonLines, track
from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import Prepared
from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window, encode_window
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from pipeline.models.refine_net import RefineNet, RefineNetOptions, build_refine_net
from pipeline.training.checkpoint import ModelRecord, load_network, read_record
from pipeline.training.refine_crops import Pixels, RefineInputs, grown_box, whole_crop
from pipeline.training.refine_options import RefineCropOptions, RefinerOptions
from pipeline.training.refine_pairs import Rough, is_refinable, require_known_classes, rough_mask

KIND = "refine_net"
"""Name of this model in checkpoints."""
ALGORITHM = "mask_refine_net"
ALGORITHM_VERSION = 1
"""Raised by hand when the same weights and masks give other masks."""
SOURCE = "refined"
"""Source of the rows that were refined; the others keep theirs."""


def load_refine_net(
    path: Path, *, device: torch.device, expected: RefinerOptions | None = None
) -> tuple[RefineNet, ModelRecord]:
    """Load a checkpoint that the refiner's training wrote, in evaluation mode; nothing is fetched.

    Args:
        path: The safetensors file, its JSON beside it.
        device: Where the network shall be.
        expected: Options whose network and crops the checkpoint must have been trained with; any when None.

    Raises:
        PipelineError: If a file is missing or damaged, or the checkpoint is one of another model or other crops.
    """
    record = read_record(path, kind=KIND)
    if expected is not None:
        built, learnt = record.architecture.get("network", {}), record.parameters.get("crops", {})
        _require_same(path, "network", built, asdict(expected.network), free=("pretrained",))
        _require_same(path, "crops", learnt, asdict(expected.crops), free=("batch", "context"))

    def build() -> RefineNet:
        found = record.architecture["network"]
        network: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in found.items()
        }
        options = RefineNetOptions(**{**network, "pretrained": False})
        return build_refine_net(options, int(record.architecture["n_classes"]))

    return load_network(path, build, device=device), record


def _require_same(path: Path, section: str, found: object, wanted: object, *, free: tuple[str, ...]) -> None:
    """Refuse a checkpoint that was trained with other options."""
    had, want = (json.loads(json.dumps(each)) for each in (found, wanted))
    differing = sorted(name for name in {*had, *want} - set(free) if had.get(name) != want.get(name))
    if differing:
        told = ", ".join(f"{name}: {had.get(name)!r} instead of {want.get(name)!r}" for name in differing)
        raise PipelineError(
            f"{path}: a refiner of other {section} ({told}); set them in the refiner's options in params.yaml to what "
            "the checkpoint has, or train again"
        )


def refine_store(
    prepared: Prepared,
    rough: MaskStore,
    weights: Path,
    *,
    options: RefinerOptions,
    out: Path,
    log: Path,
    device: torch.device,
) -> int:
    """Refine the masks of a store into another, row by row; no truth is read.

    Rows that are not ``ok``, rows without pixels, and rows that the network leaves nothing of stay as they are.

    Args:
        prepared: The data set; no points are read.
        rough: Masks, each with its point and class.
        weights: The refiner's checkpoint.
        options: Crops and network; those that the checkpoint was trained with.
        out: The mask store; replaced when all is done.
        log: JSON lines, one for each image.
        device: Where to compute.

    Returns:
        Number of refined rows.

    Raises:
        PipelineError: If the checkpoint or an image cannot be read or does not fit, or a class is unknown.
    """
    net, _ = load_refine_net(weights, device=device, expected=options)
    provenance = Provenance(
        algorithm=ALGORITHM,
        algorithm_version=ALGORITHM_VERSION,
        params={"crops": asdict(options.crops), "rough": asdict(rough.provenance)},
        weights_sha256=digest_file(weights),
    )
    n_refined = 0
    with MaskStore.create(out, provenance) as writer, JsonLines(log) as lines:
        for image_id in track(rough.image_ids, description="refine"):
            rows = rough.instances(image_id)
            require_known_classes(rows, net.n_classes, rough, image_id)
            refined = rows
            if is_refinable(rows).any():
                pixels = read_image_rgb(prepared.image(image_id).path)
                refined = refine_instances(net, pixels, rows, options=options.crops, device=device)
            writer.add(image_id, refined)
            changed = int((refined.source == SOURCE).sum())
            n_refined += changed
            lines.write(image_id=image_id, rows=len(rows), refined=changed)
    return n_refined


def refine_instances(
    net: RefineNet, pixels: Pixels, rows: Instances, *, options: RefineCropOptions, device: torch.device
) -> Instances:
    """Refine the rows of one image that can be; see :func:`refine_store`.

    Args:
        net: In evaluation mode, on ``device``.
        pixels: (H, W, 3) uint8, the whole image.
        rows: Rough masks.
        options: Crops.
        device: Where to compute.
    """
    chosen = np.flatnonzero(is_refinable(rows)).tolist()
    windows = refine_masks(net, pixels, [rough_mask(rows, row) for row in chosen], options=options, device=device)
    rle, boxes_xywh, area_px = list(rows.rle), rows.boxes_xywh.copy(), rows.area_px.copy()
    source = rows.source.astype(object)
    for row, window in zip(chosen, windows, strict=True):
        if window is not None:
            rle[row], boxes_xywh[row], area_px[row] = encode_window(window.mask, window.x0, window.y0, rows.size_hw)
            source[row] = SOURCE
    return replace(rows, rle=rle, boxes_xywh=boxes_xywh, area_px=area_px, source=source.astype(np.str_))


@torch.no_grad()
def refine_masks(
    net: torch.nn.Module, pixels: Pixels, masks: Sequence[Rough], *, options: RefineCropOptions, device: torch.device
) -> list[Window | None]:
    """Refine masks of one image; None where nothing is left of one.

    The probability of the mask is brought back to the window that the crop was cut from, and thresholded there at that
    of the background. When the accelerator's memory runs out, the batch is halved, said once.

    Args:
        net: :class:`RefineNet` in evaluation mode, on ``device``.
        pixels: (H, W, 3) uint8, the whole image.
        masks: Masks with pixels, each with its point.
        options: Crops.
        device: Where to compute.
    """
    windows: list[Window | None] = []
    batch = options.batch
    while len(windows) < len(masks):
        part = masks[len(windows) : len(windows) + batch]
        try:
            windows += _refine_batch(net, pixels, part, options, device)
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
            if batch == options.batch:
                warnings.warn(f"the accelerator's memory is too small for {batch} crops; taking fewer", stacklevel=2)
            batch = max(1, batch // 2)
            torch.cuda.empty_cache()
    return windows


def _refine_batch(
    net: torch.nn.Module, pixels: Pixels, masks: Sequence[Rough], options: RefineCropOptions, device: torch.device
) -> list[Window | None]:
    boxes = [grown_box(mask, options.context) for mask in masks]
    crops = [whole_crop(pixels, mask, box, options) for mask, box in zip(masks, boxes, strict=True)]
    inputs = RefineInputs.stack(crops).to(device)
    logits = net(inputs.images, inputs.heat, inputs.class_id, inputs.rough)
    probs = logits.float().softmax(dim=1)[:, 1].cpu().numpy()
    windows: list[Window | None] = []
    for prob, box in zip(probs, boxes, strict=True):
        shrinks = box.width < options.size_px or box.height < options.size_px
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        mask = np.asarray(cv2.resize(prob, (box.width, box.height), interpolation=how)) > 0.5
        windows.append(Window(mask, box.x0, box.y0) if mask.any() else None)
    return windows
