"""The student's unlabelled branch: where it takes part, and which pseudo points it takes for heads."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.evaluation.calibration import matching_threshold
from pipeline.masks.store import MaskStore
from pipeline.training.judge_crowd import CrowdJudgeOptions, crowd_quality, judge_crowd
from pipeline.training.options import UnlabeledOptions
from tests.training.blobs import write_masks
from tests.training.conftest import PSEUDO, RETRAIN


def test_without_weight_pseudo_labels_do_not_matter(ready_run):
    """A weight of zero trains the same student as a store without images."""
    options = replace(RETRAIN, unlabeled=UnlabeledOptions(weight_max=0.0, weight_start=0.0))
    ready_run.retrain(options)
    weights = (ready_run.root / "retrain" / "model.safetensors").read_bytes()
    (ready_run.root / "pseudo_label").unlink()
    write_masks(ready_run.root / "pseudo_label", {})
    ready_run.retrain(options)
    assert (ready_run.root / "retrain" / "model.safetensors").read_bytes() == weights


def test_unlabelled_images_take_part_in_the_named_phases_only(ready_run):
    for phases in ((), ("count",), ("mask", "constraint")):
        ready_run.retrain(replace(RETRAIN, unlabeled=UnlabeledOptions(phases=phases)))
        lines = (ready_run.root / "logs" / "retrain.jsonl").read_text().splitlines()
        learnt = {name.split("/")[0] for line in lines for name in json.loads(line) if "/unlabeled_" in name}
        assert learnt == set(phases)


def test_pseudo_points_can_match_the_labelled_count(ready_run):
    figures = ready_run.retrain(replace(RETRAIN, unlabeled=replace(RETRAIN.unlabeled, match_count=True)))
    run = ready_run
    labeled = [len(run.prepared.points(one)) for one in (*run.splits.labeled_train, *run.splits.labeled_val)]
    pseudo = MaskStore.open(run.root / "pseudo_label")
    scores = [pseudo.instances(one).score for one in pseudo.image_ids]
    assert figures["point_prob"] == matching_threshold(scores, mean_count=np.mean(labeled))
    with_match = (run.root / "retrain" / "last.safetensors").read_bytes()
    run.retrain(replace(RETRAIN, unlabeled=replace(RETRAIN.unlabeled, point_prob=figures["point_prob"])))
    assert (run.root / "retrain" / "last.safetensors").read_bytes() == with_match
    run.retrain()
    assert (run.root / "retrain" / "last.safetensors").read_bytes() != with_match


def test_a_student_without_unlabelled_phases_is_one_without_weight(ready_run):
    weights = []
    for unlabeled in (UnlabeledOptions(phases=()), UnlabeledOptions(weight_max=0.0, weight_start=0.0)):
        ready_run.retrain(replace(RETRAIN, unlabeled=unlabeled))
        weights.append((ready_run.root / "retrain" / "last.safetensors").read_bytes())
    assert weights[0] == weights[1]


def last_weights(run) -> bytes:
    return (run.root / "retrain" / "last.safetensors").read_bytes()


def judge(run, thresholds: str):
    """Put judged masks in the place of pseudo_label's; half of the rows are kept."""
    store = MaskStore.open(run.root / "pseudo_label")
    scores = np.concatenate([store.instances(image_id).score for image_id in store.image_ids])
    quality = replace(crowd_quality(), thresholds=thresholds, class_thr=float(np.median(scores)), mask_thr=0.0)
    judge_crowd(
        run.prepared, store, store, run.masks, labeled=[], options=CrowdJudgeOptions(quality=quality),
        out=run.root / "judged",
    )  # fmt: skip
    (run.root / "pseudo_label").unlink()
    (run.root / "pseudo_label").symlink_to(run.root / "judged" / "masks")


def test_judged_without_thresholds_the_student_is_the_same(ready_run):
    ready_run.retrain()
    before = last_weights(ready_run)
    judge(ready_run, "off")
    ready_run.retrain()
    assert last_weights(ready_run) == before


def test_thresholds_change_the_student_and_what_the_gate_counts(ready_run):
    before = ready_run.retrain()["pseudo_count"]
    weights = last_weights(ready_run)
    judge(ready_run, "fixed")
    figures = ready_run.retrain()
    assert last_weights(ready_run) != weights
    store = MaskStore.open(ready_run.root / "pseudo_label")
    kept = [int((store.instances(image_id).status == "ok").sum()) for image_id in store.image_ids]
    assert figures["pseudo_count"] == np.mean(kept) != before


def test_uncertain_cells_change_the_student_and_want_soft_masks(ready_run):
    ready_run.retrain()
    weights = last_weights(ready_run)
    options = replace(RETRAIN, unlabeled=replace(RETRAIN.unlabeled, pixel_weights="uncertainty"))
    with pytest.raises(PipelineError, match="rows have no soft mask, as retrain.unlabeled.pixel_weights: uncertainty"):
        ready_run.retrain(options)
    (ready_run.root / "pseudo_label").unlink()
    ready_run.pseudo_label(replace(PSEUDO, keep_prob=True))
    ready_run.retrain()
    assert last_weights(ready_run) == weights
    ready_run.retrain(options)
    assert last_weights(ready_run) != weights
