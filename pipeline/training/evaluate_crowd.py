"""Evaluation of a crowd net on the test images: counts, masks and points (XMask, section 7).

The weights are the ones that were chosen on held-out labelled images; the test images choose nothing. Counts are the
paper's: cells with a logit above 0. As an option they are also taken with a threshold chosen on the held-out images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.compute.progress import track
from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import Points, Prepared
from pipeline.errors import PipelineError, raise_all
from pipeline.evaluation.calibration import LIMIT_LOGIT, Calibration, calibrate_threshold
from pipeline.evaluation.instance_iou import MatchResult, matched_mean_iou
from pipeline.evaluation.localization import LocalizationCounts, match_points
from pipeline.evaluation.results import Evaluation, ImageResult
from pipeline.geometry.nnec import nnec_radii
from pipeline.masks.label_map import disc_label_map
from pipeline.masks.store import MaskStore
from pipeline.models.crowd_net import CrowdNet, CrowdNetOptions
from pipeline.pseudo_labels.energy import EVALUATION_ENERGY, EnergyOptions, energy_instances
from pipeline.training.inference import (
    HALO_PX,
    TILE_PX,
    cells_in_image,
    count_heads,
    load_crowd_net,
    predict_image,
)
from pipeline.training.options import require_tile


def _evaluation_energy() -> EnergyOptions:
    """Draw one mask for each head that is counted, and none for the less likely ones."""
    return replace(EVALUATION_ENERGY, candidate_prob=0.5)


@dataclass(frozen=True)
class EvaluateOptions:
    """How the student is evaluated on the test images.

    Args:
        energy: Predicted masks. Published: tau 1.1, lambda_geo 0.8, blur_sigma 3; candidates here are the heads that
            are counted (probability at least 0.5).
        reach_px: Distances, in image pixels, within which a predicted point finds an annotated one.
        last_weights: Also count with the last weights, beside the chosen ones.
        teacher: Also evaluate the student's teacher, beside the student.
        calibrate_count: Also count with the threshold on logits that gives the least MAE on the held-out labelled
            images, beside the paper's 0.
        tile_px: Side of the square tiles in which images are predicted, halo included; a multiple of 16.
        halo_px: Context around a tile that is predicted and thrown away; a multiple of 16.
    """

    energy: EnergyOptions = field(default_factory=_evaluation_energy)
    reach_px: tuple[float, ...] = (4.0, 8.0)
    last_weights: bool = True
    teacher: bool = True
    calibrate_count: bool = False
    tile_px: int = TILE_PX
    halo_px: int = HALO_PX

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not all(reach > 0 for reach in self.reach_px) or len(set(self.reach_px)) < len(self.reach_px):
            raise ValueError(f"reach_px: expected distances above 0, each once, got {list(self.reach_px)}")
        require_tile(self.tile_px, self.halo_px)


@dataclass(frozen=True)
class EvaluationInputs:
    """What an evaluation reads.

    Args:
        prepared: The data set.
        annotator: The annotator's masks; the reference where the data set has no true ones.
        test_ids: Images to evaluate on.
        labeled_ids: Labelled images; their mean count is the simplest guess.
        weights: Checkpoint chosen on held-out labelled images.
        held_out_ids: These held-out images, for ``calibrate_count``.
        last_weights: The last weights; left out when there is no such file.
        teacher_weights: The teacher's checkpoint; left out when there is no such file.
        model: What the network should be; any when None.
    """

    prepared: Prepared
    annotator: MaskStore
    test_ids: Sequence[str]
    labeled_ids: Sequence[str]
    weights: Path
    held_out_ids: Sequence[str] = ()
    last_weights: Path | None = None
    teacher_weights: Path | None = None
    model: CrowdNetOptions | None = None

    @property
    def reference(self) -> MaskStore:
        """The masks to compare with: the true ones where the data set has them, the annotator's otherwise."""
        return self.annotator if self.prepared.truth is None else self.prepared.truth


@dataclass(frozen=True)
class _Nets:
    """The student with the chosen weights, and what stands beside it."""

    chosen: CrowdNet
    last: CrowdNet | None
    teacher: CrowdNet | None


def evaluate_crowd(inputs: EvaluationInputs, *, options: EvaluateOptions, device: torch.device) -> Evaluation:
    """Evaluate a crowd net on the test images.

    Args:
        inputs: Data set, masks, images and weights.
        options: Masks, tiles and reaches.
        device: Where to predict.

    Raises:
        PipelineError: If there are no test images, masks are missing, a checkpoint cannot be used, or there are no
            held-out images to calibrate on.
    """
    if not inputs.test_ids:
        raise PipelineError(f"{inputs.prepared.folder}: has no test images; give the data set a test split")
    reference = inputs.reference
    missing = [image_id for image_id in inputs.test_ids if image_id not in reference]
    raise_all(missing, f"{reference.path}: lacks masks of test images; run prepare and annotate again")
    net, _ = load_crowd_net(inputs.weights, device=device, expected=inputs.model)
    last, teacher = (
        load_crowd_net(path, device=device, expected=inputs.model)[0] if wanted and path and path.is_file() else None
        for path, wanted in ((inputs.last_weights, options.last_weights), (inputs.teacher_weights, options.teacher))
    )
    calibration = _calibrate(inputs, net, options, device) if options.calibrate_count else None
    results = [
        _evaluate_image(image_id, inputs, reference, _Nets(net, last, teacher), calibration, options, device)
        for image_id in track(sorted(inputs.test_ids), description="evaluate")
    ]
    labeled_counts = [inputs.prepared.image(image_id).n_points for image_id in inputs.labeled_ids]
    return Evaluation(
        images=results,
        reference="annotator" if inputs.prepared.truth is None else "truth",
        mean_count=float(np.mean(labeled_counts)) if labeled_counts else 0.0,
        calibration=calibration,
    )


def _calibrate(inputs: EvaluationInputs, net: CrowdNet, options: EvaluateOptions, device: torch.device) -> Calibration:
    """Choose the count threshold on the held-out labelled images."""
    if not inputs.held_out_ids:
        raise PipelineError(
            "evaluate.calibrate_count: there are no held-out labelled images to choose the threshold on; "
            "label more images, or set it to false"
        )
    logits, counts = [], []
    for image_id in track(sorted(inputs.held_out_ids), description="calibrate"):
        image = inputs.prepared.image(image_id)
        pixels = read_image_rgb(image.path)
        found, _ = predict_image(net, pixels, device=device, tile_px=options.tile_px, halo_px=options.halo_px)
        cells = cells_in_image(found, image.size_hw)
        logits.append(cells[cells > -LIMIT_LOGIT].numpy())
        counts.append(image.n_points)
    return calibrate_threshold(logits, counts)


def _evaluate_image(
    image_id: str,
    inputs: EvaluationInputs,
    reference: MaskStore,
    nets: _Nets,
    calibration: Calibration | None,
    options: EvaluateOptions,
    device: torch.device,
) -> ImageResult:
    image = inputs.prepared.image(image_id)
    pixels = read_image_rgb(image.path)

    def predict(net: CrowdNet) -> tuple[torch.Tensor, torch.Tensor]:
        return predict_image(net, pixels, device=device, tile_px=options.tile_px, halo_px=options.halo_px)

    logits, embedding = predict(nets.chosen)
    counted = count_heads(logits, image.size_hw)
    predicted = energy_instances(logits, embedding, options=options.energy, size_hw=image.size_hw)
    true_map = reference.label_map(image_id)
    count_last = count_calibrated = count_teacher = match_teacher = None
    if calibration is not None:
        count_calibrated = len(count_heads(logits, image.size_hw, calibration.threshold).prob)
    if nets.last is not None:
        count_last = len(count_heads(predict(nets.last)[0], image.size_hw).prob)
    if nets.teacher is not None:
        of_teacher = predict(nets.teacher)
        count_teacher = len(count_heads(of_teacher[0], image.size_hw).prob)
        drawn = energy_instances(*of_teacher, options=options.energy, size_hw=image.size_hw)
        match_teacher = matched_mean_iou(drawn.label_map(), true_map)
    true = inputs.prepared.points(image_id)
    discs = [
        matched_mean_iou(disc_label_map(predicted.points_xy, scale * predicted.radius_px, image.size_hw), true_map)
        for scale in (1.0, 0.5)
    ]
    return ImageResult(
        image_id=image_id,
        count_true=image.n_points,
        count_predicted=len(counted.prob),
        count_last=count_last,
        predicted=predicted,
        match=matched_mean_iou(predicted.label_map(), true_map),
        match_disc=discs[0],
        match_half_disc=discs[1],
        match_annotator=_match_annotator(image_id, inputs, true_map),
        localization=_localization(counted.points_xy, true, image.size_hw, options),
        count_calibrated=count_calibrated,
        count_teacher=count_teacher,
        match_teacher=match_teacher,
    )


def _match_annotator(image_id: str, inputs: EvaluationInputs, true_map: npt.NDArray[np.int32]) -> MatchResult | None:
    """Compare the annotator's masks with the true ones: what the student could learn from."""
    if inputs.prepared.truth is None or image_id not in inputs.annotator:
        return None
    return matched_mean_iou(inputs.annotator.label_map(image_id), true_map)


def _localization(
    predicted_xy: npt.NDArray[np.float64],
    true: Points,
    size_hw: tuple[int, int],
    options: EvaluateOptions,
) -> dict[str, LocalizationCounts]:
    """Match points within fixed distances, and within each head's box (its NNEC where it has none)."""
    found = {f"{reach:g}px": match_points(predicted_xy, true.points_xy, reach_px=reach) for reach in options.reach_px}
    radius_px = nnec_radii(true.points_xy, size_hw=size_hw).radius_px
    found["radius"] = match_points(predicted_xy, true.points_xy, reach_px=radius_px, box_wh_px=true.box_wh_px)
    return found
