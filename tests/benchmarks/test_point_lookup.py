import numpy as np
import torch

from benchmarks.point_lookup import CLASSES, loop_duplicates, loop_lookup, one_core_rows, output_of_discs
from pipeline.pseudo_labels.point_guided import point_guided


def test_the_loop_finds_the_same_masks() -> None:
    rng = np.random.default_rng(1)
    points_xy, class_id = rng.uniform(0, 127, (60, 2)), rng.integers(0, CLASSES, 60)
    output = output_of_discs(128, 8)
    found = point_guided(output, points_xy, class_id, size_hw=(128, 128), padded_hw=(128, 128))
    levels, masks, scores = zip(*loop_lookup(output, points_xy, class_id, 128), strict=True)
    assert found.level.tolist() == list(levels)
    assert len(set(levels)) > 1
    assert ((found.masks_prob() > 0.5) != torch.stack(masks)).float().mean() < 1e-4
    np.testing.assert_allclose(scores, found.score, rtol=1e-4)


def test_the_loop_finds_the_same_duplicates() -> None:
    rng = np.random.default_rng(1)
    points_xy, class_id = rng.uniform(0, 127, (300, 2)), rng.integers(0, CLASSES, 300)
    output, any_area = output_of_discs(128, 8), (0, 0, 0, 0, 0)
    found = point_guided(output, points_xy, class_id, size_hw=(128, 128), padded_hw=(128, 128), min_area=any_area)
    rows = np.flatnonzero(np.isin(found.status, ("ok", "duplicate")))
    masks = list(found.masks_prob(torch.from_numpy(rows)) > 0.5)
    duplicate = loop_duplicates(masks, found.score[rows].tolist())
    assert duplicate == (found.status[rows] == "duplicate").tolist()
    assert 0 < sum(duplicate) < len(rows)


def test_a_small_run_gives_its_row() -> None:
    (row,) = one_core_rows(0.001)
    assert row.work == "50 points, 640 × 640 px, 64-d kernels, grids 80 to 12"
    assert row.met == (row.ratio <= 0.5)
    assert row.notes["added_memory_mib"] >= 0
    assert row.notes["masks_compared"] == 50
    assert row.theirs == row.notes["reference_points_s"] + row.notes["reference_pairs_s"]
