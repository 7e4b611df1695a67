import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation.calibration import Calibration
from pipeline.evaluation.instance_iou import MatchResult
from pipeline.evaluation.localization import LocalizationCounts
from pipeline.evaluation.results import Evaluation, ImageResult
from pipeline.masks.instances import Instances


def match(ious: list[float], n_predicted: int, n_true: int) -> MatchResult:
    labels = np.arange(1, len(ious) + 1, dtype=np.int64)
    return MatchResult(labels, labels, np.array(ious, dtype=np.float64), n_predicted, n_true)


def result(name: str, true: int, predicted: int, ious: list[float], *, last: int | None = None) -> ImageResult:
    return ImageResult(
        image_id=name, count_true=true, count_predicted=predicted, count_last=last, predicted=Instances.empty((4, 4)),
        match=match(ious, predicted, true), match_disc=match([0.2] * len(ious), predicted, true),
        match_half_disc=match([0.3] * len(ious), predicted, true),
        localization={"4px": LocalizationCounts(min(true, predicted), predicted, true)},
    )  # fmt: skip


IMAGES = [
    result("a", 10, 12, [0.8, 0.6]),
    result("b", 4, 4, [0.5]),
    result("c", 0, 1, []),
    result("d", 40, 20, [0.4] * 9),
]


def test_metrics_of_a_set() -> None:
    metrics = Evaluation(IMAGES, "truth", mean_count=10.0).metrics()
    assert metrics["mae"] == pytest.approx((2 + 0 + 1 + 20) / 4)
    assert metrics["mae_mean_count"] == pytest.approx((0 + 6 + 10 + 30) / 4)
    assert metrics["mae_ratio_to_mean_count"] == pytest.approx(23 / 46)
    assert metrics["nae"] == pytest.approx((0.2 + 0 + 0.5) / 3, rel=1e-5)
    assert metrics["matched_iou_truth"] == pytest.approx((1.4 + 0.5 + 3.6) / 54, rel=1e-5)
    assert metrics["f1_50_truth"] == pytest.approx(2 * 3 / (37 + 54), rel=1e-5)
    assert metrics["mean_iou_50_truth"] == pytest.approx((0.8 + 0.6 + 0.5) / 3, rel=1e-5)
    assert metrics["matched_iou_disc_truth"] == pytest.approx(12 * 0.2 / 54, rel=1e-5)
    assert metrics["matched_iou_half_disc_truth"] == pytest.approx(12 * 0.3 / 54, rel=1e-5)
    assert metrics["localization_f1_4px"] == pytest.approx(2 * 34 / (37 + 54), rel=1e-5)
    assert metrics["localization_precision_4px"] == pytest.approx(34 / 37, rel=1e-5)
    assert metrics["localization_recall_4px"] == pytest.approx(34 / 54, rel=1e-5)
    assert not [name for name in metrics if "calibrated" in name or "held_out" in name]
    assert (metrics["n_images"], metrics["n_heads"], metrics["n_predicted"]) == (4, 54, 37)
    assert "mae_last" not in metrics
    assert "annotator_matched_iou_truth" not in metrics


def test_metrics_name_their_reference_and_last_weights() -> None:
    images = [result("a", 3, 4, [0.5], last=6), result("b", 3, 3, [0.5], last=3)]
    metrics = Evaluation(images, "annotator", mean_count=3.0).metrics()
    assert metrics["mae_last"] == 1.5
    assert "matched_iou_annotator" in metrics
    assert "matched_iou_truth" not in metrics
    assert metrics["mae_ratio_to_mean_count"] is None, "the guess is perfect here, so the ratio is undefined"


def test_calibrated_counts_stand_beside_the_others() -> None:
    counts = {"a": 11, "b": 5, "c": 0, "d": 30}
    images = [replace(image, count_calibrated=counts[image.image_id]) for image in IMAGES]
    evaluation = Evaluation(images, "truth", mean_count=10.0, calibration=Calibration(-0.5, 1.25, 2.5, 8))
    metrics = evaluation.metrics()
    assert metrics["mae"] == pytest.approx((2 + 0 + 1 + 20) / 4), "the paper's figure stays"
    assert metrics["mae_calibrated"] == pytest.approx((1 + 1 + 0 + 10) / 4)
    assert metrics["rmse_calibrated"] == pytest.approx(math.sqrt((1 + 1 + 0 + 100) / 4), rel=1e-5)
    assert metrics["nae_calibrated"] == pytest.approx((0.1 + 0.25 + 0.25) / 3, rel=1e-5)
    assert metrics["bias_calibrated"] == pytest.approx((1 + 1 - 10) / 4)
    assert (metrics["count_threshold"], metrics["n_held_out_images"]) == (-0.5, 8)
    assert (metrics["held_out_mae"], metrics["held_out_mae_calibrated"]) == (2.5, 1.25)
    assert evaluation.per_image_table()["count_calibrated"].to_pylist() == [11, 5, 0, 30]


def test_undefined_figures_are_none() -> None:
    metrics = Evaluation([result("c", 0, 0, [])], "truth", mean_count=1.0).metrics()
    assert metrics["nae"] is None
    assert metrics["matched_iou_truth"] is None
    assert metrics["mae"] == 0


def test_per_image_table_has_a_row_for_each() -> None:
    table = Evaluation(IMAGES, "truth", mean_count=10.0).per_image_table()
    assert table["image_id"].to_pylist() == ["a", "b", "c", "d"]
    assert table["error"].to_pylist() == [2, 0, 1, -20]
    assert table["matched_iou_truth"].to_pylist() == pytest.approx([0.14, 0.125, None, 0.09])
    assert table["count_last"].null_count == 4


def test_density_bins_hold_every_image_once() -> None:
    table = Evaluation(IMAGES, "truth", mean_count=10.0).error_by_density(max_bins=2)
    assert table["heads"].to_pylist() == ["0-4", "10-40"]
    assert table["n_images"].to_pylist() == [2, 2]
    assert table["mae"].to_pylist() == [0.5, 11.0]
    assert table["mae_mean_count"].to_pylist() == [8.0, 15.0]
    single = Evaluation(IMAGES[:1], "truth", mean_count=10.0).error_by_density()
    assert single["heads"].to_pylist() == ["10"]
    assert Evaluation([], "truth", mean_count=0.0).error_by_density().num_rows == 0


def test_showcase_ranks_by_relative_error() -> None:
    picks = Evaluation(IMAGES, "truth", mean_count=10.0).showcase()
    assert {rank: image.image_id for rank, image in picks.items()} == {"best": "b", "median": "d", "worst": "c"}
    assert list(Evaluation(IMAGES[:1], "truth", mean_count=1.0).showcase()) == ["best"]
    assert list(Evaluation(IMAGES[:2], "truth", mean_count=1.0).showcase()) == ["best", "median"]
    assert Evaluation([], "truth", mean_count=1.0).showcase() == {}


def test_relative_error_of_an_empty_image() -> None:
    assert IMAGES[2].relative_error == 1.0
    assert math.isnan(IMAGES[2].match.mean_matched_iou)
