from dataclasses import replace

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.evaluation.given_points import mean_iou_given_points
from pipeline.masks.store import MaskStore
from pipeline.training.loop import Training
from pipeline.training.refine_options import RefinerOptions
from pipeline.training.refinement import refine_store
from pipeline.training.segment_options import SegmentLoopOptions, SegmentPhaseOptions
from tests.training.blobs import write_masks
from tests.training.conftest import folder_bytes
from tests.training.rough_scenes import TINY, RoughRun

NAMES = ("green", "red")


def test_a_short_training_makes_rough_masks_better(rough_run):
    options = RefinerOptions(
        crops=replace(RefinerOptions().crops, batch=8, size_px=32, heat_sigma_px=2.0),
        train=SegmentPhaseOptions(steps=90, optimizer="adam", learning_rate=5e-3, weight_decay=0.0),
        loop=SegmentLoopOptions(ema_decay=0.9, evaluate_every=45),
    )
    figures = rough_run.train(options)
    assert figures["held_out_iou"] > figures["held_out_iou_rough"] + 0.04
    rough = rough_run.rough[0]
    n_refined = refine_store(
        rough_run.prepared, rough, rough_run.weights, options=options, out=rough_run.root / "refined",
        log=rough_run.root / "refine.jsonl", device=torch.device("cpu"),
    )  # fmt: skip
    assert n_refined > 0.9 * sum(rough.n_instances(image_id) for image_id in rough.image_ids)
    test = rough_run.splits.test
    before, after = (
        mean_iou_given_points(store, rough_run.truth, test, class_names=NAMES)
        for store in (rough, MaskStore.open(rough_run.root / "refined"))
    )
    for name in NAMES:  # class 0 as well as class 1
        assert after.mean_iou_by_class[name] > before.mean_iou_by_class[name] + 0.03


def test_class_0_alone_is_learnt_from(rough_run, tmp_path):
    """The released code multiplies masks by the class, so that class 0 has an empty target."""
    for name, store in (("truth", rough_run.truth), ("rough", rough_run.rough[0])):
        rows = {image_id: store.instances(image_id) for image_id in store.image_ids}
        write_masks(tmp_path / name, {key: replace(each, class_id=0 * each.class_id) for key, each in rows.items()})
    options = replace(TINY, train=replace(TINY.train, steps=1), loop=replace(TINY.loop, log_every=1))
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        step = Training._step
        patch.setattr(
            Training, "_step", lambda self, phase, student, optimizer, batch: (
                seen.append(batch), step(self, phase, student, optimizer, batch)
            ),
        )  # fmt: skip
        stores = {"truth": MaskStore.open(tmp_path / "truth"), "rough": [MaskStore.open(tmp_path / "rough")]}
        rough_run.train(options, n_classes=1, **stores)
    (batch,) = seen
    assert (batch.inputs.class_id == 0).all()
    assert batch.target.flatten(1).any(dim=1).all()


def test_a_killed_training_goes_on_to_the_same_bytes(rough_run, tmp_path, monkeypatch):
    rough_run.train()
    killed = RoughRun(rough_run.data, tmp_path / "killed")
    step = Training._step
    seen = []

    def step_or_die(self, *args):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(1)
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", step_or_die)
        with pytest.raises(KeyboardInterrupt):
            killed.train()
    assert (killed.root / "resume" / "state.pt").is_file()
    taken = []
    monkeypatch.setattr(Training, "_step", lambda self, *args: (taken.append(1), step(self, *args))[1])
    killed.train()
    assert len(taken) == 3  # of five, the first two were saved
    assert folder_bytes(killed.root / "refiner") == folder_bytes(rough_run.root / "refiner")
    assert not (killed.root / "resume").exists()


def test_weak_truth_changes_nothing(rough_run, tmp_path):
    rough_run.train()
    splits = rough_run.splits
    strong = {*splits.labeled_train, *splits.labeled_val}
    nonsense = {}
    for image_id in rough_run.truth.image_ids:
        rows = rough_run.truth.instances(image_id)
        nonsense[image_id] = rows if image_id in strong else rows[:0]
    assert sum(len(nonsense[image_id]) for image_id in splits.test) == 0
    write_masks(tmp_path / "nonsense", nonsense)
    other = RoughRun(rough_run.data, tmp_path / "other")
    other.train(truth=MaskStore.open(tmp_path / "nonsense"))
    assert folder_bytes(other.root / "refiner") == folder_bytes(rough_run.root / "refiner")


def test_the_figures_tell_what_was_gained(rough_run):
    figures = rough_run.train()
    assert figures["held_out_error"] == pytest.approx(1 - figures["held_out_iou"])
    assert 0.3 < figures["held_out_iou_rough"] < 0.9
    assert figures["last_step"] == 5
    assert figures["n_pairs"] > 30
    few = RoughRun(rough_run.data, rough_run.root / "few").train(replace(TINY, held_out_pairs=2))
    assert few["held_out_iou_rough"] != figures["held_out_iou_rough"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rough": []}, r"rough masks \(no store\) hold no mask of the images in labeled_train"),
        ({"splits": ("train", ())}, "hold no mask of the images in labeled_val"),
    ],
)
def test_nothing_to_learn_from(rough_run, change, message):
    if "splits" in change:
        change = {"splits": replace(rough_run.splits, labeled_val=())}
    with pytest.raises(PipelineError, match=message):
        rough_run.train(**change)
    assert not (rough_run.root / "refiner").exists()


def test_a_training_that_diverges_says_which_option_to_lower(rough_run):
    options = replace(TINY, train=replace(TINY.train, learning_rate=1e30, ramp_steps=0))
    with pytest.raises(PipelineError, match=r"lower refiner.train.learning_rate in params.yaml"):
        rough_run.train(options)
    kept = {path.name for path in (rough_run.root / "resume").iterdir()}
    assert kept == {"state.pt", "last_good.safetensors", "last_good.json"}
