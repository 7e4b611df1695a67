"""Judging a store, against each row looked at by hand."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from pipeline.pseudo_labels.calibrated_thresholds import HeldOutRows
from pipeline.pseudo_labels.judging import (
    CORRECTIONS_FILE,
    MASKS_FOLDER,
    THRESHOLDS_FILE,
    JudgeOptions,
    judge_image,
    judge_store,
    learn_limits,
    read_thresholds,
)
from pipeline.pseudo_labels.quality import Limits, QualityOptions
from pipeline.pseudo_labels.second_opinion import SecondOpinions, write_second_opinions
from tests.pseudo_labels.rows_by_hand import boxes

NAMES = ("disc", "star")
FIXED = QualityOptions(thresholds="fixed", class_thr=0.5, mask_thr=0.8, margin=0.1)


def three_rows() -> Instances:
    """Give one row that is kept, one whose class is in doubt, one to drop."""
    return boxes(
        [(0, 0, 6, 6), (8, 0, 14, 6), (16, 0, 22, 6)], class_id=[0, 0, 1], class_score=[0.9, 0.45, 0.2],
        mask_quality=[0.9, 0.9, 0.9], score=[0.8, 0.4, 0.18], nms_decay=[1.0, 1.0, 1.0],
        class_probs=[[0.9, 0.1], [0.45, 0.4], [0.1, 0.2]],
    )  # fmt: skip


def write_store(path: Path) -> MaskStore:
    with MaskStore.create(path, Provenance("solov2", 1)) as writer:
        writer.add("train/a", three_rows())
        writer.add("train/b", boxes([]))
    return MaskStore.open(path)


def test_off_changes_nothing(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    yields = judge_store(store, tmp_path / "out", options=JudgeOptions(), limits=None, n_strata=2, names=NAMES)
    judged = MaskStore.open(tmp_path / "out" / MASKS_FOLDER)
    assert judged.instances("train/a").equals(store.instances("train/a"))
    assert judged.image_ids == store.image_ids
    assert yields.tolist() == [[0, 0, 2], [0, 0, 1]]


@pytest.mark.parametrize(("dropped", "left"), [("remove", [0, 1]), ("ignore", [0, 1, 2])])
def test_rows_are_kept_doubted_and_dropped(tmp_path: Path, dropped: str, left: list[int]) -> None:
    store = write_store(tmp_path / "store")
    options = JudgeOptions(quality=FIXED, dropped=dropped)  # type: ignore[arg-type]
    limits = learn_limits(FIXED, store, None, [1, 1], names=NAMES)
    yields = judge_store(store, tmp_path / "out", options=options, limits=limits, n_strata=2, names=NAMES)
    rows = MaskStore.open(tmp_path / "out" / MASKS_FOLDER).instances("train/a")
    assert rows.point_id.tolist() == left
    assert rows.status.tolist() == ["ok", *["ambiguous"] * (len(left) - 1)]
    assert yields.tolist() == [[0, 1, 1], [1, 0, 0]]


def test_thresholds_are_written_and_read_back(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    limits = learn_limits(FIXED, store, None, [1, 1], names=NAMES)
    judge_store(store, tmp_path, options=JudgeOptions(quality=FIXED), limits=limits, n_strata=2, names=NAMES)
    assert read_thresholds(tmp_path / THRESHOLDS_FILE) == (FIXED, limits)
    assert json.loads((tmp_path / THRESHOLDS_FILE).read_text())["strata"] == list(NAMES)


def test_thresholds_that_are_none_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="run the stage judge first"):
        read_thresholds(tmp_path / THRESHOLDS_FILE)


def test_the_second_opinion_changes_classes_and_the_old_ones_are_written(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    probs = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    write_second_opinions(
        tmp_path / "second.parquet", iter([("train/a", np.arange(3), probs)]), name="prototypes", n_classes=2
    )
    limits = Limits.fixed(FIXED, 2)
    options = JudgeOptions(quality=FIXED, correct=True)
    judge_store(
        store, tmp_path, options=options, limits=limits, n_strata=2, names=NAMES,
        opinions=SecondOpinions.open(tmp_path / "second.parquet"),
    )  # fmt: skip
    rows = MaskStore.open(tmp_path / MASKS_FOLDER).instances("train/a")
    assert rows.class_id.tolist() == [0, 1]  # ½·(0, 1) + ½·(0.45, 0.4) / 0.85 is star
    [change] = pq.read_table(tmp_path / CORRECTIONS_FILE).to_pylist()
    assert (change["image_id"], change["point_id"], change["old_class_id"]) == ("train/a", 1, 0)
    assert change["old_class_score"] == pytest.approx(0.45)


@pytest.mark.parametrize(("promote_prob", "status"), [(0.7, "ok"), (0.8, "ambiguous"), (1.0, "ambiguous")])
def test_a_doubted_row_is_kept_once_its_class_is_sure(promote_prob: float, status: str) -> None:
    second = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    options = JudgeOptions(quality=FIXED, correct=True, promote_prob=promote_prob)
    found = judge_image(three_rows(), options=options, limits=Limits.fixed(FIXED, 2), second_probs=second)
    assert found.rows.class_score[1] == pytest.approx(0.5 + 0.5 * 0.4 / 0.85)  # 0.735
    assert found.rows.status.tolist() == ["ok", status]


def test_no_row_of_a_doubtful_mask_is_promoted() -> None:
    rows = three_rows()
    rows.mask_quality[1] = 0.75
    options = JudgeOptions(quality=FIXED, correct=True, promote_prob=0.5)
    second = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    found = judge_image(rows, options=options, limits=Limits.fixed(FIXED, 2), second_probs=second)
    assert found.rows.status.tolist() == ["ok", "ambiguous"]


def test_calibrated_needs_held_out_images(tmp_path: Path) -> None:
    options = QualityOptions(thresholds="calibrated")
    with pytest.raises(PipelineError, match="held_out_frac"):
        learn_limits(options, write_store(tmp_path / "store"), None, [1, 1], names=NAMES)


def test_calibrated_learns_from_them(tmp_path: Path) -> None:
    options = QualityOptions(thresholds="calibrated", class_wanted=0.9, mask_wanted=0.7, calibration_rows=1)
    held_out = HeldOutRows(
        np.float32([0.2, 0.4, 0.6, 0.8]), np.float32([0.5, 0.6, 0.7, 0.9]), np.zeros(4, np.int64),
        np.array([0.1, 0.6, 0.7, 0.9]), np.array([False, False, True, True]), np.ones(4, dtype=bool),
    )  # fmt: skip
    limits = learn_limits(options, write_store(tmp_path / "store"), held_out, [3, 1], names=NAMES)
    assert limits is not None
    assert limits.class_thr == pytest.approx((0.6, 0.6))
    assert limits.mask_thr == pytest.approx((0.7, 0.7))


def test_adaptive_follows_the_strata_of_the_rows(tmp_path: Path) -> None:
    options = QualityOptions(
        thresholds="adaptive", alpha=0.0, foreground_thr=0.3, class_thr_min=0.0, class_thr_max=1.0, mask_thr_min=0.0,
        mask_thr_max=1.0,
    )  # fmt: skip
    limits = learn_limits(
        options, write_store(tmp_path / "store"), None, [1, 1], names=NAMES,
        stratum_of=lambda rows: 1 - rows.class_id,
    )  # fmt: skip
    assert limits is not None
    assert limits.class_thr == pytest.approx((1.0, (0.9 + 0.45) / 2))


@pytest.mark.parametrize("name", ["progress", "promote_prob"])
def test_shares_are_between_0_and_1(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected a number from 0 to 1"):
        JudgeOptions(**{name: 1.5})
