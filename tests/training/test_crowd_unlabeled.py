"""The student's unlabelled branch: where it takes part, and which pseudo points it takes for heads."""

import json
from dataclasses import replace

import numpy as np

from pipeline.evaluation.calibration import matching_threshold
from pipeline.masks.store import MaskStore
from pipeline.training.options import UnlabeledOptions
from tests.training.blobs import write_masks
from tests.training.conftest import RETRAIN


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
