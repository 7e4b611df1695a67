"""A trained SOLOv2 at work: loading it, detecting instances in whole images, and looking masks up at given points."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.compute.files import digest_file
from pipeline.compute.progress import JsonLines, track
from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import Points, Prepared
from pipeline.errors import PipelineError
from pipeline.losses.solo import RangesPx
from pipeline.masks.instances import Instances
from pipeline.masks.schema import Provenance
from pipeline.masks.soft import soft_masks_to_instances
from pipeline.masks.store import MaskStore
from pipeline.models.solo_inference import DetectOptions, detect
from pipeline.models.solov2 import LEVEL_STRIDES, SoloOutput, Solov2, Solov2Options, build_solov2
from pipeline.pseudo_labels.point_guided import (
    ALGORITHM,
    ALGORITHM_VERSION,
    Choose,
    guided_instances,
    point_guided,
    scale_points,
)
from pipeline.training.bounds import require
from pipeline.training.checkpoint import load_network, read_record
from pipeline.training.segment_batches import pad_rgb, padded_hw, resize_rgb, resized_hw

KIND = "solov2"
"""Name of this model in checkpoints."""


@dataclass(frozen=True)
class InputSize:
    """How an image is brought to the network.

    Args:
        short_side_px: Length of its shorter side there.
        long_side_px: Greatest length of its longer side.
    """

    short_side_px: int
    long_side_px: int


@dataclass(frozen=True)
class Segmenter:
    """A trained network with what it needs to look at an image.

    Args:
        net: In evaluation mode, on its device.
        size: How images are brought to it.
        ranges_px: Sizes that its levels were trained on, pixels of its input.
        device: Where it is.
    """

    net: Solov2
    size: InputSize
    ranges_px: RangesPx
    device: torch.device

    @classmethod
    def load(cls, path: Path, *, n_classes: int, device: torch.device) -> "Segmenter":
        """Load a checkpoint that warmup or retrain wrote; nothing is fetched.

        Args:
            path: The safetensors file, its JSON beside it.
            n_classes: Classes of the data set.
            device: Where the network shall be.

        Raises:
            PipelineError: If a file is missing or damaged, or the checkpoint is of another model or other classes.
        """
        record = read_record(path, kind=KIND)
        architecture: Any = record.architecture
        trained = architecture.get("n_classes")
        if trained != n_classes:
            raise PipelineError(
                f"{path}: was trained for {trained} classes, the data set has {n_classes}; train it again, or point "
                "the stage to another checkpoint"
            )

        def build() -> Solov2:
            options = {**architecture["network"], "pretrained": False}
            return build_solov2(Solov2Options(**{**options, "grids": tuple(options["grids"])}), n_classes)

        net = load_network(path, build, device=device)
        views = record.parameters["views"]
        ranges = tuple((float(low), float(high)) for low, high in record.parameters["ranges_px"])
        size = InputSize(views["test_short_side_px"], views["long_side_px"])
        return cls(net, size, ranges, device)

    def to_input(self, pixels: npt.NDArray[np.uint8]) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
        """Bring an (H, W, 3) image to the network: its (1, 3, H', W') input, the image's size in it, the input's."""
        image_hw = (pixels.shape[0], pixels.shape[1])
        size_hw = resized_hw(image_hw, short_side_px=self.size.short_side_px, long_side_px=self.size.long_side_px)
        whole_hw = padded_hw([size_hw])
        rgb = torch.from_numpy(np.ascontiguousarray(resize_rgb(pixels, size_hw))).permute(2, 0, 1).float() / 255.0
        return pad_rgb(rgb, whole_hw)[None].to(self.device), size_hw, whole_hw

    @torch.no_grad()
    def look(self, pixels: npt.NDArray[np.uint8]) -> tuple[SoloOutput, tuple[int, int], tuple[int, int]]:
        """Run the network on an (H, W, 3) image: its output, the image's size in the input, the input's size."""
        images, size_hw, whole_hw = self.to_input(pixels)
        return self.net(images), size_hw, whole_hw

    def detect(self, pixels: npt.NDArray[np.uint8], options: DetectOptions, *, keep_prob: bool = False) -> Instances:
        """Find the instances of an (H, W, 3) image, highest score first; masks without a pixel are none.

        Args:
            pixels: uint8 RGB.
            options: What is kept.
            keep_prob: Give ``prob_q8`` and ``class_probs`` too.
        """
        output, size_hw, _ = self.look(pixels)
        [found] = detect(output, size_hw=[size_hw], options=options)
        n, image_hw = len(found), (pixels.shape[0], pixels.shape[1])
        rows = soft_masks_to_instances(
            [found.masks_prob], size_hw=size_hw, image_hw=image_hw, keep_prob=keep_prob,
            point_id=np.arange(n), points_xy=np.zeros((n, 2)), radius_px=np.full(n, np.nan),
            class_id=found.class_id.cpu().numpy(), score=found.score.cpu().numpy(),
            class_score=found.class_score.cpu().numpy(), mask_quality=found.maskness.cpu().numpy(),
            nms_decay=found.nms_decay.cpu().numpy(),
            class_probs=found.class_probs.cpu().numpy() if keep_prob else None,
            source=["solov2"] * n, status=["ok"] * n,
        )  # fmt: skip
        rows.points_xy[:] = rows.boxes_xywh[:, :2] + (rows.boxes_xywh[:, 2:] - 1) / 2
        return rows[rows.area_px > 0]

    def at_points(
        self,
        pixels: npt.NDArray[np.uint8],
        points: Points,
        options: "PointGuidedOptions",
        *,
        seed: int = 0,
        sizes_px: npt.NDArray[np.float64] | None = None,
        round_number: int = 0,
    ) -> Instances:
        """Look up a mask for every point of an (H, W, 3) image, one row each.

        Args:
            pixels: uint8 RGB.
            points: The image's points with their classes.
            options: How the level is chosen, what becomes of colliding points.
            seed: For ``choose: random``.
            sizes_px: For ``choose: size_oracle``: true √(box area), image pixels.
            round_number: Rounds of self-training before this one.
        """
        output, size_hw, whole_hw = self.look(pixels)
        image_hw = (pixels.shape[0], pixels.shape[1])
        scale = float(np.sqrt(size_hw[0] * size_hw[1] / (image_hw[0] * image_hw[1])))
        found = point_guided(
            output, scale_points(points.points_xy, from_hw=image_hw, to_hw=size_hw), np.array(points.class_id),
            size_hw=size_hw, padded_hw=whole_hw, choose=options.choose, min_area=options.min_area,
            generator=torch.Generator().manual_seed(seed), ranges_px=self.ranges_px,
            sizes_px=None if sizes_px is None else sizes_px * scale,
            duplicate_iou=options.duplicate_iou, published=options.published,
        )  # fmt: skip
        return guided_instances(
            found, size_hw=size_hw, image_hw=image_hw, point_id=points.point_id, points_xy=points.points_xy,
            keep_prob=options.keep_prob, round=round_number,
        )  # fmt: skip


@dataclass(frozen=True)
class PointGuidedOptions:
    """How weak images get their masks (PointWSSIS, section 3).

    Args:
        choose: ``best`` takes the level with the highest class score × maskness; to compare with, ``random`` any level,
            and ``size_oracle`` the best of the levels that the object's true size belongs to.
        min_area: Per level, masks of no more pixels than this (of 4 × 4 px of the input) are ``small``.
        duplicate_iou: Two points' masks with a larger IoU are one object; the less sure row is a ``duplicate``.
        published: Colliding points are lost, as in the public code.
        keep_prob: Keep soft masks and the probabilities of all classes, for judging the masks later.
    """

    choose: Choose = "best"
    min_area: tuple[int, ...] = (0, 0, 0, 0, 0)
    duplicate_iou: float = 0.75
    published: bool = False
    keep_prob: bool = False

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if len(self.min_area) != len(LEVEL_STRIDES) or min(self.min_area) < 0:
            raise ValueError(
                f"min_area: expected {len(LEVEL_STRIDES)} numbers of at least 0, one for each level, got "
                f"{list(self.min_area)}"
            )
        require("duplicate_iou", self.duplicate_iou, "from 0 to 1", 0 <= self.duplicate_iou <= 1)


def write_point_guided(
    prepared: Prepared,
    image_ids: Sequence[str],
    weights: Path,
    *,
    options: PointGuidedOptions,
    n_classes: int,
    seed: int,
    out: Path,
    log: Path,
    device: torch.device,
    round_number: int = 0,
    splits: Collection[str] = ("train",),
) -> dict[str, int]:
    """Write one row for each point of every image: its mask, scores and status.

    Args:
        prepared: The data set; points are read, true masks only for ``choose: size_oracle``.
        image_ids: Weak images, or the held-out strong ones.
        weights: The teacher's checkpoint.
        options: How masks are looked up.
        n_classes: Classes of the data set.
        seed: For ``choose: random``.
        out: The mask store; replaced when all is done.
        log: JSON lines, one for each image.
        device: Where to compute.
        round_number: Rounds of self-training before this one.
        splits: The images' splits; held-out strong images may be a data set's validation images.

    Returns:
        Status → number of points.

    Raises:
        PipelineError: If the checkpoint or an image cannot be read, or an image is in another split.
    """
    prepared.require_split(image_ids, splits, "pseudo-labels")
    segmenter = Segmenter.load(weights, n_classes=n_classes, device=device)
    provenance = Provenance(
        algorithm=ALGORITHM,
        algorithm_version=ALGORITHM_VERSION,
        params={**asdict(options), "seed": seed if options.choose == "random" else 0},
        weights_sha256=digest_file(weights),
    )
    totals: dict[str, int] = {}
    with MaskStore.create(out, provenance) as writer, JsonLines(log) as lines:
        for number, image_id in enumerate(track(sorted(image_ids), description="pseudo_label")):
            rows = segmenter.at_points(
                read_image_rgb(prepared.image(image_id).path), prepared.points(image_id), options,
                seed=seed + number, round_number=round_number,
                sizes_px=_true_sizes(prepared, image_id) if options.choose == "size_oracle" else None,
            )  # fmt: skip
            writer.add(image_id, rows)
            names, counts = np.unique(rows.status, return_counts=True)
            found = dict(zip(names.tolist(), counts.tolist(), strict=True))
            for name, count in found.items():
                totals[name] = totals.get(name, 0) + count
            lines.write(image_id=image_id, points=len(rows), **found)
    return totals


def _true_sizes(prepared: Prepared, image_id: str) -> npt.NDArray[np.float64]:
    """√(box area) of the true masks of an image's points; an oracle, to compare with."""
    if prepared.truth is None:
        raise PipelineError(
            f"{prepared.folder}: has no true masks, which pseudo_label.choose: size_oracle reads; set it to best"
        )
    rows = prepared.truth.instances(image_id)
    rows = rows[np.isin(rows.point_id, prepared.points(image_id).point_id)]
    sizes: npt.NDArray[np.float64] = np.sqrt(rows.boxes_xywh[:, 2:].prod(axis=1).astype(np.float64))
    return sizes
