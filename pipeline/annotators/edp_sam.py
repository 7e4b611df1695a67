"""EDP-SAM: masks from head points with a promptable model, two kinds of prompt and an exclusion circle.

A reconstruction of Exclusion-Constrained Dual-Prompt SAM (arXiv 2603.16241) from its published description; its authors
have released neither code nor masks. The network proposes (:mod:`pipeline.annotators.prompting`), the exclusion rules
choose (:mod:`pipeline.annotators.exclusion`); sections in the comments are those of our specification.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.annotators.base import MarkedImage, Marks
from pipeline.annotators.exclusion import (
    HEAD_TOLERANCE_PX,
    Candidates,
    CircleWindows,
    ExclusionOptions,
    Judged,
    circle_windows,
    disc_window,
    head_component,
    judge,
    keep_apart,
    sample_windows,
)
from pipeline.annotators.prompting import Prompter, PromptOptions
from pipeline.annotators.proposals import Proposals
from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window

if TYPE_CHECKING:  # its import takes seconds, and every stage reads this module's options
    from pipeline.models.sam import PromptableModel

MAX_SAMPLES = 1 << 21
"""Samples that are judged at once, padding included; it bounds the memory."""
SAMPLES_PER_CELL = 3
"""Where a cell of the logits spans more pixels, shares and areas are taken on every second, third, … pixel, about three
a cell: between cells logits are bilinear, and finer samples tell nothing new. Masks are drawn on every pixel."""


@dataclass(frozen=True)
class EdpSamOptions(PromptOptions):
    """How EDP-SAM tiles, prompts and chooses.

    Args:
        prompts: See :class:`PromptOptions`, as for the next six.
        negatives: As there.
        min_radius_model_px: As there.
        max_magnification: As there.
        coarser_steps: As there.
        mirrored: As there.
        superpixel: As there.
        exclusive: False drops the exclusion terms from the ranking, for ablations; masks are clipped all the same.
        exclusion: Weights and bounds of the choice among candidates.
    """

    exclusive: bool = True
    exclusion: ExclusionOptions = field(default_factory=ExclusionOptions)


@dataclass
class _Choice:
    """The best candidate of one head, in its circle's window."""

    rank: float
    source: str
    logits: NDArray[np.float32]
    circle: NDArray[np.bool_]
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
    algorithm_version = 3

    def __init__(self, model: "PromptableModel", options: EdpSamOptions) -> None:
        self.model = model
        self.options = options
        self._prompter = Prompter(model, options)

    @property
    def weights_sha256(self) -> str:
        """Digest of the model's weights."""
        return self.model.weights_sha256

    def annotate(self, marked: MarkedImage) -> Instances:
        """Give one row per point: its best mask clipped to its circle, or a small disc where none was left (§4)."""
        if len(marked.points_xy) == 0:
            return Instances.empty(marked.size_hw)
        return choose(marked, self.propose([marked])[0], self.options)

    def propose(self, images: Sequence[MarkedImage]) -> list[Proposals]:
        """Do the network's part for images with at least one head each."""
        return self._prompter.propose(images)


def choose(marks: Marks, proposals: Proposals, options: EdpSamOptions) -> Instances:
    """Do the part without a network: rank, clip, mend, keep apart (§4).

    Args:
        marks: The image's heads and circles; its pixels are not needed.
        proposals: The network's candidates, of the same prompts.
        options: Ranking; the rest has done its work in the proposals.

    Returns:
        One row per head.
    """
    choices: list[_Choice | None] = [None] * len(marks.points_xy)
    steps = np.maximum(1, np.rint(proposals.cell_px() / SAMPLES_PER_CELL).astype(np.int64))
    for step in np.unique(steps):
        for rows in _even_groups(np.flatnonzero(steps == step), marks.radius_px / step, proposals.estimates.shape[1]):
            candidates = proposals.candidates(rows)
            points_xy, radius_px = torch.from_numpy(marks.points_xy[rows]), torch.from_numpy(marks.radius_px[rows])
            coarse = circle_windows(points_xy, radius_px, marks.size_hw, step=int(step))
            near = circle_windows(points_xy, torch.full_like(radius_px, HEAD_TOLERANCE_PX), marks.size_hw)
            judged = judge(candidates, coarse, near, options.exclusion, exclusive=options.exclusive)
            for part in _even_groups(np.arange(len(rows)), marks.radius_px[rows], 1):
                windows = circle_windows(points_xy[part], radius_px[part], marks.size_hw)
                drawn = sample_windows(candidates.of(part), windows, judged.best[part])[:, 0]
                _keep(choices, rows[part], judged.of(part), candidates.of(part), windows, drawn, options.prompts)
    return _assemble(marks, choices, options.exclusion)


def _even_groups(
    rows: NDArray[np.int64], radius: NDArray[np.float64], n_candidates: int
) -> Iterator[NDArray[np.int64]]:
    """Heads in groups of like radius, so that padding to one size wastes little, none too large for the memory."""
    order = rows[np.argsort(radius[rows], kind="stable")]
    volumes = n_candidates * (2 * radius[order] + 3) ** 2
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * volumes[stop] <= MAX_SAMPLES:
            stop += 1
        yield np.sort(order[start:stop])
        start = stop


def _keep(
    choices: list[_Choice | None],
    rows: NDArray[np.int64],
    judged: Judged,
    candidates: Candidates,
    windows: CircleWindows,
    drawn: torch.Tensor,
    prompts: Sequence[str],
) -> None:
    pred_iou = candidates.estimates.gather(1, judged.best[:, None])[:, 0]
    figures = torch.stack([judged.rank, pred_iou, judged.stability, judged.leak_frac, judged.area_px]).numpy()
    shapes = torch.stack([windows.x0, windows.y0, windows.heights, windows.widths]).numpy()
    logits, inside, best = drawn.numpy(), windows.inside.numpy(), judged.best.numpy()
    masks_per_prompt = candidates.estimates.shape[1] // len(prompts)
    for k, row in enumerate(rows.tolist()):
        if not np.isfinite(figures[0, k]):
            continue
        x0, y0, height, width = (int(value) for value in shapes[:, k])
        own = logits[k, :height, :width].copy()
        circle = inside[k, :height, :width].copy()
        window = Window((own > 0) & circle, x0, y0)
        rank, *others = (float(value) for value in figures[:, k])
        choices[row] = _Choice(rank, prompts[int(best[k]) // masks_per_prompt], own, circle, window, *others)


def _assemble(marks: Marks, choices: Sequence[_Choice | None], options: ExclusionOptions) -> Instances:
    """Clip, mend, keep apart, and write one row per point (§4)."""
    windows, strength = [], []
    for (x, y), radius, choice in zip(marks.points_xy, marks.radius_px, choices, strict=True):
        if choice is None:
            disc = disc_window(x, y, options.fallback_radius_frac * radius, marks.size_hw)
            windows.append(disc)
            strength.append(np.zeros(disc.mask.shape, np.float32))
            continue
        x0, y0 = choice.window.x0, choice.window.y0
        mask = head_component(choice.window.mask, x - x0, y - y0, fill_holes=True) & choice.circle
        windows.append(Window(mask, x0, y0))
        strength.append(np.where(mask, np.maximum(choice.logits, 0), choice.logits))
    windows = keep_apart(windows, strength, marks.points_xy, marks.radius_px, marks.size_hw)
    area = np.array([window.mask.sum() for window in windows], np.float64)
    found = np.array([choice is not None for choice in choices], bool)
    column = {
        name: np.array([np.nan if c is None else getattr(c, name) for c in choices], np.float64)
        for name in ("rank", "pred_iou", "stability", "leak_frac", "area_px")
    }
    return Instances.from_windows(
        marks.size_hw,
        windows,
        point_id=marks.point_id,
        class_id=marks.class_id,
        points_xy=marks.points_xy,
        radius_px=marks.radius_px,
        score=np.where(area == 0, 0.0, np.where(found, column["rank"], options.fallback_score)),
        pred_iou=column["pred_iou"],
        stability=column["stability"],
        leak_frac=column["leak_frac"],
        clipped_frac=np.clip(1 - area / np.maximum(column["area_px"], 1), 0, 1),
        source=["fallback" if c is None else c.source for c in choices],
        status=list(np.where(area == 0, "empty", np.where(found, "ok", "fallback"))),
    )
