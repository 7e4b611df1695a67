"""Evaluation of SOLOv2 on the test images: COCO's AP, teacher beside student, and what the pseudo-labels were worth.

Test points are read only where ``prompt: points`` asks for it; the figures' names then say so. The score above which
detections count, for the MAE of the count and the matched IoU, is chosen on the held-out labelled images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pipeline.compute.files import digest_file, fresh_folder, write_json
from pipeline.compute.progress import track
from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import Prepared
from pipeline.errors import PipelineError
from pipeline.evaluation.average_precision import average_precision
from pipeline.evaluation.counted_detections import choose_score_threshold, counted_figures
from pipeline.evaluation.given_points import mean_iou_given_points
from pipeline.evaluation.precision_recall import precision_recall
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from pipeline.models.solo_inference import DetectOptions
from pipeline.report.overlay import Overlay, Panel, draw_overlay, encode_png
from pipeline.training.bounds import require
from pipeline.training.segment_inference import PointGuidedOptions, Segmenter
from pipeline.training.segment_pseudo_labels import has_row_for_each_point

METRICS_FILE = "metrics.json"
DETECTIONS_FOLDER = "detections"
OVERLAYS_FOLDER = "overlays"
SHOWN_SCORE = 0.3
"""Detections in the pictures have at least this score."""


def _small_detections() -> DetectOptions:
    return DetectOptions(min_area=(0, 0, 0, 0, 0), max_detections=100)


@dataclass(frozen=True)
class SegmentEvaluateOptions:
    """How the student is evaluated on the test images.

    Args:
        detect: What is kept of the network's output.
        prompt: ``none``, or ``points`` to also look masks up at the test images' points; those figures' names end in
            ``_given_points``, and compare with nobody's AP.
        teacher: Also evaluate the teacher.
        student: Which network is evaluated: that of ``retrain``, or that of ``warmup`` where there is no other (a
            segmenter that learns from an annotator's masks of all images).
        pictures: Number of test images, the first ones, to draw.
    """

    detect: DetectOptions = field(default_factory=_small_detections)
    prompt: Literal["none", "points"] = "none"
    teacher: bool = True
    student: Literal["retrain", "warmup"] = "retrain"
    pictures: int = 4

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require("pictures", self.pictures, "at least 0", self.pictures >= 0)


@dataclass(frozen=True)
class SegmentInputs:
    """What an evaluation reads.

    Args:
        prepared: The data set; it has true masks.
        test_ids: Images to evaluate on.
        student: Its checkpoint.
        teacher: Its checkpoint; left out when there is no such file.
        pseudo: The masks of the weak images that the student learnt from, to be compared with the true ones.
        annotated: An annotator's masks that it learnt from, to be compared likewise.
        annotated_ids: Of which images.
        held_out_ids: Held-out labelled images, whose counts choose the score from which detections count; without any,
            nothing is counted.
    """

    prepared: Prepared
    test_ids: Sequence[str]
    student: Path
    teacher: Path | None = None
    pseudo: MaskStore | None = None
    annotated: MaskStore | None = None
    annotated_ids: Sequence[str] = ()
    held_out_ids: Sequence[str] = ()


def evaluate_segments(
    inputs: SegmentInputs, *, options: SegmentEvaluateOptions, out: Path, device: torch.device
) -> dict[str, float | int | None]:
    """Detect on the test images; write ``metrics.json``, ``detections/`` (a mask store) and ``overlays/``.

    Args:
        inputs: Data set, images and weights.
        options: What is kept and compared.
        out: Folder of the result; replaced when all is done.
        device: Where to predict.

    Returns:
        The figures.

    Raises:
        PipelineError: If there are no test images or no true masks, or a checkpoint cannot be used.
    """
    prepared, truth = inputs.prepared, inputs.prepared.truth
    if not inputs.test_ids:
        raise PipelineError(f"{prepared.folder}: has no test images; give the data set a test split")
    if truth is None:
        raise PipelineError(f"{prepared.folder}: has no true masks to evaluate with; use a data set that has them")
    names = prepared.class_names
    with fresh_folder(out) as folder:
        student = Segmenter.load(inputs.student, n_classes=len(names), device=device)
        store = _detect_all(student, inputs, folder / DETECTIONS_FOLDER, inputs.student, options.detect)
        figures = average_precision(store, truth, inputs.test_ids, class_names=names).metrics()
        figures |= _counted(student, store, truth, inputs, options.detect)
        if options.teacher and inputs.teacher is not None and inputs.teacher.is_file():
            teacher = Segmenter.load(inputs.teacher, n_classes=len(names), device=device)
            theirs = _detect_all(teacher, inputs, folder / ".teacher", inputs.teacher, options.detect)
            found = average_precision(theirs, truth, inputs.test_ids, class_names=names).metrics()
            figures |= {f"teacher_{name}": found[name] for name in ("ap", "ap_50", "ap_75")}
            _remove(folder / ".teacher")
        if inputs.annotated is not None:
            own = mean_iou_given_points(inputs.annotated, truth, inputs.annotated_ids, class_names=names)
            figures["annotate_mean_iou"] = float(f"{own.mean_iou:.6g}")
        if options.prompt == "points":
            prompted = _prompt_all(student, inputs, folder / "prompted", inputs.student)
            figures |= mean_iou_given_points(prompted, truth, inputs.test_ids, class_names=names).metrics()
        if inputs.pseudo is not None and len(inputs.pseudo):
            weak_ids = inputs.pseudo.image_ids
            if has_row_for_each_point(inputs.pseudo.provenance):
                weak = mean_iou_given_points(inputs.pseudo, truth, weak_ids, class_names=names)
                figures["pseudo_label_mean_iou"] = float(f"{weak.mean_iou:.6g}")
            figures |= precision_recall(inputs.pseudo, truth, weak_ids, class_names=names).metrics("pseudo_label")
        figures["n_images"] = len(inputs.test_ids)
        _draw(inputs, store, truth, folder / OVERLAYS_FOLDER, options.pictures)
        write_json(folder / METRICS_FILE, figures)
    return figures


def _detect_all(
    segmenter: Segmenter, inputs: SegmentInputs, out: Path, weights: Path, options: DetectOptions
) -> MaskStore:
    provenance = Provenance("solov2", 1, {"detect": str(options)}, digest_file(weights))
    with MaskStore.create(out, provenance) as writer:
        for image_id in track(sorted(inputs.test_ids), description="evaluate"):
            pixels = read_image_rgb(inputs.prepared.image(image_id).path)
            writer.add(image_id, segmenter.detect(pixels, options))
    return MaskStore.open(out)


def _counted(
    segmenter: Segmenter, store: MaskStore, truth: MaskStore, inputs: SegmentInputs, options: DetectOptions
) -> dict[str, float | int | None]:
    """Keep the detections above a score that suits the held-out images' counts, and judge those."""
    counts = _true_counts(inputs.prepared, inputs.held_out_ids)
    known = {image_id: count for image_id, count in counts.items() if count is not None}
    if not known:
        return {}
    scores = [
        segmenter.detect(read_image_rgb(inputs.prepared.image(image_id).path), options).score
        for image_id in track(known, description="choose the score that counts")
    ]
    threshold = choose_score_threshold(scores, list(known.values()))
    found = counted_figures(store, truth, _true_counts(inputs.prepared, inputs.test_ids), threshold=threshold)
    return {**found, "count_threshold": float(f"{threshold:.6g}")}


def _true_counts(prepared: Prepared, image_ids: Sequence[str]) -> dict[str, int | None]:
    """Give the number of points of each image; None where a crowd region hides how many there are."""
    rows = [prepared.image(image_id) for image_id in sorted(image_ids)]
    return {row.image_id: None if row.n_regions else row.n_points for row in rows}


def _prompt_all(segmenter: Segmenter, inputs: SegmentInputs, out: Path, weights: Path) -> MaskStore:
    with MaskStore.create(out, Provenance("solov2_given_points", 1, {}, digest_file(weights))) as writer:
        for image_id in track(sorted(inputs.test_ids), description="evaluate, given points"):
            pixels = read_image_rgb(inputs.prepared.image(image_id).path)
            writer.add(image_id, segmenter.at_points(pixels, inputs.prepared.points(image_id), PointGuidedOptions()))
    return MaskStore.open(out)


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()


def _draw(inputs: SegmentInputs, found: MaskStore, truth: MaskStore, folder: Path, n_pictures: int) -> None:
    folder.mkdir()
    for image_id in sorted(inputs.test_ids)[:n_pictures]:
        rows, true = found.instances(image_id), truth.instances(image_id)
        shown = rows[np.flatnonzero(rows.score >= SHOWN_SCORE)[::-1]]  # the surest on top
        overlay = Overlay(
            title=image_id,
            subtitle=f"{int((true.status == 'ok').sum())} true, {len(shown)} found (score {SHOWN_SCORE} and more)",
            pixels=read_image_rgb(inputs.prepared.image(image_id).path),
            panels=[
                Panel("True masks", true.label_map(), true.class_id),
                Panel("Found by the student", shown.label_map(), shown.class_id),
            ],
            class_names=inputs.prepared.class_names,
        )
        (folder / f"{image_id.replace('/', '_')}.png").write_bytes(encode_png(draw_overlay(overlay)))
