"""Values of the segmenter's options that are refused, where they stand in a params file and in which words."""

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from stages.params import load_segmenter_params

HEAD = "system: segmenter\ndatasets: [shapes]\nprepare: {sources: {shapes: {reader: synthetic_shapes}}}\n"


def load(folder: Path, text: str) -> None:
    path = folder / "params.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    load_segmenter_params(path)


BAD = [
    (
        "judge: {quality: {class_thr: 1.5}}",
        "judge.quality: class_thr: expected a number from 0 to 1, got 1.5",
    ),
    (
        "judge: {quality: {class_thr: [0.4, 1.5]}}",
        "judge.quality: class_thr: expected a number from 0 to 1, got 1.5",
    ),
    (
        "judge: {quality: {class_thr: high}}",
        'judge.quality.class_thr: expected a number or a list, got "high"',
    ),
    (
        "judge: {quality: {mask_thr: -0.1}}",
        "judge.quality: mask_thr: expected a number from 0 to 1, got -0.1",
    ),
    (
        "judge: {quality: {margin: 2}}",
        "judge.quality: margin: expected a number from 0 to 1, got 2.0",
    ),
    (
        "judge: {quality: {alpha: .nan}}",
        "judge.quality.alpha: expected a finite number, got NaN",
    ),
    (
        "judge: {quality: {class_thr_min: 0.7}}",
        "judge.quality: class_thr_min: expected at most class_thr_max (0.6), got 0.7",
    ),
    (
        "judge: {quality: {thresholds: adaptiv}}",
        'judge.quality.thresholds: expected one of off, single, fixed, calibrated, adaptive, got "adaptiv"; '
        "did you mean 'adaptive'?",
    ),
    (
        "judge: {qualty: {}}",
        "judge.qualty: unknown key; did you mean 'quality'?",
    ),
    (
        "judge: {promote_prob: -1}",
        "judge: promote_prob: expected a number from 0 to 1, got -1.0",
    ),
    (
        "judge: {masks: judged}",
        'judge.masks: expected one of pseudo_label, refined, got "judged"',
    ),
    (
        "pseudo_label: {opinion: clip}",
        "pseudo_label: clip_folder: expected the folder of CLIP's weights, as opinion is clip",
    ),
    (
        "pseudo_label: {opinion_stride: 5}",
        "pseudo_label: opinion_stride: expected 4, 8, 16 or 32, got 5",
    ),
    (
        "pseudo_label: {min_area: [1, 2]}",
        "pseudo_label: min_area: expected 5 numbers of at least 0, one for each level, got [1, 2]",
    ),
    (
        "pseudo_label: {duplicate_iou: 2}",
        "pseudo_label: duplicate_iou: expected from 0 to 1, got 2.0",
    ),
    (
        "pseudo_label: {detect: {class_thr: 2}}",
        "pseudo_label.detect: class_thr: expected a number in [0, 1], got 2.0",
    ),
    (
        "retrain: {unlabeled: {batch: -1}}",
        "retrain.unlabeled: batch: expected at least 0, got -1",
    ),
    (
        "retrain: {unlabeled: {pixel_weights: uncertain}}",
        'retrain.unlabeled.pixel_weights: expected one of off, uncertainty, got "uncertain"; did you mean '
        "'uncertainty'?",
    ),
    (
        "retrain: {unlabeled: {online: true}}",
        "retrain.unlabeled: online: expected batch above 0 beside it",
    ),
    (
        "retrain: {burn_in: {optimizer: adamw}}",
        'retrain.burn_in.optimizer: expected one of adam, muon, sgd, got "adamw"',
    ),
    (
        "pseudo_label: {method: detections}\njudge: {correct: true}",
        "judge.correct: expected a second opinion beside it; set pseudo_label.opinion to prototypes or clip, "
        "or judge.correct: false",
    ),
    (
        "pseudo_label: {opinion: prototypes}\njudge: {correct: true}",
        "judge.correct: expected the probabilities of all classes beside it; set pseudo_label.keep_prob: true"
        " (or method: detections)",
    ),
    (
        "retrain: {masks: judged, unlabeled: {pixel_weights: uncertainty}}",
        "retrain.unlabeled.pixel_weights: expected soft masks beside it; set pseudo_label.keep_prob: true (or"
        " method: detections), or pixel_weights: off",
    ),
]


@pytest.mark.parametrize(("text", "fault"), BAD)
def test_a_bad_value_is_refused_once_and_by_its_place(text: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"params\.yaml: .* \(1 found\)") as caught:
        load(tmp_path, text)
    assert f"  - {fault}" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "judge: {quality: {class_thr: 1}}",
        "judge: {quality: {thresholds: off, class_thr: [0.3, 0.4]}}",
        "pseudo_label: {method: detections, opinion: prototypes}\njudge: {correct: true}",
        "pseudo_label: {keep_prob: true, opinion: prototypes}\njudge: {correct: true}",
        "retrain: {masks: judged, unlabeled: {pixel_weights: uncertainty}}\npseudo_label: {keep_prob: true}",
        "retrain: {weak: false, masks: judged, unlabeled: {pixel_weights: uncertainty}}",
        "retrain: {masks: judged, unlabeled: {pixel_weights: uncertainty, online: true, batch: 2}}",
    ],
)
def test_what_fits_together_is_taken(text: str, tmp_path: Path) -> None:
    load(tmp_path, text)
