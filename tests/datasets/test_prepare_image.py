from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.base import RawEntry, RawImage
from pipeline.datasets.flags import PointFlag, flag_names
from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepare_image import prepare_image
from pipeline.datasets.shanghaitech import ShanghaiTechBReader
from pipeline.errors import PipelineError
from pipeline.geometry.nnec import nnec_radii
from tests.datasets.fake_layouts import SIZE_HW, write_shanghaitech
from tests.datasets.fake_reader import RenderingReader


class Rereading(RenderingReader):
    """Changes what the reader gives."""

    def __init__(self, **change: object) -> None:
        super().__init__()
        object.__setattr__(self, "change", change)

    def read(self, entry: RawEntry) -> RawImage:
        return replace(super().read(entry), **self.change)  # type: ignore[attr-defined]


ENTRY = RawEntry("train/0003", "train", payload=3)


def test_an_image_file_is_checked_and_not_copied(tmp_path: Path) -> None:
    points_xy = np.array([[1.0, 1], [-3, 2], [5, 5], [1, 1], [32, 5]])
    root = write_shanghaitech(tmp_path / "raw", points={"train": [points_xy]})
    reader = ShanghaiTechBReader()
    (entry,) = reader.scan(root)
    image = prepare_image(reader, tmp_path / "images", entry)
    assert entry.image_path is not None
    assert image.path == entry.image_path
    assert image.size_hw == SIZE_HW
    assert image.digest == sha256(entry.image_path.read_bytes()).hexdigest()
    names = [flag_names(int(value), PointFlag) for value in image.flags]
    assert names == ["duplicate", "outside", "", "duplicate", "outside"]
    assert image.truth is None
    assert not (tmp_path / "images").exists()


def test_rendered_pixels_and_truth_are_kept(tmp_path: Path) -> None:
    raw = RenderingReader().read(ENTRY)
    image = prepare_image(RenderingReader(), tmp_path, ENTRY)
    assert image.path == tmp_path / "train/0003.png"
    assert np.array_equal(read_image_rgb(image.path), raw.pixels)  # type: ignore[arg-type]
    assert image.digest == sha256(image.path.read_bytes()).hexdigest()
    assert image.truth is not None
    assert np.array_equal(image.truth.label_map(), raw.truth)  # type: ignore[arg-type]
    assert image.truth.status.tolist() == ["ok", "ok", "empty"]
    assert image.truth.source.tolist() == ["truth"] * 3
    assert image.truth.area_px.tolist() == [25, 25, 0]


def test_flags_of_the_source_stay(tmp_path: Path) -> None:
    flags = np.array([PointFlag.BLURRED, 0, PointFlag.BLURRED], np.uint8)
    image = prepare_image(Rereading(point_flags=flags), tmp_path, ENTRY)
    assert image.flags.tolist() == flags.tolist()


def test_a_region_has_no_circle_and_bounds_none(tmp_path: Path) -> None:
    raw = RenderingReader().read(ENTRY)
    flags = np.array([0, 0, PointFlag.REGION], np.uint8)
    image = prepare_image(Rereading(point_flags=flags), tmp_path, ENTRY)
    assert image.truth is not None
    assert image.truth.status.tolist() == ["ok", "ok", "ambiguous"]
    alone = nnec_radii(raw.points_xy[:2], size_hw=(20, 30)).radius_px
    np.testing.assert_array_equal(image.truth.radius_px, [*alone.astype(np.float32), np.nan])
    close = np.array([[4.0, 5.0], [14.0, 9.0], [15.0, 9.0]])  # the region beside a point
    other = prepare_image(Rereading(point_flags=flags, points_xy=close), tmp_path, ENTRY)
    assert other.truth is not None
    np.testing.assert_array_equal(other.truth.radius_px, image.truth.radius_px)


def test_both_broken_files_are_named(tmp_path: Path) -> None:
    reader = ShanghaiTechBReader()
    entry = reader.scan(write_shanghaitech(tmp_path))[0]
    assert entry.image_path is not None
    assert entry.annotation_path is not None
    entry.image_path.write_bytes(b"")
    entry.annotation_path.write_bytes(b"")
    with pytest.raises(PipelineError, match=r"IMG_1\.jpg: not a readable image .*; .*GT_IMG_1\.mat: not a readable"):
        prepare_image(reader, tmp_path, entry)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"pixels": None}, ValueError, "gave neither a path nor pixels for train/0003"),
        ({"points_xy": np.full((3, 2), np.nan)}, PipelineError, "points that are NaN or infinite"),
        ({"pixels": np.zeros((20, 31, 3), np.uint8)}, ValueError, "must fit pixels"),
    ],
)
def test_a_readers_mistake_is_refused(
    tmp_path: Path, change: dict[str, object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        prepare_image(Rereading(**change), tmp_path, ENTRY)
