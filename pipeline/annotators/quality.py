"""How good an annotator is where the truth is known: the frozen held-out synthetic scenes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.annotators.base import Annotator, MarkedImage
from pipeline.annotators.disc import DiscAnnotator
from pipeline.annotators.edp_sam import EdpSamAnnotator, EdpSamOptions
from pipeline.annotators.exclusion import disc_window
from pipeline.datasets.crowd_scene.held_out import HeldOutScene
from pipeline.datasets.crowd_scene.scene import Scene
from pipeline.geometry.nnec import nnec_radii
from pipeline.masks.instances import Instances
from pipeline.models.sam import load_sam


@dataclass(frozen=True)
class Quality:
    """Figures over heads.

    Args:
        n_heads: Number of heads.
        circle_iou: Mean IoU of mask and true visible mask, both inside the circle, [0, 1].
        leak_share: Share of the masks with more than a tenth of their pixels on another person's true mask.
        fallback_share: Share of heads with no mask of their own.
    """

    n_heads: int
    circle_iou: float
    leak_share: float
    fallback_share: float


class CircleAnnotator:
    """The whole exclusion circle as every head's mask, overlaps and all: what a method must beat."""

    name = "circle"
    algorithm_version = 1
    weights_sha256: str | None = None

    def annotate(self, marked: MarkedImage) -> Instances:
        """Give one row per point."""
        return Instances.from_windows(
            marked.size_hw,
            [
                disc_window(x, y, r, marked.size_hw)
                for (x, y), r in zip(marked.points_xy, marked.radius_px, strict=True)
            ],
            point_id=marked.point_id,
            points_xy=marked.points_xy,
            radius_px=marked.radius_px,
            source="disc",
            status="ok",
        )


def weights_and_baselines(weights: str, device: torch.device) -> dict[str, Annotator]:
    """EDP-SAM with some weights, with both kinds of prompt and with one, beside the bare discs; by name.

    Raises:
        PipelineError: If the weights are not there or are not what they should be.
    """
    model = load_sam(weights, device)
    return {
        f"edp_sam, {weights}": EdpSamAnnotator(model, EdpSamOptions()),
        f"edp_sam, {weights}, mirrored": EdpSamAnnotator(model, EdpSamOptions(mirrored=True)),
        f"edp_sam, {weights}, head prompts only": EdpSamAnnotator(model, EdpSamOptions(prompts=("head",))),
        "disc, overlaps shared out": DiscAnnotator(),
        "disc itself": CircleAnnotator(),
    }


def mark_scene(scene: Scene) -> MarkedImage:
    """Give a scene's heads their circles with the default bounds."""
    size_hw = scene.label_map.shape[0], scene.label_map.shape[1]
    count = len(scene.points_xy)
    radius_px = nnec_radii(scene.points_xy, size_hw=size_hw).radius_px
    return MarkedImage("scene", scene.image, scene.points_xy, radius_px, np.arange(count), np.zeros(count, np.int64))


def judge_scene(instances: Instances, marked: MarkedImage, truth: NDArray[np.int32]) -> NDArray[np.float64]:
    """Compare each row with the truth inside its circle.

    Args:
        instances: Row k is head k.
        marked: The heads and circles.
        truth: (H, W) label map, head k is k + 1.

    Returns:
        (N, 3): IoU inside the circle, whether it leaks into another person, whether it is a fallback or empty.
    """
    figures = np.zeros((len(instances), 3))
    for row, ((x, y), radius) in enumerate(zip(marked.points_xy, marked.radius_px, strict=True)):
        disc = disc_window(x, y, radius, marked.size_hw)
        height, width = disc.mask.shape
        labels = truth[disc.y0 : disc.y0 + height, disc.x0 : disc.x0 + width]
        mask = _in_frame(instances, row, disc.y0, disc.x0, (height, width)) & disc.mask
        wanted = (labels == row + 1) & disc.mask
        union = int((mask | wanted).sum())
        figures[row, 0] = (mask & wanted).sum() / union if union else 1.0
        figures[row, 1] = (mask & (labels > 0) & ~wanted).sum() > 0.1 * mask.sum()
        figures[row, 2] = instances.status[row] != "ok"
    return figures


def _in_frame(instances: Instances, row: int, y0: int, x0: int, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """One mask in the frame of a window."""
    window = instances.window(row)
    frame = np.zeros(size_hw, bool)
    height, width = window.mask.shape
    top, left = max(window.y0, y0), max(window.x0, x0)
    bottom, right = min(window.y0 + height, y0 + size_hw[0]), min(window.x0 + width, x0 + size_hw[1])
    if top < bottom and left < right:
        frame[top - y0 : bottom - y0, left - x0 : right - x0] = window.mask[
            top - window.y0 : bottom - window.y0, left - window.x0 : right - window.x0
        ]
    return frame


def held_out_quality(
    scenes: Iterable[tuple[HeldOutScene, Scene]], annotators: Mapping[str, Annotator]
) -> dict[str, dict[str, Quality]]:
    """Judge annotators on scenes.

    Args:
        scenes: Scenes with their description.
        annotators: Name → annotator.

    Returns:
        Name → density, or ``all`` → figures over the heads of all its scenes.
    """
    found: dict[str, dict[str, list[NDArray[np.float64]]]] = {name: {} for name in annotators}
    for plan, scene in scenes:
        marked = mark_scene(scene)
        for name, annotator in annotators.items():
            figures = judge_scene(annotator.annotate(marked), marked, scene.label_map)
            for group in (plan.density, "all"):
                found[name].setdefault(group, []).append(figures)
    return {
        name: {
            group: _mean(np.concatenate(groups[group])) for group in sorted(groups, key=lambda group: group == "all")
        }
        for name, groups in found.items()
    }


def _mean(figures: NDArray[np.float64]) -> Quality:
    iou, leak, fallback = figures.mean(0)
    return Quality(len(figures), float(iou), float(leak), float(fallback))
