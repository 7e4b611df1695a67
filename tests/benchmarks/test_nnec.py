import numpy as np

from benchmarks.nnec import bare_query, crowd_counts, measure
from pipeline.geometry.nnec import nnec_radii


def test_the_reference_is_the_same_distance() -> None:
    points_xy = np.random.default_rng(0).uniform(0, 1000, (200, 2))
    radii = nnec_radii(points_xy, size_hw=(1000, 1000), min_radius_px=1e-9, max_radius_frac=1.0).radius_px
    np.testing.assert_allclose(bare_query(points_xy), radii)


def test_images_share_all_points() -> None:
    counts = crowd_counts(np.random.default_rng(0), 50, 10_000)
    assert counts.sum() == 10_000
    assert counts.max() > 5 * np.median(counts)


def test_a_small_run_gives_its_row() -> None:
    (row,) = measure(scale=0.001)
    assert row.work == "1,500 points in 4 images"
    assert row.met == (row.ratio <= 1.3)
