"""Judging the pseudo-labels of a data set, on stores written by hand."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.csv as pa_csv
import pytest

from pipeline.errors import PipelineError
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from pipeline.pseudo_labels.judging import JudgeOptions, compare_held_out
from pipeline.pseudo_labels.quality import QualityOptions
from pipeline.training.judge_segments import judge_segments, label_counts
from tests.training.shapes_home import split_shapes, write_shapes

ALWAYS = {"score": 1.0, "mask_quality": 0.9, "nms_decay": 1.0}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"))


def as_teacher(rows, class_score):
    """Give true rows as if a teacher had seen them."""
    n = len(rows)
    return replace(
        rows, class_score=np.full(n, class_score, np.float32), mask_quality=np.full(n, 0.9, np.float32),
        nms_decay=np.ones(n, np.float32), source=np.full(n, "solov2"),
    )  # fmt: skip


def write(shapes, path, image_ids, class_score):
    with MaskStore.create(path, Provenance("solov2_detections", 1)) as writer:
        for image_id in sorted(image_ids):
            writer.add(image_id, as_teacher(shapes.truth.instances(image_id), class_score))
    return MaskStore.open(path)


def judge(shapes, tmp_path, quality, class_score=0.5, held_out_score=0.5):
    splits = split_shapes(shapes)
    return judge_segments(
        shapes, splits, shapes.truth, write(shapes, tmp_path / "pseudo", splits.unlabeled, class_score),
        write(shapes, tmp_path / "held_out", splits.labeled_val, held_out_score), tmp_path / "second_opinion.parquet",
        options=JudgeOptions(quality=quality), out=tmp_path / "judged",
    ).rows  # fmt: skip


def test_labels_are_counted_by_class(shapes):
    ids = split_shapes(shapes).labeled_train
    rows = [shapes.truth.instances(image_id).class_id.tolist() for image_id in ids]
    assert label_counts(shapes.truth, ids, n_classes=2) == [sum(one.count(k) for one in rows) for k in (0, 1)]


def test_held_out_rows_are_compared_with_their_masks(shapes, tmp_path):
    splits = split_shapes(shapes)
    store = write(shapes, tmp_path / "held_out", splits.labeled_val, 0.5)
    found = compare_held_out(store, shapes.truth, splits.labeled_val, options=QualityOptions())
    assert found is not None
    assert len(found) == len(shapes.truth.instances(splits.labeled_val[0]))
    assert (found.iou == 1.0).all()
    assert compare_held_out(store, shapes.truth, (), options=QualityOptions()) is None


def test_rows_of_all_held_out_images_are_compared(shapes, tmp_path):
    ids = sorted(shapes.truth.image_ids)[:3]
    found = compare_held_out(write(shapes, tmp_path / "rows", ids, 0.5), shapes.truth, ids, options=QualityOptions())
    assert found is not None
    assert len(found) == sum(shapes.truth.n_instances(image_id) for image_id in ids)


def test_rows_without_scores_are_compared_only_where_thresholds_ask(shapes):
    ids = split_shapes(shapes).labeled_val
    assert compare_held_out(shapes.truth, shapes.truth, ids, options=QualityOptions(thresholds="off")) is None
    with pytest.raises(PipelineError, match="class_score: .* rows have none"):
        compare_held_out(shapes.truth, shapes.truth, ids, options=QualityOptions(thresholds="single"))


def test_thresholds_sort_rows_and_are_written_with_their_plots(shapes, tmp_path):
    yields = judge(shapes, tmp_path, QualityOptions(thresholds="fixed", class_thr=(0.4, 0.6), mask_thr=0.8))
    truth = [shapes.truth.instances(image_id) for image_id in split_shapes(shapes).unlabeled]
    n_square, n_disc = (sum(int((rows.class_id == k).sum()) for rows in truth) for k in (0, 1))
    assert yields.tolist() == [[0, 0, n_square], [0, n_disc, 0]]
    names = {path.name for path in (tmp_path / "judged").iterdir()}
    assert names == {
        "masks", "thresholds.json", "corrections.parquet", "quality.html", "plane.csv", "class_reliability.csv",
        "mask_reliability.csv", "yield.csv",
    }  # fmt: skip
    plane = pa_csv.read_csv(tmp_path / "judged" / "plane.csv")
    assert len(plane) == len(shapes.truth.instances(split_shapes(shapes).labeled_val[0]))
    found = json.loads((tmp_path / "judged" / "thresholds.json").read_text())
    assert found["limits"]["class_thr"] == [0.4, 0.6]
    assert found["strata"] == ["square", "disc"]


@pytest.mark.parametrize("thresholds", ["off", "single", "calibrated", "adaptive"])
def test_every_kind_of_threshold_makes_a_page(shapes, tmp_path, thresholds):
    quality = QualityOptions(thresholds=thresholds, score_thr=0.3, calibration_rows=1, class_wanted=0.5)
    yields = judge(shapes, tmp_path, quality)
    assert yields.sum() == sum(len(shapes.truth.instances(one)) for one in split_shapes(shapes).unlabeled)
    assert thresholds in (tmp_path / "judged" / "quality.html").read_text()


def test_calibrated_thresholds_come_from_the_held_out_images(shapes, tmp_path):
    quality = QualityOptions(thresholds="calibrated", calibration_rows=1, class_wanted=0.5, mask_wanted=0.5)
    kept = judge(shapes, tmp_path / "1", quality, class_score=0.5, held_out_score=0.5)
    assert kept[:, 2].sum() == kept.sum()
    kept = judge(
        shapes, tmp_path / "2", quality, class_score=0.5, held_out_score=0.6
    )  # as low was never seen to be right
    assert kept[:, 2].sum() == 0


def test_a_correction_without_a_second_opinion_says_what_to_do(shapes, tmp_path):
    splits = split_shapes(shapes)
    store = write(shapes, tmp_path / "pseudo", splits.unlabeled, 0.5)
    with pytest.raises(PipelineError, match=r"second_opinion.parquet: does not exist.*pseudo_label.opinion"):
        judge_segments(
            shapes, splits, shapes.truth, store, None, tmp_path / "second_opinion.parquet",
            options=JudgeOptions(correct=True), out=tmp_path / "judged",
        )  # fmt: skip
    assert not (tmp_path / "judged").exists()


def test_classes_without_a_label_cannot_be_learnt_from(shapes, tmp_path):
    splits = replace(split_shapes(shapes), labeled_train=(), labeled_val=())
    store = write(shapes, tmp_path / "pseudo", splits.unlabeled, 0.5)
    options = JudgeOptions(quality=QualityOptions(thresholds="adaptive"))
    with pytest.raises(PipelineError, match="classes have none"):
        judge_segments(
            shapes, splits, shapes.truth, store, None, tmp_path / "none", options=options, out=tmp_path / "judged"
        )
