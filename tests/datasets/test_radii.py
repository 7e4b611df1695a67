from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.datasets.jhu_crowd import JhuCrowdReader
from pipeline.datasets.prepare import prepare_dataset
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.radii import ImageRadii, compute_radii, read_radii, write_radii
from pipeline.errors import PipelineError
from pipeline.geometry.nnec import NnecOptions, nnec_radii
from tests.datasets.fake_layouts import POINTS, SIZE_HW, write_jhu


def circles(image_id: str, points_xy: np.ndarray) -> ImageRadii:
    return ImageRadii(image_id, nnec_radii(points_xy, size_hw=(100, 100)))


def test_round_trip_in_any_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [
        circles(name, rng.uniform(0, 100, (count, 2))) for name, count in (("b", 5), ("a", 40), ("c", 0), ("d", 1))
    ]
    summary = write_radii(tmp_path / "one.parquet", images)
    write_radii(tmp_path / "two.parquet", reversed(images))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    radii = read_radii(tmp_path / "one.parquet")
    assert len(radii) == 46
    for image in images:
        assert np.array_equal(radii.of(image.image_id), image.circles.radius_px)
    assert radii.of("unknown").shape == (0,)
    assert (summary.n_images, summary.n_points, summary.flagged["alone"]) == (4, 46, 1)
    assert summary.median_radius_px == np.median(np.concatenate([image.circles.radius_px for image in images]))


def test_columns(tmp_path: Path) -> None:
    points_xy = np.array([[10.0, 10], [10, 10], [13, 14], [200, 5]])
    image = ImageRadii("x", nnec_radii(points_xy, size_hw=(100, 100)), np.array([4.0, np.nan, 6.0, 7.0]))
    write_radii(tmp_path / "radii.parquet", [image])
    assert pq.read_table(tmp_path / "radii.parquet").to_pydict() == {
        "image_id": ["x"] * 4,
        "point_id": [0, 1, 2, 3],
        "radius_px": [5.0, 5.0, 5.0, 25.0],
        "neighbor_id": [2, 2, image.circles.neighbor_id[2], 2],
        "flags": ["duplicate", "duplicate", "", "outside|max_radius"],
        "box_radius_px": [4.0, None, 6.0, 7.0],
    }


def test_a_data_set_without_points(tmp_path: Path) -> None:
    summary = write_radii(tmp_path / "radii.parquet", [circles("a", np.zeros((0, 2)))])
    assert np.isnan(summary.median_radius_px)
    assert read_radii(tmp_path / "radii.parquet").of("a").shape == (0,)


def test_more_circles_than_a_row_group(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images = [circles(f"{k}", rng.uniform(0, 100, (40_000, 2))) for k in range(3)]
    write_radii(tmp_path / "radii.parquet", images)
    radii = read_radii(tmp_path / "radii.parquet")
    for image in images:
        assert np.array_equal(radii.of(image.image_id), image.circles.radius_px)


def test_of_a_prepared_data_set(tmp_path: Path) -> None:
    write_jhu(tmp_path / "raw")
    prepare_dataset(JhuCrowdReader(), tmp_path / "raw", tmp_path / "prepared", tmp_path, workers=1)
    images = compute_radii(Prepared.open(tmp_path / "prepared"), NnecOptions(max_radius_frac=0.5))
    assert [len(image.circles) for image in images] == [3, 0] * 3
    expected = nnec_radii(POINTS, size_hw=SIZE_HW, max_radius_frac=0.5)
    assert np.array_equal(images[0].circles.radius_px, expected.radius_px)
    assert images[0].box_radius_px is not None
    np.testing.assert_array_equal(images[0].box_radius_px, [8, 5, np.nan])


def test_a_missing_table_is_explained(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"radii\.parquet: no such file; run python -m stages\.nnec first"):
        read_radii(tmp_path / "radii.parquet")
    (tmp_path / "radii.parquet").write_bytes(b"PAR1")
    with pytest.raises(PipelineError, match=r"radii\.parquet: not a readable Parquet file"):
        read_radii(tmp_path / "radii.parquet")
