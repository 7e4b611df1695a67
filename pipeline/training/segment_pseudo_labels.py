"""What the stage ``pseudo_label`` of the segmenter writes: the teacher's rows, and what a second opinion says of them.

Nothing is filtered: judging (:mod:`~pipeline.pseudo_labels.judging`) comes after, without a network.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline.compute.files import digest_file
from pipeline.compute.progress import JsonLines, track
from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import Prepared
from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from pipeline.models.network_input import normalize_image
from pipeline.models.solo_inference import DetectOptions
from pipeline.models.solov2 import MASK_STRIDE
from pipeline.pseudo_labels.category import (
    PrototypeOpinion,
    Prototypes,
    SecondOpinion,
    masked_mean_features,
)
from pipeline.pseudo_labels.second_opinion import NOBODY, write_second_opinions
from pipeline.pseudo_labels.soft_view import View, read_coverage
from pipeline.training.segment_inference import PointGuidedOptions, Segmenter
from pipeline.training.segmenter_options import all_detections

DETECTIONS = "solov2_detections"
DETECTIONS_VERSION = 1
"""Raised by hand when the same weights and images give other rows."""

SHRINKAGE = 0.1

Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SegmentPseudoLabelOptions(PointGuidedOptions):
    """How weak images get their masks; the fields of :class:`PointGuidedOptions` are read with ``method: points``.

    Args:
        method: ``points`` gives a row for each point (PointWSSIS); ``detections`` reads no point: every instance that
            the teacher might see, with soft masks and the probabilities of all classes (PL-DC).
        detect: What a detection is; its thresholds are a floor, ``judge`` has those that count.
        opinion: Who else says what a row is: ``none``, ``prototypes`` (means of the teacher's features over the strong
            images' masks), or ``clip``.
        opinion_stride: ``prototypes``: image pixels per cell of the features, 4, 8, 16 or 32.
        opinion_temperature: ``prototypes``: cosines are divided by this before the softmax; smaller is surer.
        clip_folder: ``clip``: folder of local weights, as open_clip keeps them.
    """

    method: Literal["points", "detections"] = "points"
    detect: DetectOptions = field(default_factory=all_detections)
    opinion: Literal["none", "prototypes", "clip"] = "none"
    opinion_stride: int = 4
    opinion_temperature: float = 0.2
    clip_folder: Path | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range, and those that do not fit together."""
        super().__post_init__()
        if self.opinion_stride not in (4, 8, 16, 32):
            raise ValueError(f"opinion_stride: expected 4, 8, 16 or 32, got {self.opinion_stride}")
        if not self.opinion_temperature > 0:
            raise ValueError(f"opinion_temperature: expected a number above 0, got {self.opinion_temperature}")
        if self.opinion == "clip" and self.clip_folder is None:
            raise ValueError("clip_folder: expected the folder of CLIP's weights, as opinion is clip")


def has_row_for_each_point(provenance: Provenance) -> bool:
    """Tell whether a store's rows are those of points, however refined or judged, or a teacher's own detections."""
    made_from = provenance.params.get("of")
    if made_from is not None:
        return has_row_for_each_point(Provenance(**made_from))
    return provenance.algorithm != DETECTIONS


def write_detections(
    prepared: Prepared,
    image_ids: Sequence[str],
    weights: Path,
    *,
    options: DetectOptions,
    n_classes: int,
    out: Path,
    log: Path,
    device: torch.device,
    splits: Collection[str] = ("train",),
) -> int:
    """Write every instance that the teacher might see, with soft masks and the probabilities of all classes.

    Args:
        prepared: The data set; no points are read.
        image_ids: Weak images, or the held-out strong ones.
        weights: The teacher's checkpoint.
        options: The floor.
        n_classes: Classes of the data set.
        out: The mask store; replaced when all is done.
        log: JSON lines, one for each image.
        device: Where to compute.
        splits: The images' splits; held-out strong images may be a data set's validation images.

    Returns:
        Number of rows.

    Raises:
        PipelineError: If the checkpoint or an image cannot be read, or an image is in another split.
    """
    prepared.require_split(image_ids, splits, "pseudo-labels")
    segmenter = Segmenter.load(weights, n_classes=n_classes, device=device)
    provenance = Provenance(DETECTIONS, DETECTIONS_VERSION, {"detect": asdict(options)}, digest_file(weights))
    total = 0
    with MaskStore.create(out, provenance) as writer, JsonLines(log) as lines:
        for image_id in track(sorted(image_ids), description="pseudo_label"):
            rows = segmenter.detect(read_image_rgb(prepared.image(image_id).path), options, keep_prob=True)
            writer.add(image_id, rows)
            total += len(rows)
            lines.write(image_id=image_id, rows=len(rows))
    return total


@dataclass(frozen=True)
class PooledFeatures:
    """The mean features of instances, from a teacher's backbone.

    Args:
        segmenter: The teacher.
        stride: Image pixels per cell of the features, 4, 8, 16 or 32.
        mean: (D,) taken off; features that are all positive differ little in direction.
        whitening: (D, D) that the rest is multiplied with, see :func:`whitening_of`; None for none.
    """

    segmenter: Segmenter
    stride: int
    mean: Floats64 | float = 0.0
    whitening: Floats64 | None = None

    @torch.no_grad()
    def __call__(self, pixels: npt.NDArray[np.uint8], rows: Instances) -> Floats64:
        """Give (N, D) features of the N rows of an (H, W, 3) image."""
        rgb, size_hw, whole_hw = self.segmenter.to_input(pixels)
        level = (4, 8, 16, 32).index(self.stride)
        features = self.segmenter.net.encoder(normalize_image(rgb))[level][0]
        view = View.whole((pixels.shape[0], pixels.shape[1]), size_hw, whole_hw)
        masks = np.zeros((len(rows), *view.cells_hw(MASK_STRIDE)), dtype=np.float32)
        for window, onto in zip(read_coverage(rows, view), masks, strict=True):
            window.paste(onto)
        pooled = masked_mean_features(features, torch.from_numpy(masks).to(features.device))
        centered: Floats64 = pooled.cpu().numpy().astype(np.float64) - self.mean
        return centered if self.whitening is None else centered @ self.whitening


def whitening_of(features: Floats64, class_id: npt.NDArray[np.int64], *, n_classes: int) -> Floats64:
    """Give the matrix that makes features vary alike in all directions within their classes.

    What varies among instances of one class says nothing of the class. The covariance is shrunk a tenth towards a
    multiple of the identity, so that few instances do: W = ((1 − a)·S + a·tr(S)/D·I)^(−½).

    Args:
        features: (N, D).
        class_id: (N,), 0 to C − 1.
        n_classes: C.

    Returns:
        (D, D) symmetric.
    """
    member = (class_id[:, None] == np.arange(n_classes)).astype(np.float64)
    means = member.T @ features / np.maximum(member.sum(axis=0), 1.0)[:, None]
    rest = features - means[class_id]
    covariance = rest.T @ rest / max(len(features) - n_classes, 1)
    width = features.shape[1]
    level = max(float(np.trace(covariance)) / width, 1e-12)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * level * np.eye(width)
    variance, axes = np.linalg.eigh(shrunk)
    whitening: Floats64 = (axes / np.sqrt(variance)) @ axes.T
    return whitening


def prototype_opinion(
    prepared: Prepared,
    masks: MaskStore,
    strong_ids: Sequence[str],
    segmenter: Segmenter,
    *,
    name: str,
    options: SegmentPseudoLabelOptions,
) -> PrototypeOpinion:
    """Make a prototype of each class of the strong images' instances.

    Args:
        prepared: The data set.
        masks: True masks, or an annotator's; only those of the strong images are read.
        strong_ids: Strong images.
        segmenter: The teacher.
        name: Of its backbone; the digest of its weights tells them apart.
        options: Stride and temperature.

    Raises:
        PipelineError: If a class has no labelled instance.
    """
    pooled = PooledFeatures(segmenter, options.opinion_stride)
    found, classes = [], []
    for image_id in track(sorted(strong_ids), description="pseudo_label, prototypes"):
        rows = masks.instances(image_id)
        rows = rows[(rows.status == "ok") & (rows.area_px > 0)]
        found.append(pooled(read_image_rgb(prepared.image(image_id).path), rows))
        classes.append(rows.class_id)
    features, class_id = np.concatenate(found), np.concatenate(classes)
    names = prepared.class_names
    mean = features.mean(axis=0) if len(features) else np.zeros(features.shape[1])
    whitening = whitening_of(features, class_id, n_classes=len(names))
    prototypes = Prototypes.of(
        (features - mean) @ whitening, class_id, backbone=name, class_names=names,
        temperature=options.opinion_temperature,
    )  # fmt: skip
    return PrototypeOpinion(prototypes, PooledFeatures(segmenter, options.opinion_stride, mean, whitening), name)


def write_opinions(
    prepared: Prepared,
    masks: MaskStore,
    strong_ids: Sequence[str],
    store: MaskStore,
    weights: Path,
    *,
    options: SegmentPseudoLabelOptions,
    out: Path,
    device: torch.device,
) -> int:
    """Ask a second opinion on every row of a store, and write what it says.

    Args:
        prepared: The data set.
        masks: As for :func:`prototype_opinion`.
        strong_ids: As there.
        store: The pseudo-labels.
        weights: The teacher's checkpoint.
        options: Who is asked; of ``none`` the file says that it was nobody.
        out: The file; replaced when all is done.
        device: Where to compute.

    Returns:
        Number of rows.

    Raises:
        PipelineError: If a class has no labelled instance, or weights cannot be had.
    """
    names = prepared.class_names
    if options.opinion == "none":
        return write_second_opinions(out, iter(()), name=NOBODY, n_classes=len(names))
    opinion: SecondOpinion
    if options.opinion == "clip":
        from pipeline.pseudo_labels.clip_opinion import ClipOpinion  # late: it is an extra

        assert options.clip_folder is not None
        opinion = ClipOpinion.load(options.clip_folder, names, device=device)
    else:
        segmenter = Segmenter.load(weights, n_classes=len(names), device=device)
        digest = digest_file(weights)[:12]
        opinion = prototype_opinion(prepared, masks, strong_ids, segmenter, name=f"teacher {digest}", options=options)

    def found() -> Iterator[tuple[str, npt.NDArray[np.int64], Floats64]]:
        for image_id in track(sorted(store.image_ids), description=f"pseudo_label, {opinion.name}"):
            rows = store.instances(image_id)
            probs = opinion.probabilities(read_image_rgb(prepared.image(image_id).path), rows)
            if np.isnan(probs).any():
                raise PipelineError(
                    f"{opinion.name}: gave NaN for rows of {image_id}; check its weights and features, or set "
                    "pseudo_label.opinion: none"
                )
            yield image_id, rows.point_id, probs

    return write_second_opinions(out, found(), name=opinion.name, n_classes=len(names))
