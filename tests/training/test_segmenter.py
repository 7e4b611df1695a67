import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from pipeline.training.checkpoint import read_weights
from pipeline.training.segment_inference import PointGuidedOptions, write_point_guided
from pipeline.training.segmenter import early_files, train_segmenter_student, train_segmenter_teacher
from pipeline.training.segmenter_options import StudentOptions
from tests.training.shapes_home import CPU, OPTIONS, SCENES, place_below, split_shapes, write_shapes

ROOT = Path(__file__).parents[2]
POINTS = PointGuidedOptions()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"))


def train_teacher(shapes, root, masks=None, options=OPTIONS):
    return train_segmenter_teacher(
        shapes, split_shapes(shapes), masks or shapes.truth, options=options, seed=0, place=place_below(root, "warmup")
    )


def write_pseudo(shapes, root):
    return write_point_guided(
        shapes, split_shapes(shapes).unlabeled, root / "warmup" / "model.safetensors", options=POINTS, n_classes=2,
        seed=0, out=root / "pseudo", log=root / "pseudo.jsonl", device=CPU,
    )  # fmt: skip


def train_student(shapes, root, truth=None, *, alone=False, online=None, **changes):
    return train_segmenter_student(
        shapes, split_shapes(shapes), truth or shapes.truth, None if alone else MaskStore.open(root / "pseudo"),
        root / "warmup" / "model.safetensors", options=StudentOptions(learn=OPTIONS, **changes), seed=0,
        place=place_below(root, "retrain"), online=online,
    )  # fmt: skip


def folder_bytes(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    train_teacher(shapes, root)
    write_pseudo(shapes, root)
    train_student(shapes, root)
    return root


def test_a_teacher_leaves_its_weights_early_ones_and_figures(trained):
    assert early_files(OPTIONS) == {2: "early_1.safetensors"}
    names = {path.name for path in (trained / "warmup").iterdir()}
    files = {f"{name}.{end}" for name in ("model", "last", "early_1") for end in ("safetensors", "json")}
    assert names == files | {"metrics.json", "dvclive"}
    figures = json.loads((trained / "warmup" / "metrics.json").read_text())
    assert figures["n_strong"] == 2
    assert figures["n_weak"] == 0
    assert 0 <= figures["held_out_ap"] <= 1
    early = json.loads((trained / "warmup" / "early_1.json").read_text())
    assert early["step"] == 2
    weights = [read_weights(trained / "warmup" / f"{name}.safetensors") for name in ("early_1", "last")]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not (trained / "resume" / "warmup").exists()


def test_a_student_learns_from_strong_and_weak_images(trained, shapes, tmp_path):
    figures = json.loads((trained / "retrain" / "metrics.json").read_text())
    assert (figures["n_strong"], figures["n_weak"]) == (2, 3)
    for name in ("warmup", "pseudo"):
        (tmp_path / name).symlink_to(trained / name)
    alone = train_student(shapes, tmp_path, alone=True)
    assert alone["n_weak"] == 0
    assert read_of(tmp_path) != read_of(trained)


def read_of(root):
    return (root / "retrain" / "last.safetensors").read_bytes()


def nonsense(shapes, path):
    """The true masks, but nonsense on every image that is not strong."""
    splits = split_shapes(shapes)
    rng = np.random.default_rng(0)
    with MaskStore.create(path, Provenance("nonsense", 1)) as writer:
        for image_id in shapes.truth.image_ids:
            rows = shapes.truth.instances(image_id)
            if image_id not in (*splits.labeled_train, *splits.labeled_val):
                rows = Instances.from_label_map(
                    rng.integers(0, len(rows) + 1, rows.size_hw), point_id=rows.point_id, points_xy=rows.points_xy,
                    radius_px=rows.radius_px, class_id=1 - rows.class_id, source="truth", status="ok",
                )  # fmt: skip
            writer.add(image_id, rows)
    return MaskStore.open(path)


def test_nonsense_for_the_weak_images_masks_changes_no_byte(shapes, trained, tmp_path):
    masks = nonsense(shapes, tmp_path / "nonsense")
    weak = split_shapes(shapes).unlabeled[0]
    assert not masks.instances(weak).equals(shapes.truth.instances(weak))
    options = OPTIONS
    # The record's digest of the store differs, so that a resumable state would; the weights must not.
    train_segmenter_teacher(
        shapes, split_shapes(shapes), masks, options=options, seed=0, place=place_below(tmp_path, "warmup")
    )
    write_pseudo(shapes, tmp_path)
    train_student(shapes, tmp_path, truth=masks)
    for stage in ("warmup", "pseudo", "retrain"):
        assert folder_bytes(tmp_path / stage) == folder_bytes(trained / stage)


def test_a_killed_training_ends_as_an_unbroken_one(shapes, trained, tmp_path):
    code = """
        import os, signal, sys
        from pathlib import Path
        import torch
        torch.set_num_threads(1)
        from pipeline.datasets.prepared import Prepared
        from pipeline.training import loop
        from tests.training.test_segmenter import train_teacher
        update, seen = loop.MeanTeacher.update, []
        def die_at_third(self, *args, **options):
            seen.append(1)
            if len(seen) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            update(self, *args, **options)
        loop.MeanTeacher.update = die_at_third
        train_teacher(Prepared.open(Path(sys.argv[1])), Path(sys.argv[2]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(shapes.folder), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "resume" / "warmup" / "state.pt").is_file()
    assert not (tmp_path / "warmup").exists()
    train_teacher(shapes, tmp_path)
    assert folder_bytes(tmp_path / "warmup") == folder_bytes(trained / "warmup")


def test_a_student_can_start_from_its_teacher(shapes, trained, tmp_path):
    for name in ("warmup", "pseudo"):
        (tmp_path / name).symlink_to(trained / name)
    train_student(shapes, tmp_path, start="teacher")
    assert read_of(tmp_path) != read_of(trained)
    other = replace(OPTIONS, network=replace(OPTIONS.network, fpn_width=16))
    with pytest.raises(PipelineError, match="another network than retrain.learn.network"):
        train_segmenter_student(
            shapes, split_shapes(shapes), shapes.truth, MaskStore.open(tmp_path / "pseudo"),
            tmp_path / "warmup" / "model.safetensors", options=StudentOptions(learn=other, start="teacher"), seed=0,
            place=place_below(tmp_path, "retrain"),
        )  # fmt: skip


def test_inputs_that_do_not_fit_are_named(shapes, trained, tmp_path):
    splits = split_shapes(shapes)
    with pytest.raises(PipelineError, match="no image in labeled_val"):
        train_segmenter_teacher(
            shapes, replace(splits, labeled_val=()), shapes.truth, options=OPTIONS, seed=0,
            place=place_below(tmp_path, "warmup"),
        )  # fmt: skip
    (tmp_path / "warmup").symlink_to(trained / "warmup")
    with MaskStore.create(tmp_path / "pseudo", Provenance("point_guided", 1)):
        pass
    with pytest.raises(PipelineError, match="has no weak image to learn from; .*retrain.weak: false"):
        train_student(shapes, tmp_path)
    foreign = replace(splits, unlabeled=splits.unlabeled[1:])
    with pytest.raises(PipelineError, match=f"1 images that are not weak training images .{splits.unlabeled[0]}"):
        train_segmenter_student(
            shapes, foreign, shapes.truth, MaskStore.open(trained / "pseudo"), tmp_path / "none",
            options=StudentOptions(learn=OPTIONS), seed=0, place=place_below(tmp_path, "retrain"),
        )  # fmt: skip
    assert not (tmp_path / "retrain").exists()


def test_shapes_are_learnt(tmp_path):
    """A minute at most: the teacher finds most of the large, plain shapes of unseen images."""
    scenes = SCENES.replace("images: 6", "images: 24")
    shapes = write_shapes(tmp_path, scenes)
    train = tuple(row.image_id for row in shapes.of_split("train"))
    splits = replace(split_shapes(shapes), labeled_train=train[:-3], labeled_val=train[-3:], unlabeled=())
    options = replace(OPTIONS, train=replace(OPTIONS.train, steps=150), early_fracs=(),
                      loop=replace(OPTIONS.loop, evaluate_every=150, checkpoint_every=150),
                      network=replace(OPTIONS.network, fpn_width=16, tower_width=16, kernel_dim=16, mask_width=16),
                      views=replace(OPTIONS.views, batch=4))  # fmt: skip
    figures = train_segmenter_teacher(
        shapes, splits, shapes.truth, options=options, seed=0, place=place_below(tmp_path, "warmup")
    )
    assert figures["held_out_ap_50"] > 0.2
