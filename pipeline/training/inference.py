"""A trained crowd net at work: loading it, and predicting whole images of any size in tiles."""

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.models.crowd_net import (
    SIZE_MULTIPLE,
    STRIDE,
    CountedPoints,
    CrowdNet,
    CrowdNetOptions,
    CrowdOutput,
    build_crowd_net,
    coordinate_channels,
    count_points,
    image_to_tensor,
)
from pipeline.training.checkpoint import ModelRecord, load_network, read_record

KIND = "crowd_net"
"""Name of this model in checkpoints."""
TILE_PX = 1024
HALO_PX = 192
SMALLEST_TILE_PX = 256
"""Tiles are not halved below this side when memory runs out."""


def load_crowd_net(
    path: Path, *, device: torch.device, expected: CrowdNetOptions | None = None
) -> tuple[CrowdNet, ModelRecord]:
    """Load a checkpoint that warmup or retrain wrote, in evaluation mode; nothing is fetched.

    Args:
        path: The safetensors file, its JSON beside it.
        device: Where the network shall be.
        expected: Options that the network must have been built with; any when None.

    Raises:
        PipelineError: If a file is missing or damaged, or the checkpoint is one of another model.
    """
    record = read_record(path, kind=KIND)
    if expected is not None:
        wanted = asdict(expected)
        differing = {
            name for name in {*wanted, *record.architecture} if record.architecture.get(name) != wanted.get(name)
        }
        if differing - {"pretrained", "prior_prob"}:
            found = ", ".join(
                f"{name}: {record.architecture.get(name)!r} in the checkpoint, {wanted.get(name)!r} in model.{name}"
                for name in sorted(differing)
            )
            raise PipelineError(
                f"{path}: a checkpoint of another model ({found}); set the section `model` of params.yaml to what the "
                "checkpoint has, or train again"
            )
    architecture = {**record.architecture, "pretrained": False}
    return load_network(path, lambda: build_crowd_net(CrowdNetOptions(**architecture)), device=device), record


@dataclass(frozen=True)
class _Tile:
    """One tile along an axis, pixels of the padded image: what is predicted, and what of it is kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


@torch.no_grad()
def predict_image(
    net: nn.Module,
    image: npt.NDArray[np.uint8],
    *,
    device: torch.device,
    tile_px: int = TILE_PX,
    halo_px: int = HALO_PX,
) -> tuple[Tensor, Tensor]:
    """Predict a whole image, in tiles where it is larger than one; memory on the device grows with the tile alone.

    With a halo at least as wide as the network sees (its receptive field), the tiles give what the whole image in one
    piece gives, up to rounding. When the accelerator's memory runs out, the tile is halved, said once.

    Args:
        net: :class:`CrowdNet` in evaluation mode, on ``device``.
        image: (H, W, 3) uint8 RGB, any size.
        device: Where to compute.
        tile_px: Side of a tile, halo included; a multiple of 16.
        halo_px: Context on each side that is predicted and thrown away; a multiple of 16.

    Returns:
        Logits (⌈H/4⌉, ⌈W/4⌉) and embedding (C, ⌈H/4⌉, ⌈W/4⌉), float32 on the CPU; cell (i, j) stands for the image
        point (4j + 1.5, 4i + 1.5).

    Raises:
        ValueError: If tile and halo do not fit together.
    """
    while True:
        try:
            return _predict_in_tiles(net, image, device=device, tile_px=tile_px, halo_px=halo_px)
        except torch.OutOfMemoryError:
            smaller = tile_px // 2 // SIZE_MULTIPLE * SIZE_MULTIPLE
            if smaller <= max(2 * halo_px, SMALLEST_TILE_PX - 1):
                raise
        warnings.warn(f"out of memory on {device}: tiles of {smaller} px instead of {tile_px}", stacklevel=2)
        torch.cuda.empty_cache()
        tile_px = smaller


def _predict_in_tiles(
    net: nn.Module, image: npt.NDArray[np.uint8], *, device: torch.device, tile_px: int, halo_px: int
) -> tuple[Tensor, Tensor]:
    height, width = image.shape[:2]
    cells_hw = -(-height // STRIDE), -(-width // STRIDE)
    padded_h, padded_w = (-(-side // SIZE_MULTIPLE) * SIZE_MULTIPLE for side in (height, width))
    logits: Tensor | None = None
    embedding: Tensor | None = None
    for rows in _tiles(padded_h, tile_px, halo_px):
        for columns in _tiles(padded_w, tile_px, halo_px):
            window = image_to_tensor(image[rows.start : rows.stop, columns.start : columns.stop])
            missing = columns.stop - columns.start - window.shape[2], rows.stop - rows.start - window.shape[1]
            window = F.pad(window, (0, missing[0], 0, missing[1]))
            coords_xy = coordinate_channels(
                (height, width),
                origin_xy=(columns.start, rows.start),
                window_hw=(window.shape[1], window.shape[2]),
            )
            output = cast(CrowdOutput, net(window[None].to(device), coords_xy[None].to(device)))
            if logits is None or embedding is None:
                logits = torch.empty(padded_h // STRIDE, padded_w // STRIDE)
                embedding = torch.empty(output.embedding.shape[1], *logits.shape)
            target = _cells(rows.keep_start, rows.keep_stop), _cells(columns.keep_start, columns.keep_stop)
            source = (
                _cells(rows.keep_start - rows.start, rows.keep_stop - rows.start),
                _cells(columns.keep_start - columns.start, columns.keep_stop - columns.start),
            )
            logits[target] = output.logits[0][source].float().cpu()
            embedding[:, *target] = output.embedding[0][:, *source].float().cpu()
    assert logits is not None
    assert embedding is not None
    return logits[: cells_hw[0], : cells_hw[1]].contiguous(), embedding[:, : cells_hw[0], : cells_hw[1]].contiguous()


def _cells(start_px: int, stop_px: int) -> slice:
    return slice(start_px // STRIDE, stop_px // STRIDE)


def _tiles(side_px: int, tile_px: int, halo_px: int) -> Iterator[_Tile]:
    """Cover a padded side with tiles whose kept parts meet without overlap."""
    if tile_px % SIZE_MULTIPLE or halo_px % SIZE_MULTIPLE or halo_px < 0 or tile_px <= 2 * halo_px:
        raise ValueError(
            f"tile_px and halo_px: expected multiples of {SIZE_MULTIPLE} with tile_px > 2 * halo_px, got {tile_px} and "
            f"{halo_px}"
        )
    if side_px <= tile_px:
        yield _Tile(0, side_px, 0, side_px)
        return
    inner = tile_px - 2 * halo_px
    for keep_start in range(0, side_px, inner):
        keep_stop = min(side_px, keep_start + inner)
        yield _Tile(max(0, keep_start - halo_px), min(side_px, keep_stop + halo_px), keep_start, keep_stop)


def count_heads(logits: Tensor, size_hw: tuple[int, int], threshold: float = 0.0) -> CountedPoints:
    """Read the heads of a whole image off its logits: cells above the threshold whose centre lies in the image.

    Args:
        logits: (⌈H/4⌉, ⌈W/4⌉), as :func:`predict_image` gives.
        size_hw: Size of the image.
        threshold: A cell counts if its logit is greater; 0 is the paper's.
    """
    return count_points(cells_in_image(logits, size_hw), threshold)


def cells_in_image(logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Leave out the last row and column of cells where their centres lie beyond the image's edge.

    Args:
        logits: (⌈H/4⌉, ⌈W/4⌉).
        size_hw: Size of the image; its edges lie half a pixel beyond the centres of its outer pixels.

    Returns:
        A view of the cells with 4 i + 1.5 < H - 0.5 and 4 j + 1.5 < W - 0.5.
    """
    height, width = (max(0, -(-(side - STRIDE // 2) // STRIDE)) for side in size_hw)
    return logits[:height, :width]
