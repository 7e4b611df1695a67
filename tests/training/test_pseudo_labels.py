import json
from dataclasses import replace

import pytest

from pipeline.errors import PipelineError
from pipeline.masks.store import MaskStore
from pipeline.training.pseudo_labels import write_pseudo_labels
from tests.training.conftest import CPU, MODEL, PSEUDO, folder_bytes


def test_every_unlabelled_training_image_is_there_and_no_other(finished_run):
    store = MaskStore.open(finished_run.root / "pseudo_label")
    assert tuple(store.image_ids) == finished_run.splits.unlabeled
    assert store.provenance.algorithm == "energy"
    assert store.provenance.params["energy"]["tau"] == PSEUDO.energy.tau
    lines = [json.loads(line) for line in (finished_run.root / "logs" / "pseudo_label.jsonl").read_text().splitlines()]
    assert [line["image_id"] for line in lines] == store.image_ids
    assert lines[0]["candidates"] > 0
    assert [line["candidates"] for line in lines] == [store.n_instances(image_id) for image_id in store.image_ids]


def test_the_same_teacher_gives_the_same_bytes(finished_run, tmp_path):
    write_pseudo_labels(
        finished_run.prepared,
        finished_run.splits.unlabeled[::-1],
        finished_run.teacher,
        model=MODEL,
        options=PSEUDO,
        out=tmp_path / "again",
        log=tmp_path / "log.jsonl",
        device=CPU,
    )
    assert folder_bytes(tmp_path / "again") == folder_bytes(finished_run.root / "pseudo_label")


@pytest.mark.parametrize("splits", [("train",), ("train", "val")])
def test_test_images_are_refused(finished_run, tmp_path, splits):
    with pytest.raises(PipelineError, match="training images only, but test/00"):
        write_pseudo_labels(
            finished_run.prepared,
            ["test/00"],
            finished_run.teacher,
            model=MODEL,
            options=PSEUDO,
            out=tmp_path / "again",
            log=tmp_path / "log.jsonl",
            device=CPU,
            splits=splits,
        )
    assert not list(tmp_path.iterdir())


def test_soft_masks_are_kept_on_demand(finished_run, tmp_path):
    write_pseudo_labels(
        finished_run.prepared,
        finished_run.splits.unlabeled,
        finished_run.teacher,
        model=MODEL,
        options=replace(PSEUDO, keep_prob=True),
        out=tmp_path / "soft",
        log=tmp_path / "log.jsonl",
        device=CPU,
    )
    kept, plain = MaskStore.open(tmp_path / "soft"), MaskStore.open(finished_run.root / "pseudo_label")
    for image_id in plain.image_ids:
        rows = kept.instances(image_id)
        assert [blob is not None for blob in rows.prob_q8] == (rows.area_px > 0).tolist()
        assert replace(rows, prob_q8=None).equals(plain.instances(image_id))
        assert (rows.class_score == rows.score).all()
