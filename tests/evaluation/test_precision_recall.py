"""Precision and recall of masks taken as they are, on boxes counted by hand."""

import math
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.evaluation.precision_recall import precision_recall
from pipeline.masks.instances import Instances
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from tests.pseudo_labels.rows_by_hand import boxes

NAMES = ("disc", "star", "never")


def store(path: Path, rows: Instances) -> MaskStore:
    with MaskStore.create(path, Provenance("by hand", 1)) as writer:
        writer.add("a", rows)
    return MaskStore.open(path)


def compare(tmp_path: Path, rows: Instances, true: Instances):
    return precision_recall(store(tmp_path / "rows", rows), store(tmp_path / "true", true), ["a"], class_names=NAMES)


TRUE = boxes([(0, 0, 8, 8), (10, 0, 18, 8), (20, 0, 28, 8)], class_id=[0, 0, 1], source="truth")


def test_right_rows_are_of_the_class_and_meet_by_half(tmp_path: Path) -> None:
    rows = boxes(
        [(0, 0, 8, 8), (10, 0, 18, 4), (20, 0, 28, 8), (20, 0, 28, 8), (0, 12, 8, 20)],
        class_id=[0, 0, 0, 1, 1], score=[0.9, 0.8, 0.7, 0.6, 0.5],
    )  # fmt: skip
    found = compare(tmp_path, rows, TRUE)  # right, right (IoU ½), wrong class, right, nothing there
    assert (found.n_right.tolist(), found.n_found.tolist(), found.n_true.tolist()) == ([2, 1, 0], [3, 2, 0], [2, 1, 0])
    assert found.precision == pytest.approx(3 / 5)
    assert found.recall == 1.0
    assert found.mean_class_precision == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.metrics("p")["p_mean_class_recall"] == 1.0


def test_one_true_instance_makes_one_row_right(tmp_path: Path) -> None:
    rows = boxes([(0, 0, 8, 8), (0, 0, 8, 8)], class_id=[0, 0], score=[0.9, 0.8])
    found = compare(tmp_path, rows, TRUE)
    assert found.n_right.tolist() == [1, 0, 0]
    assert found.recall == pytest.approx(1 / 3)


def test_less_than_half_is_not_met(tmp_path: Path) -> None:
    rows = boxes([(0, 0, 8, 3), (10, 0, 18, 4)], class_id=[0, 0])  # IoU 3/8 and 1/2
    assert compare(tmp_path, rows, TRUE).n_right.tolist() == [1, 0, 0]


def test_the_surer_row_chooses_first(tmp_path: Path) -> None:
    """What it leaves may be too little for the other, though both could have been right."""
    true = boxes([(0, 0, 8, 8), (2, 0, 10, 8)], class_id=[0, 0], source="truth")
    between = [(2, 0, 10, 8), (4, 0, 12, 8)]  # the first meets both by more than a half, the second the right one alone
    for score, right in (([0.9, 0.8], 1), ([0.8, 0.9], 2)):
        folder = tmp_path / str(right)
        folder.mkdir()
        found = compare(folder, boxes(between, class_id=[0, 0], score=score), true)
        assert found.n_right.tolist() == [right, 0, 0], score


def test_a_row_takes_the_instance_it_meets_most(tmp_path: Path) -> None:
    true = boxes([(0, 0, 8, 8), (2, 0, 10, 8)], class_id=[0, 0], source="truth")
    rows = boxes([(2, 0, 10, 8), (0, 0, 8, 8)], class_id=[0, 0], score=[0.9, 0.8])
    assert compare(tmp_path, rows, true).precision == 1.0


def test_rows_that_are_not_ok_and_regions_do_not_count(tmp_path: Path) -> None:
    rows = boxes([(0, 0, 8, 8), (10, 0, 18, 8)], class_id=[0, 0], status=["ambiguous", "ok"])
    true = boxes([(0, 0, 8, 8), (10, 0, 18, 8)], class_id=[0, 0], status=["ambiguous", "ok"], source="truth")
    found = compare(tmp_path, rows, true)
    assert (found.precision, found.recall) == (1.0, 1.0)


def test_nothing_found_has_no_precision(tmp_path: Path) -> None:
    found = compare(tmp_path, boxes([]), TRUE)
    assert math.isnan(found.precision)
    assert found.metrics("p") == {
        "p_precision": None, "p_recall": 0.0, "p_mean_class_precision": 0.0, "p_mean_class_recall": 0.0,
    }  # fmt: skip


def test_classes_and_sizes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="a has a row of class 3, expected 0 to 2"):
        compare(tmp_path / "1", boxes([(0, 0, 4, 4)], class_id=[3]), TRUE)
    with pytest.raises(PipelineError, match=r"a is \(8, 8\) pixels"):
        compare(tmp_path / "2", boxes([(0, 0, 4, 4)], size_hw=(8, 8)), TRUE)
