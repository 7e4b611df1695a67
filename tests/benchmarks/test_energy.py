import numpy as np
import torch

from benchmarks.energy import full_frame_label_map, one_core_rows, upsample_and_blur
from pipeline.geometry.nnec import nnec_radii
from pipeline.pseudo_labels.energy import energy_label_map


def test_the_full_frame_loop_draws_the_same_masks() -> None:
    rng = np.random.default_rng(0)
    points_xy = rng.uniform((0, 0), (47, 31), (12, 2))
    points_xy = points_xy[np.lexsort(points_xy.T)]
    noise = torch.randn(4, 8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    embedding = torch.nn.functional.normalize(noise + 1, dim=0)
    radius_px = nnec_radii(points_xy, size_hw=(32, 48), max_radius_frac=0.5).radius_px
    field = upsample_and_blur(embedding, blur_sigma=1.5)
    plain = full_frame_label_map(field, points_xy, radius_px, np.arange(12))
    assert len(plain.unique()) > 8
    torch.testing.assert_close(energy_label_map(embedding, points_xy), plain)
    assert set(full_frame_label_map(field, points_xy, radius_px, np.array([3, 5])).unique().tolist()) == {0, 4, 6}


def test_a_small_run_gives_its_row() -> None:
    (row,) = one_core_rows(0.005)
    assert row.work == "5 points, 56 × 72 × 16, one core"
    assert row.reference == "full frame per point (5 points, extrapolated)"
    assert row.met == (row.ours <= 0.5)
