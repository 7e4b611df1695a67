import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import Prepared
from pipeline.errors import PipelineError
from pipeline.masks.store import MaskStore
from pipeline.models.crowd_net import CrowdNetOptions, build_crowd_net
from pipeline.training.checkpoint import ModelRecord, save_model
from pipeline.training.evaluate_crowd import EvaluateOptions, EvaluationInputs, _localization, evaluate_crowd
from pipeline.training.inference import KIND, count_heads, load_crowd_net, predict_image
from tests.training.blobs import write_blob_dataset

SMALL = CrowdNetOptions(width=8, mask_width=8, embed_dim=4, prior_prob=0.4)
CPU = torch.device("cpu")


def write_net(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    net = build_crowd_net(SMALL)
    with torch.no_grad():
        net.count_head[-2].weight.mul_(100.0)  # so that cells differ, and some of them are heads
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, net.state_dict(), ModelRecord(KIND, asdict(SMALL), {}, 0, {}))
    return path


@pytest.fixture
def inputs(tmp_path: Path) -> EvaluationInputs:
    write_blob_dataset(tmp_path, n_train=2, n_test=2)
    prepared = Prepared.open(tmp_path / "prepared")
    return EvaluationInputs(
        prepared=prepared,
        annotator=MaskStore.open(tmp_path / "annotate"),
        test_ids=[row.image_id for row in prepared.of_split("test")],
        labeled_ids=[row.image_id for row in prepared.of_split("train")],
        weights=write_net(tmp_path / "retrain" / "model.safetensors", 0),
        last_weights=write_net(tmp_path / "retrain" / "last.safetensors", 1),
        model=SMALL,
    )


def changed(inputs: EvaluationInputs, **changes: object) -> EvaluationInputs:
    return replace(inputs, **changes)  # type: ignore[arg-type]


def test_evaluation_against_the_annotator(inputs: EvaluationInputs) -> None:
    evaluation = evaluate_crowd(inputs, options=EvaluateOptions(), device=CPU)
    assert evaluation.reference == "annotator"
    assert [image.image_id for image in evaluation.images] == ["test/00", "test/01"]
    counts = [inputs.prepared.image(image_id).n_points for image_id in inputs.labeled_ids]
    assert evaluation.mean_count == np.mean(counts)
    for image in evaluation.images:
        assert image.count_true == inputs.prepared.image(image.image_id).n_points
        assert image.count_last is not None
        assert image.match_annotator is None
        assert set(image.localization) == {"4px", "8px", "radius"}
        assert image.localization["4px"].n_predicted == image.count_predicted
        assert len(image.predicted) <= image.count_predicted, "peaks are among the counted cells"
        assert (image.predicted.score >= 0.5).all()
        assert image.match_disc.n_predicted >= image.match.n_predicted
    metrics = evaluation.metrics()
    assert {"mae", "mae_last", "mae_mean_count", "matched_iou_annotator", "localization_f1_radius"} <= set(metrics)


def test_true_masks_take_precedence(inputs: EvaluationInputs, tmp_path: Path) -> None:
    (tmp_path / "annotate").rename(tmp_path / "prepared" / "truth")
    with_truth = changed(inputs, prepared=Prepared.open(tmp_path / "prepared"),
                         annotator=MaskStore.open(tmp_path / "prepared" / "truth"))  # fmt: skip
    metrics = evaluate_crowd(with_truth, options=EvaluateOptions(), device=CPU).metrics()
    assert "matched_iou_truth" in metrics
    assert "matched_iou_annotator" not in metrics
    assert metrics["annotator_matched_iou_truth"] == 1.0


def test_last_weights_are_optional(inputs: EvaluationInputs, tmp_path: Path) -> None:
    gone = changed(inputs, last_weights=tmp_path / "none.safetensors")
    assert "mae_last" not in evaluate_crowd(gone, options=EvaluateOptions(), device=CPU).metrics()
    without = evaluate_crowd(inputs, options=EvaluateOptions(last_weights=False), device=CPU)
    assert "mae_last" not in without.metrics()


def test_the_teacher_stands_beside_the_student_with_its_own_figures(inputs: EvaluationInputs, tmp_path: Path) -> None:
    assert not [
        name for name in evaluate_crowd(inputs, options=EvaluateOptions(), device=CPU).metrics() if "teacher" in name
    ]
    teacher = write_net(tmp_path / "warmup" / "model.safetensors", 2)
    both = evaluate_crowd(changed(inputs, teacher_weights=teacher), options=EvaluateOptions(), device=CPU).metrics()
    alone = evaluate_crowd(changed(inputs, weights=teacher), options=EvaluateOptions(), device=CPU).metrics()
    for name in ("mae", "rmse", "nae", "matched_iou_annotator"):
        assert both[f"teacher_{name}"] == alone[name]
    assert both["mae"] != alone["mae"]
    without = changed(inputs, teacher_weights=teacher)
    figures = evaluate_crowd(without, options=EvaluateOptions(teacher=False), device=CPU).metrics()
    assert "teacher_mae" not in figures


def test_the_same_inputs_give_the_same_figures(inputs: EvaluationInputs) -> None:
    first, second = (evaluate_crowd(inputs, options=EvaluateOptions(), device=CPU) for _ in range(2))
    assert first.metrics() == second.metrics()
    assert all(a.predicted.equals(b.predicted) for a, b in zip(first.images, second.images, strict=True))


def test_a_threshold_is_chosen_on_held_out_images_alone(inputs: EvaluationInputs) -> None:
    options = EvaluateOptions(calibrate_count=True)
    with_held_out = changed(inputs, held_out_ids=inputs.labeled_ids)
    evaluation = evaluate_crowd(with_held_out, options=options, device=CPU)
    plain = evaluate_crowd(inputs, options=EvaluateOptions(), device=CPU)
    chosen = evaluation.calibration
    assert chosen is not None
    net, _ = load_crowd_net(inputs.weights, device=CPU)

    def mae(image_ids: Sequence[str], threshold: float) -> float:
        errors = []
        for image_id in image_ids:
            row = inputs.prepared.image(image_id)
            logits, _ = predict_image(net, read_image_rgb(row.path), device=CPU)
            errors.append(abs(len(count_heads(logits, row.size_hw, threshold).prob) - row.n_points))
        return float(np.mean(errors))

    assert chosen.n_images == len(inputs.labeled_ids)
    assert chosen.mae == mae(inputs.labeled_ids, chosen.threshold)
    assert chosen.mae_uncalibrated == mae(inputs.labeled_ids, 0.0)
    assert chosen.mae < chosen.mae_uncalibrated, "an untrained net counts badly at 0, so the test can tell"
    metrics = evaluation.metrics()
    assert metrics["mae_calibrated"] == pytest.approx(mae(inputs.test_ids, chosen.threshold), rel=1e-5)
    assert {name: value for name, value in metrics.items() if name in plain.metrics()} == plain.metrics()


def test_heads_are_found_in_their_boxes(inputs: EvaluationInputs) -> None:
    true = inputs.prepared.points("test/00")
    beside_xy, below_xy = (true.points_xy[:1] + np.array(shift) for shift in ((6.0, 0.0), (0.0, 6.0)))
    wide, high = (13.0, 1.0), (1.0, 13.0)
    for wh_px, point_xy, n_matched in ((wide, beside_xy, 1), (wide, below_xy, 0), (high, below_xy, 1)):
        boxed = replace(true, box_wh_px=np.tile(wh_px, (len(true), 1)))
        assert _localization(point_xy, boxed, (64, 64), EvaluateOptions())["radius"].n_matched == n_matched


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_ids": []}, "has no test images"),
        ({"test_ids": ["test/00", "test/77"]}, r"lacks masks of test images.*\n.*test/77"),
        ({"weights": Path("nowhere.safetensors")}, r"nowhere\.safetensors: no such file"),
        ({"model": CrowdNetOptions(width=16)}, "a checkpoint of another model"),
    ],
)
def test_inputs_that_cannot_be_evaluated_are_named(
    inputs: EvaluationInputs, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(PipelineError, match=re.compile(message, re.DOTALL)):
        evaluate_crowd(changed(inputs, **changes), options=EvaluateOptions(), device=CPU)


def test_without_held_out_images_nothing_can_be_calibrated(inputs: EvaluationInputs) -> None:
    with pytest.raises(PipelineError, match=r"evaluate\.calibrate_count: there are no held-out labelled images"):
        evaluate_crowd(inputs, options=EvaluateOptions(calibrate_count=True), device=CPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reach_px": (4.0, 0.0)}, "reach_px: expected distances above 0"),
        ({"reach_px": (4.0, 4.0)}, "each once"),
        ({"tile_px": 100}, "tile_px"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateOptions(**options)  # type: ignore[arg-type]
