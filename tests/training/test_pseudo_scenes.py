"""Pseudo-labels as training sees them: as the teacher gave them, and judged."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.schema import Provenance
from pipeline.masks.soft_format import SoftMask, encode_soft
from pipeline.masks.store import MaskStore
from pipeline.training.judge_crowd import CrowdJudgeOptions, crowd_quality, judge_crowd
from pipeline.training.pseudo_scenes import (
    cell_weights,
    head_prob,
    ignored_pixels,
    is_judged,
    pseudo_labeled_scenes,
    require_soft_masks,
)


def two_people(status: list[str], *, radius_px: float = 12.0, size_hw: tuple[int, int] = (30, 34)) -> Instances:
    """A head at (8, 8) with a mask of 4 × 4 px, and one at (20, 8) with one of 10 × 6 px."""
    labels = np.zeros(size_hw, dtype=np.int32)
    labels[6:10, 6:10], labels[5:11, 14:24] = 1, 2
    return Instances.from_label_map(
        labels, point_id=[0, 1], points_xy=np.array([[8.0, 8.0], [20.0, 8.0]]), radius_px=[radius_px] * 2,
        score=[0.6, 0.95], source="energy", status=status,
    )  # fmt: skip


def plain_ignored(rows: Instances) -> np.ndarray:
    """The definition, pixel by pixel."""
    labels = rows.label_map()
    expected = np.zeros(rows.size_hw, dtype=bool)
    for y, x in np.ndindex(*rows.size_hw):
        if labels[y, x] and rows.status[labels[y, x] - 1] == "ok":
            continue
        for k in np.flatnonzero(rows.status != "ok"):
            reach = min(max(rows.radius_px[k] / 2, 4.0), 16.0)
            near = (x - rows.points_xy[k, 0]) ** 2 + (y - rows.points_xy[k, 1]) ** 2 <= reach**2
            expected[y, x] |= near or labels[y, x] == k + 1
    return expected


@pytest.mark.parametrize("status", [["ok", "ambiguous"], ["ambiguous", "ok"], ["ok", "ok"], ["empty", "ambiguous"]])
@pytest.mark.parametrize("radius_px", [3.0, 26.0, 90.0])
def test_ignored_is_where_rows_lie_that_were_not_kept(status: list[str], radius_px: float) -> None:
    rows = two_people(status, radius_px=radius_px)
    found = ignored_pixels(rows, rows.label_map())
    np.testing.assert_array_equal(found, plain_ignored(rows))
    assert found.any() == (status != ["ok", "ok"])


def test_judging_has_the_last_word_on_who_is_a_head() -> None:
    rows = two_people(["ok", "ambiguous"])
    np.testing.assert_allclose(head_prob(rows, judged=False), [0.6, 0.95], rtol=1e-6)
    assert head_prob(rows, judged=True).tolist() == [math.inf, 0.0]


def test_cells_weigh_as_much_as_the_teacher_is_sure() -> None:
    rows = two_people(["ok", "ok"])
    soft = [
        SoftMask(np.array([[1.0, 0.75]], np.float32), 1, 1),
        SoftMask(np.array([[0.5, 0.9, 0.2]], np.float32), 2, 1),
    ]
    weights = cell_weights(replace(rows, prob_q8=[encode_soft(each) for each in soft]))
    expected = np.ones((8, 9))
    # Cell (1, 2) is 0.75 to the first and 0.5 to the second: the likelier one tells.
    expected[1, 1:5] = [1.0, 0.5, 0.8, 0.6]
    np.testing.assert_allclose(weights, expected, atol=2 / 255)


def test_weights_need_soft_masks(tmp_path: Path) -> None:
    with MaskStore.create(tmp_path / "store", Provenance("energy", 1, {}, None)) as writer:
        writer.add("a", two_people(["ok", "ok"]))
    message = r"prob_q8: 2 of 2 rows have no soft mask, as retrain.unlabeled.pixel_weights: uncertainty needs; run the "
    with pytest.raises(PipelineError, match=message + "pseudo_label stage again with keep_prob: true"):
        require_soft_masks(MaskStore.open(tmp_path / "store"))


def test_scenes_take_the_teachers_word(finished_run) -> None:
    store = MaskStore.open(finished_run.root / "pseudo_label")
    source = pseudo_labeled_scenes(finished_run.prepared, store, cache_mib=1)
    assert source.image_ids == finished_run.splits.unlabeled
    rows = store.instances(source.image_ids[0])
    np.testing.assert_array_equal(source[0].points_xy, rows.points_xy)
    np.testing.assert_array_equal(source[0].point_prob, rows.score)
    assert source[0].ignored is source[0].cell_weights is None


@pytest.mark.parametrize("thresholds", ["off", "fixed"])
def test_scenes_of_a_judged_store(finished_run, tmp_path: Path, thresholds: str) -> None:
    store = MaskStore.open(finished_run.root / "pseudo_label")
    scores = np.concatenate([store.instances(image_id).score for image_id in store.image_ids])
    quality = replace(crowd_quality(), thresholds=thresholds, class_thr=float(np.median(scores)), mask_thr=0.0)
    judge_crowd(
        finished_run.prepared, store, store, finished_run.masks, labeled=[],
        options=CrowdJudgeOptions(quality=quality), out=tmp_path / "judged",
    )  # fmt: skip
    judged = MaskStore.open(tmp_path / "judged" / "masks")
    assert is_judged(judged) == (thresholds == "fixed")
    assert not is_judged(store)
    before, after = (pseudo_labeled_scenes(finished_run.prepared, each, cache_mib=1) for each in (store, judged))
    changed = 0
    for position in range(len(before)):
        one, two = before[position], after[position]
        np.testing.assert_array_equal(one.points_xy, two.points_xy)
        np.testing.assert_array_equal(one.label_map, two.label_map)
        if thresholds == "off":
            np.testing.assert_array_equal(one.point_prob, two.point_prob)
            assert two.ignored is None
        else:
            assert two.ignored is not None
            assert set(two.point_prob.tolist()) <= {0.0, math.inf}
            assert two.n_bytes == one.n_bytes + two.ignored.nbytes
            changed += int((two.point_prob == 0).sum())
    assert changed > 0 or thresholds == "off"
