"""What an evaluation found, image by image, and the figures of the whole set: the contents of ``metrics.json``."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.evaluation.calibration import Calibration
from pipeline.evaluation.counting import counting_errors
from pipeline.evaluation.instance_iou import MatchResult, pool_matches
from pipeline.evaluation.localization import LocalizationCounts
from pipeline.masks.instances import Instances

MASK_IOU = 0.5
"""IoU from which an instance counts as found in F1 and mean IoU."""


@dataclass(frozen=True)
class ImageResult:
    """One test image.

    Args:
        image_id: The image.
        count_true: Annotated heads.
        count_predicted: Heads that the chosen weights count.
        count_last: Heads that the last weights count, where they were evaluated.
        predicted: The predicted instances.
        match: Predicted masks against the reference masks.
        match_disc: NNEC discs at the predicted points against the reference masks.
        match_half_disc: Discs of half that radius against the reference masks.
        match_annotator: The annotator's masks against the true masks, where there are both.
        localization: Reach (``4px``, ``8px``, ``radius``) → matched points.
        count_calibrated: Heads that the chosen weights count with a calibrated threshold, where there is one.
        count_teacher: Heads that the student's teacher counts, where it was evaluated.
        match_teacher: The teacher's masks against the reference masks, where it was evaluated.
    """

    image_id: str
    count_true: int
    count_predicted: int
    count_last: int | None
    predicted: Instances
    match: MatchResult
    match_disc: MatchResult
    match_half_disc: MatchResult
    match_annotator: MatchResult | None = None
    localization: Mapping[str, LocalizationCounts] = field(default_factory=dict)
    count_calibrated: int | None = None
    count_teacher: int | None = None
    match_teacher: MatchResult | None = None

    @property
    def error(self) -> int:
        """Predicted − annotated heads."""
        return self.count_predicted - self.count_true

    @property
    def relative_error(self) -> float:
        """|predicted − annotated| / annotated, with 1 for an image without heads."""
        return abs(self.error) / max(self.count_true, 1)


@dataclass(frozen=True)
class Evaluation:
    """All test images of one model.

    Args:
        images: One result per test image, sorted by image_id.
        reference: What masks are compared with: ``truth`` or ``annotator``.
        mean_count: Mean count of the labelled images, the guess of the simplest counter.
        calibration: The count threshold chosen on held-out labelled images, if one was.
    """

    images: Sequence[ImageResult]
    reference: str
    mean_count: float
    calibration: Calibration | None = None

    def metrics(self) -> dict[str, float | int | None]:
        """Give every figure under the name it has in ``metrics.json``; None where it is undefined."""
        true = [image.count_true for image in self.images]
        errors = counting_errors([image.count_predicted for image in self.images], true)
        guess = counting_errors(np.full(len(true), self.mean_count), true)
        figures: dict[str, float | int] = {
            "mae": errors.mae,
            "rmse": errors.rmse,
            "nae": errors.nae,
            "bias": errors.bias,
            "mae_mean_count": guess.mae,
            "mae_ratio_to_mean_count": errors.mae / guess.mae if guess.mae > 0 else math.nan,
        }
        last = [image.count_last for image in self.images if image.count_last is not None]
        if self.images and len(last) == len(true):
            errors_last = counting_errors(last, true)
            figures |= {"mae_last": errors_last.mae, "rmse_last": errors_last.rmse, "nae_last": errors_last.nae}
        figures |= self._calibrated_figures(true)
        figures |= self._mask_figures()
        figures |= self._teacher_figures(true)
        for reach in self.images[0].localization if self.images else ():
            pooled = sum((image.localization[reach] for image in self.images), LocalizationCounts(0, 0, 0))
            figures |= {
                f"localization_f1_{reach}": pooled.f1,
                f"localization_precision_{reach}": pooled.precision,
                f"localization_recall_{reach}": pooled.recall,
            }
        figures |= {
            "n_images": len(true),
            "n_heads": sum(true),
            "n_predicted": sum(image.count_predicted for image in self.images),
        }
        return {name: _rounded(value) for name, value in figures.items()}

    def _calibrated_figures(self, true: Sequence[int]) -> dict[str, float | int]:
        """Give the errors with the calibrated threshold, and what it did where it was chosen."""
        counts = [image.count_calibrated for image in self.images if image.count_calibrated is not None]
        if self.calibration is None or len(counts) != len(true):
            return {}
        errors = counting_errors(counts, true)
        return {
            "mae_calibrated": errors.mae,
            "rmse_calibrated": errors.rmse,
            "nae_calibrated": errors.nae,
            "bias_calibrated": errors.bias,
            "count_threshold": self.calibration.threshold,
            "held_out_mae": self.calibration.mae_uncalibrated,
            "held_out_mae_calibrated": self.calibration.mae,
            "n_held_out_images": self.calibration.n_images,
        }

    def _teacher_figures(self, true: Sequence[int]) -> dict[str, float | int]:
        """Give what the teacher reached on the same images, where it was evaluated on all."""
        counts = [image.count_teacher for image in self.images if image.count_teacher is not None]
        matches = [image.match_teacher for image in self.images if image.match_teacher is not None]
        if not true or len(counts) != len(true) or len(matches) != len(true):
            return {}
        errors = counting_errors(counts, true)
        return {
            "teacher_mae": errors.mae,
            "teacher_rmse": errors.rmse,
            "teacher_nae": errors.nae,
            f"teacher_matched_iou_{self.reference}": pool_matches(matches).mean_matched_iou,
        }

    def _mask_figures(self) -> dict[str, float | int]:
        match = pool_matches([image.match for image in self.images])
        against = self.reference
        percent = round(100 * MASK_IOU)
        figures: dict[str, float | int] = {
            f"matched_iou_{against}": match.mean_matched_iou,
            f"f1_{percent}_{against}": match.f1_at(MASK_IOU),
            f"mean_iou_{percent}_{against}": match.mean_iou_at(MASK_IOU),
        }
        for name, results in {
            "disc": [image.match_disc for image in self.images],
            "half_disc": [image.match_half_disc for image in self.images],
        }.items():
            figures[f"matched_iou_{name}_{against}"] = pool_matches(results).mean_matched_iou
        annotator = [image.match_annotator for image in self.images if image.match_annotator is not None]
        if annotator and len(annotator) == len(self.images):
            figures["annotator_matched_iou_truth"] = pool_matches(annotator).mean_matched_iou
        return figures

    def per_image_table(self) -> pa.Table:
        """Give one row per image: the contents of ``per_image.parquet``; null where a figure is undefined."""
        images = self.images
        columns: dict[str, pa.Array] = {
            "image_id": pa.array([image.image_id for image in images], pa.string()),
            "count_true": pa.array([image.count_true for image in images], pa.int64()),
            "count_predicted": pa.array([image.count_predicted for image in images], pa.int64()),
            "count_last": pa.array([image.count_last for image in images], pa.int64()),
            "error": pa.array([image.error for image in images], pa.int64()),
        }
        if self.calibration is not None:
            columns["count_calibrated"] = pa.array([image.count_calibrated for image in images], pa.int64())
        percent = round(100 * MASK_IOU)
        floats = {
            f"matched_iou_{self.reference}": [image.match.mean_matched_iou for image in images],
            f"f1_{percent}_{self.reference}": [image.match.f1_at(MASK_IOU) for image in images],
            f"mean_iou_{percent}_{self.reference}": [image.match.mean_iou_at(MASK_IOU) for image in images],
            f"matched_iou_disc_{self.reference}": [image.match_disc.mean_matched_iou for image in images],
            f"matched_iou_half_disc_{self.reference}": [image.match_half_disc.mean_matched_iou for image in images],
        }
        for reach in images[0].localization if images else ():
            floats[f"localization_f1_{reach}"] = [image.localization[reach].f1 for image in images]
        columns |= {name: pa.array(values, pa.float64(), from_pandas=True) for name, values in floats.items()}
        return pa.table(columns)

    def error_by_density(self, max_bins: int = 5) -> pa.Table:
        """Split the images by their number of heads into bins of about equal size, and give each bin's errors.

        Columns: ``heads`` (such as ``"12-40"``), ``n_images``, ``mae``, ``mae_mean_count``, ``nae``, ``matched_iou``.
        """
        order = sorted(self.images, key=lambda image: (image.count_true, image.image_id))
        edges = np.linspace(0, len(order), min(max_bins, len(order)) + 1).round().astype(int) if order else [0]
        bins = [order[low:high] for low, high in itertools.pairwise(edges)]
        rows = []
        for images in bins:
            true = [image.count_true for image in images]
            errors = counting_errors([image.count_predicted for image in images], true)
            heads = str(true[0]) if true[0] == true[-1] else f"{true[0]}-{true[-1]}"
            rows.append(
                {
                    "heads": heads,
                    "n_images": len(images),
                    "mae": errors.mae,
                    "mae_mean_count": counting_errors(np.full(len(true), self.mean_count), true).mae,
                    "nae": _rounded(errors.nae),
                    "matched_iou": _rounded(pool_matches([image.match for image in images]).mean_matched_iou),
                }
            )
        return pa.Table.from_pylist(rows, schema=_DENSITY_SCHEMA)

    def showcase(self) -> dict[str, ImageResult]:
        """Pick the best, median and worst image by relative count error; among equals the better masks come first."""
        if not self.images:
            return {}

        def badness(image: ImageResult) -> tuple[float, float, str]:
            iou = image.match.mean_matched_iou
            return image.relative_error, -(0.0 if math.isnan(iou) else iou), image.image_id

        order = sorted(self.images, key=badness)
        picks = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
        ranks = {image.image_id: rank for rank, image in reversed(picks.items())}
        return {rank: image for rank, image in picks.items() if ranks[image.image_id] == rank}


_DENSITY_SCHEMA = pa.schema(
    [
        ("heads", pa.string()),
        ("n_images", pa.int64()),
        ("mae", pa.float64()),
        ("mae_mean_count", pa.float64()),
        ("nae", pa.float64()),
        ("matched_iou", pa.float64()),
    ]
)


def _rounded(value: float) -> float | int | None:
    """Six figures are more than any of these is worth, and survive a change of summation order."""
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
