"""P2Seg's two heavy parts against plain forms: the affinity at its published size, and pixels to points."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.measure import Row
from benchmarks.one_core import core_seconds, on_one_core
from pipeline.geometry.point_owners import assign_pixels
from pipeline.losses.affinity import SharedMasks, affinity_losses, propagate

CELLS, CHANNELS, CLASSES = 52, 256, 21
"""A crop of 416 × 416 px at stride 8, as published; VOC's classes and background."""
MASKS = 12
SIDE, POINTS = 512, 500
BETA = 4.0
MEMORY_MIB = 64


def affinity_work(cells: int) -> tuple[Tensor, Tensor, list[SharedMasks]]:
    """Draw an embedding, probabilities and two targets: masks of a few neighbouring rows of cells."""
    generator = torch.Generator().manual_seed(0)
    n = cells * cells
    embedding = torch.nn.functional.normalize(torch.randn(CHANNELS, n, generator=generator), dim=0) * 2
    probs = torch.softmax(torch.randn(n, CLASSES, generator=generator), 1)
    starts = torch.randint(0, n, (2, MASKS), generator=generator)
    place = torch.arange(n)
    masks = (place >= starts[..., None]) & (place < starts[..., None] + n // 8)
    return embedding, probs, [SharedMasks(one, torch.ones(n, dtype=torch.bool)) for one in masks]


def in_rows(embedding: Tensor, probs: Tensor, targets: list[SharedMasks]) -> Tensor:
    """Both losses and the propagation, in rows."""
    return affinity_losses(embedding, targets).sum() + propagate(embedding, probs, BETA).square().sum()


def in_one(embedding: Tensor, probs: Tensor, targets: list[SharedMasks]) -> Tensor:
    """The same, as the formulas have it: whole matrices, all kept for the backward pass."""
    affinity = torch.sigmoid(embedding.T @ embedding)
    total = embedding.new_zeros(())
    for masks, known in targets:
        same = (masks.float().T @ masks.float()) > 0
        inside = masks.any(0)
        counted = known[:, None] & known & (inside[:, None] | inside)
        total = total + 0.5 * (1 - affinity)[counted & same].mean() + 0.5 * affinity[counted & ~same].mean()
    powered = affinity**BETA
    return total + ((powered / powered.sum(1, keepdim=True)) @ probs).square().sum()


def step(form: Callable[[Tensor, Tensor, list[SharedMasks]], Tensor], cells: int) -> Callable[[], None]:
    """Forward and backward."""
    embedding, probs, targets = affinity_work(cells)

    def run() -> None:
        form(embedding.clone().requires_grad_(), probs.clone().requires_grad_(), targets).backward()  # type: ignore[no-untyped-call]

    return run


def peak_mib(run: Callable[[], None]) -> float:
    """Most memory that PyTorch holds at a time for a call, MiB: what it asked for, less what it gave back."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 2**20


def loop_owners(offsets: Tensor, classes: Tensor, points_yx: Tensor, point_class: Tensor) -> Tensor:
    """Pixels to points, point by point: a map of the distances to each, kept where it is less."""
    height, width = classes.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([y, x]) + offsets
    nearest = torch.full(classes.shape, torch.inf)
    owners = torch.zeros_like(classes)
    for k, (point, class_id) in enumerate(zip(points_yx, point_class.tolist(), strict=True), start=1):
        apart = (places - point[:, None, None]).square().sum(0)
        wins = (classes == class_id + 1) & (apart < nearest)
        nearest[wins], owners[wins] = apart[wins], k
    return owners


def owner_work(side: int, points: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw offsets, a class map of two classes and background, and points."""
    generator = torch.Generator().manual_seed(0)
    offsets = torch.randn(2, side, side, generator=generator) * 8
    classes = torch.randint(0, 3, (side // 16, side // 16), generator=generator).repeat_interleave(16, 0)
    classes = classes.repeat_interleave(16, 1)
    points_yx = torch.rand(points, 2, generator=generator) * side
    return offsets, classes, points_yx, torch.randint(0, 2, (points,), generator=generator)


def measure(*, scale: float = 1.0) -> list[Row]:
    """Measure both; ``scale`` below 1 takes a part of the cells and of the points."""
    return on_one_core(one_core_rows, scale)


def one_core_rows(scale: float) -> list[Row]:
    """Measure in this process."""
    cells, points = max(4, round(CELLS * scale**0.5)), max(2, round(POINTS * scale))
    ours, theirs = step(in_rows, cells), step(in_one, cells)
    ours(), theirs()
    own_mib, their_mib = peak_mib(ours), peak_mib(theirs)
    own_s, their_s = core_seconds(ours, theirs, rounds=2)
    work = f"{cells * cells:,} cells, {CHANNELS} channels, forward + backward, one core"
    given = owner_work(SIDE, points)
    loop_s, all_s = core_seconds(lambda: loop_owners(*given), lambda: assign_pixels(*given), rounds=2)
    reach = f"≤ {MEMORY_MIB} MiB"
    return [
        Row("affinity: memory", work, own_mib, "whole matrices", their_mib, reach, own_mib <= MEMORY_MIB, unit="MiB"),
        Row("affinity: time", work, own_s, "whole matrices", their_s, "tells", None),
        Row("pixels to points", f"{points} points on {SIDE} × {SIDE}, one core", all_s, "loop over points", loop_s,
            "less than the loop", all_s < loop_s),
    ]  # fmt: skip
