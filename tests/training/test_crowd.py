import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.compute.files import read_table, write_table
from pipeline.datasets.prepared import POINTS_FILE, POINTS_SCHEMA
from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.store import MaskStore
from pipeline.training import crowd_losses
from pipeline.training.crowd import train_teacher
from pipeline.training.held_out import count_test_images
from pipeline.training.inference import load_crowd_net
from pipeline.training.mean_teacher import MeanTeacher
from pipeline.training.options import GateOptions, PhaseOptions, UnlabeledOptions
from tests.training.blobs import write_blob_dataset, write_masks
from tests.training.conftest import CPU, MODEL, RETRAIN, WARMUP, BlobRun, folder_bytes

ROOT = Path(__file__).parents[2]


def test_a_training_leaves_two_models_curves_and_figures(finished_run):
    for stage, steps in (("warmup", 7), ("retrain", 7)):
        folder = finished_run.root / stage
        names = {path.name for path in folder.iterdir()}
        assert names == {"model.safetensors", "model.json", "last.safetensors", "last.json", "metrics.json", "dvclive"}
        record = json.loads((folder / "last.json").read_text())
        assert record["kind"] == "crowd_net"
        assert record["step"] == steps
        assert record["parameters"]["seed"] == 0
        assert set(record["metrics"]) == {"mae", "rmse", "matched_iou"}
        figures = json.loads((folder / "metrics.json").read_text())
        assert figures["held_out_mae"] == json.loads((folder / "model.json").read_text())["metrics"]["mae"]
        assert figures["held_out_mae"] <= figures["last_held_out_mae"]
        assert not (finished_run.root / "resume" / stage).exists()
    assert {"teacher_mae", "labeled_count", "pseudo_count"} <= figures.keys()


def test_the_same_inputs_train_the_same_bytes(finished_run, blob_run):
    blob_run.warmup(replace(WARMUP, loop=replace(WARMUP.loop, checkpoint_every=100, load_workers=1)))
    assert folder_bytes(blob_run.root / "warmup") == folder_bytes(finished_run.root / "warmup")


def test_another_seed_or_option_trains_another_model(finished_run, blob_run):
    blob_run.warmup(replace(WARMUP, count=replace(WARMUP.count, learning_rate=2e-3)))
    assert blob_run.teacher.read_bytes() != finished_run.teacher.read_bytes()


class KilledError(Exception):
    pass


def die_at(monkeypatch, step):
    """Let the training die in the midst of a step."""
    updates = []
    update = MeanTeacher.update

    def update_or_die(self, student, **fields):
        updates.append(1)
        if len(updates) == step:
            raise KilledError
        update(self, student, **fields)

    monkeypatch.setattr(MeanTeacher, "update", update_or_die)


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_killed_retrain_ends_as_an_unbroken_one(finished_run, blob_run, monkeypatch, step):
    for folder in ("warmup", "pseudo_label"):
        (blob_run.root / folder).symlink_to(finished_run.root / folder)
    with monkeypatch.context() as patch:
        die_at(patch, step)
        with pytest.raises(KilledError):
            blob_run.retrain()
    assert not (blob_run.root / "retrain").exists()
    blob_run.retrain()
    assert folder_bytes(blob_run.root / "retrain") == folder_bytes(finished_run.root / "retrain")
    lines = [json.loads(line) for line in (blob_run.root / "logs" / "retrain.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 7


MOMENTS = {
    "in the midst of a step": """
        def die_at_sixth(self, student, **fields):
            updates.append(1)
            if len(updates) == 6:
                die()
            update(self, student, **fields)
        updates, update, mean_teacher.MeanTeacher.update = [], mean_teacher.MeanTeacher.update, die_at_sixth
    """,
    "while the state is written": """
        def die_at_third(state, path):
            saves.append(1)
            if len(saves) == 3:
                path.write_bytes(b"half a state")
                die()
            save(state, path)
        saves, save, torch.save = [], torch.save, die_at_third
    """,
    "while the result is written": """
        training_run.write_curves = lambda folder, curves: die()
    """,
    "when the result is in place": """
        checkpoint.ResumeFile.clear = lambda self: die()
    """,
}


@pytest.fixture(scope="module")
def killed_roots(finished_run, tmp_path_factory):
    """Warmups that the system killed, by moment; one process imports, and its forks train and die."""
    roots = {moment: tmp_path_factory.mktemp("killed") for moment in MOMENTS}
    code = """
        import json, os, signal, sys, textwrap
        from pathlib import Path
        import torch
        from pipeline.training import checkpoint, mean_teacher, training_run
        from tests.training.conftest import BlobRun
        def die():
            os.kill(os.getpid(), signal.SIGKILL)
        data, jobs = json.loads(sys.argv[1])
        ends = []
        for root, patch in jobs:
            child = os.fork()
            if child == 0:
                exec(textwrap.dedent(patch), globals())
                BlobRun(Path(root), Path(data)).warmup()
                os._exit(0)
            ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(json.dumps(ends))
    """
    jobs = [str(finished_run.data), [(str(root), MOMENTS[moment]) for moment, root in roots.items()]]
    command = [sys.executable, "-c", textwrap.dedent(code), json.dumps(jobs)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [-signal.SIGKILL] * len(MOMENTS), done.stderr
    return roots


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_warmup_killed_by_the_system_ends_as_an_unbroken_one(finished_run, killed_roots, moment):
    run = BlobRun(killed_roots[moment], finished_run.data)
    state = torch.load(run.root / "resume" / "warmup" / "state.pt", weights_only=True)
    assert state["state"]["state"]["step"] >= 4  # a damaged state would begin anew, and end the same
    assert (run.root / "warmup").exists() == (moment == "when the result is in place")
    run.warmup()
    assert folder_bytes(run.root / "warmup") == folder_bytes(finished_run.root / "warmup")
    assert {path.name for path in run.root.iterdir()} == {"logs", "resume", "warmup"}
    assert not list((run.root / "resume").iterdir())


def spoil_unlabelled_truth(run):
    """Replace points and masks of every image that training must not know by nonsense; as many rows, other contents."""
    rng = np.random.default_rng(1)
    hidden = {*run.splits.unlabeled, *run.splits.test}
    table = read_table(run.data / "prepared" / POINTS_FILE, made_by="the test")
    columns = table.to_pydict()
    for name in ("x_px", "y_px"):
        columns[name] = [
            rng.uniform(-500, 500) if image_id in hidden else value
            for image_id, value in zip(columns["image_id"], columns[name], strict=True)
        ]
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in POINTS_SCHEMA]
    write_table(pa.table(arrays, schema=POINTS_SCHEMA), run.data / "prepared" / POINTS_FILE)
    masks = {image_id: run.masks.instances(image_id) for image_id in run.masks.image_ids}
    for image_id in hidden:
        n, size_hw = len(masks[image_id]), masks[image_id].size_hw
        masks[image_id] = Instances.from_label_map(
            rng.integers(0, n + 1, size_hw),
            point_id=np.arange(n),
            points_xy=rng.uniform(0, 60, (n, 2)),
            radius_px=rng.uniform(1, 50, n),
            source="fallback",
            status="fallback",
        )
    write_masks(run.data / "annotate", masks)


def test_nonsense_for_the_unlabelled_images_changes_no_byte(finished_run, tmp_path):
    write_blob_dataset(tmp_path / "data")
    run = BlobRun(root=tmp_path / "run", data=tmp_path / "data")
    before = folder_bytes(run.data / "annotate")
    spoil_unlabelled_truth(run)
    assert folder_bytes(run.data / "annotate") != before
    run.warmup()
    run.pseudo_label()
    run.retrain()
    for stage in ("warmup", "pseudo_label", "retrain"):
        assert folder_bytes(run.root / stage) == folder_bytes(finished_run.root / stage)


def test_nonsense_for_a_labelled_image_changes_the_teacher(finished_run, tmp_path):
    """The test above could fail."""
    write_blob_dataset(tmp_path / "data", seed=1)
    run = BlobRun(root=tmp_path / "run", data=tmp_path / "data")
    run.warmup()
    assert run.teacher.read_bytes() != finished_run.teacher.read_bytes()


def test_the_ema_teacher_trains_another_student(ready_run, finished_run):
    ready_run.retrain(replace(RETRAIN, teacher="ema"))
    student = (ready_run.root / "retrain" / "model.safetensors").read_bytes()
    assert student != (finished_run.root / "retrain" / "model.safetensors").read_bytes()


def test_the_gate_stands_before_retrain(ready_run):
    with pytest.raises(PipelineError, match="not fit to teach, so retrain does not start"):
        ready_run.retrain(replace(RETRAIN, gate=GateOptions(max_error_ratio=1e-6)))
    assert not (ready_run.root / "retrain").exists()
    assert not (ready_run.root / "resume" / "retrain").exists()


def test_pseudo_labels_of_another_split_are_refused(ready_run):
    (ready_run.root / "pseudo_label").unlink()
    labeled = ready_run.splits.labeled_train[0]
    write_masks(ready_run.root / "pseudo_label", {labeled: Instances.empty((64, 64))})
    with pytest.raises(PipelineError, match=f"not unlabelled training images .*{labeled}.*run the pseudo_label stage"):
        ready_run.retrain()


def test_without_unlabelled_images_there_is_nothing_to_learn_from(ready_run):
    (ready_run.root / "pseudo_label").unlink()
    write_masks(ready_run.root / "pseudo_label", {})
    message = "no unlabelled image to learn from; lower labeled_pct, or set retrain.unlabeled.phases: \\[\\]"
    with pytest.raises(PipelineError, match=message):
        ready_run.retrain()
    assert not (ready_run.root / "retrain").exists()
    figures = ready_run.retrain(replace(RETRAIN, unlabeled=UnlabeledOptions(phases=())))  # as the message says
    assert "pseudo_count" not in figures


def test_pseudo_labels_of_another_teacher_are_refused(ready_run):
    (ready_run.root / "warmup").unlink()
    ready_run.warmup(replace(WARMUP, count=replace(WARMUP.count, learning_rate=2e-3)))
    message = r"pseudo_label: was made with another teacher than .*model.safetensors .*run the pseudo_label stage again"
    with pytest.raises(PipelineError, match=message):
        ready_run.retrain()
    assert not (ready_run.root / "retrain").exists()
    (ready_run.root / "pseudo_label").unlink()
    ready_run.pseudo_label()
    ready_run.retrain()


def test_a_teacher_with_another_backbone_is_refused(ready_run):
    message = (
        r"another model \(backbone: 'resnet10t' in the checkpoint, 'resnet14t' in model.backbone\); set the section"
    )
    with pytest.raises(PipelineError, match=message):
        ready_run.retrain(model=replace(MODEL, backbone="resnet14t"))
    assert not (ready_run.root / "retrain").exists()


def test_a_labelled_image_without_masks_is_refused_before_anything_starts(blob_run):
    masks = {image_id: blob_run.masks.instances(image_id) for image_id in blob_run.masks.image_ids}
    missing, spoilt = blob_run.splits.labeled_train[0], blob_run.splits.labeled_val[0]
    for name, changed, message in (
        ("missing", {missing: None}, rf"lacks 1 labelled images \({missing} …\); run the annotate stage again"),
        ("empty", {spoilt: Instances.empty((64, 64))}, rf"{spoilt}: \d points, but 0 rows .* run the annotate stage"),
    ):
        write_masks(blob_run.root / name, {key: value for key, value in (masks | changed).items() if value is not None})
        with pytest.raises(PipelineError, match=message):
            blob_run.warmup(masks=MaskStore.open(blob_run.root / name))
    assert not (blob_run.root / "warmup").exists()
    assert not (blob_run.root / "logs").exists()


def test_a_diverging_training_names_the_images_and_keeps_the_last_good_weights(blob_run, monkeypatch):
    real, calls = crowd_losses.CrowdLoss.__call__, []

    def poisoned(self, student, teacher, batch, phase_step):
        calls.append(1)
        if len(calls) == 6:
            batch = replace(batch, labeled=replace(batch.labeled, images=batch.labeled.images * math.nan))
        return real(self, student, teacher, batch, phase_step)

    options = replace(WARMUP, count=PhaseOptions(steps=9), mask=PhaseOptions(steps=0))
    with monkeypatch.context() as patch:
        patch.setattr(crowd_losses.CrowdLoss, "__call__", poisoned)
        with pytest.raises(PipelineError) as caught:
            blob_run.warmup(options)
    message = str(caught.value)
    kept = blob_run.root / "resume" / "warmup" / "last_good.safetensors"
    assert "phase 'count' is no longer a number at step 6" in message
    assert "on crops of the labelled images train/" in message
    assert f"the last good weights are in {kept}: lower warmup.count.learning_rate" in message
    net, record = load_crowd_net(kept, device=CPU, expected=MODEL)
    assert record.step == 5
    assert all(value.isfinite().all() for value in net.state_dict().values())
    changed = replace(options, count=replace(options.count, learning_rate=1e-4, steps=2))
    with monkeypatch.context() as patch:  # another start does not remove them; only a training that ends does
        die_at(patch, 1)
        with pytest.raises(KilledError):
            blob_run.warmup(changed)
    assert kept.is_file()
    blob_run.warmup(changed)
    assert not kept.exists()


def test_the_oracle_reads_test_images_and_moves_no_weight(finished_run, blob_run):
    figures = blob_run.warmup(replace(WARMUP, loop=replace(WARMUP.loop, oracle_best=True)))
    for name in ("model", "last"):
        weights = (blob_run.root / "warmup" / f"{name}.safetensors").read_bytes()
        assert weights == (finished_run.root / "warmup" / f"{name}.safetensors").read_bytes()
    plain = json.loads((finished_run.root / "warmup" / "metrics.json").read_text())
    added = {name for name in figures if name not in plain}
    assert added == {"oracle_best_mae", "oracle_best_rmse", "oracle_best_step"}
    assert {name: figures[name] for name in plain} == plain
    net, _ = load_crowd_net(blob_run.root / "warmup" / "last.safetensors", device=CPU)
    run = blob_run
    now = count_test_images(net, run.prepared, run.splits.test, options=WARMUP.loop, device=CPU)
    assert figures["oracle_best_mae"] <= now["mae"]


def test_a_set_without_held_out_images_is_refused(blob_run):
    with pytest.raises(PipelineError, match="no image in labeled_val"):
        train_teacher(
            blob_run.prepared,
            replace(blob_run.splits, labeled_val=()),
            blob_run.masks,
            model=MODEL,
            options=WARMUP,
            seed=0,
            place=blob_run.place("warmup"),
        )


def test_counting_blobs_is_learnt(tmp_path):
    """A few dozen steps: the teacher counts unseen images much better than the mean count does."""
    write_blob_dataset(tmp_path / "data", n_train=30, blobs=(1, 14))
    run = BlobRun(root=tmp_path, data=tmp_path / "data")
    options = replace(
        WARMUP,
        count=PhaseOptions(steps=70, learning_rate=3e-3, encoder_learning_rate=3e-3),
        mask=PhaseOptions(steps=0),
        crops=replace(WARMUP.crops, size_px=64, batch=4),
        loop=replace(WARMUP.loop, evaluate_every=20, checkpoint_every=1000, ema_decay=0.9),
    )
    figures = train_teacher(
        run.prepared,
        run.splits,
        run.masks,
        model=replace(MODEL, prior_prob=0.05),
        options=options,
        seed=0,
        place=run.place("warmup"),
    )
    assert figures["held_out_mae"] < 0.5 * figures["mean_count_mae"]
