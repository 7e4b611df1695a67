import numpy as np
import torch

from benchmarks.point_lookup import CLASSES, loop_lookup, one_core_rows, output_of_discs
from pipeline.pseudo_labels.point_guided import point_guided


def test_the_loop_finds_the_same_masks() -> None:
    rng = np.random.default_rng(1)
    points_xy, class_id = rng.uniform(0, 127, (60, 2)), rng.integers(0, CLASSES, 60)
    output = output_of_discs(128, 8)
    found = point_guided(output, points_xy, class_id, size_hw=(128, 128), padded_hw=(128, 128))
    levels, masks = zip(*loop_lookup(output, points_xy, class_id, 128), strict=True)
    assert found.level.tolist() == list(levels)
    assert len(set(levels)) > 1
    assert ((found.masks_prob() > 0.5) != torch.stack(masks)).float().mean() < 1e-4
    assert "ok" in found.status


def test_a_small_run_gives_its_row() -> None:
    (row,) = one_core_rows(0.001)
    assert row.work == "50 points, 640 × 640 px, 64-d kernels, grids 80 to 12"
    assert row.met == (row.ratio <= 0.5)
    assert row.notes["added_memory_mib"] >= 0
