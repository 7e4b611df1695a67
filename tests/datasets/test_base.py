import pickle

import numpy as np
import pytest

from pipeline.datasets.base import READERS, RawImage, get_reader
from pipeline.datasets.flags import PointFlag
from pipeline.errors import PipelineError
from pipeline.masks.rle import Window


@pytest.mark.parametrize("name", sorted(READERS))
def test_every_reader_has_its_name_and_travels_between_processes(name: str) -> None:
    reader = get_reader(name)
    assert reader.name == name
    assert reader.version >= 1
    assert pickle.loads(pickle.dumps(reader)) == reader


def test_options_reach_the_reader() -> None:
    assert get_reader("folder", {"test_frac": 0.5}).test_frac == 0.5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("shc", {}, "unknown reader 'shc'; expected one of bdd100k, cityscapes, coco, folder, jhu"),
        ("shb", {"part": "A"}, "reader 'shb' has no option part; it takes none"),
        ("folder", {"testfrac": 1}, "no option testfrac; it takes table, test_frac, unlisted"),
        ("folder", {"test_frac": 1.5}, "test_frac must be at least 0 and below 1, got 1.5"),
        ("folder", {"unlisted": "maybe"}, "unlisted must be one of error, empty, skip, got 'maybe'"),
    ],
)
def test_wrong_sources_are_explained(name: str, options: dict[str, object], match: str) -> None:
    with pytest.raises(PipelineError, match=match):
        get_reader(name, options)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"points_xy": np.zeros((3, 3))}, "points_xy must have shape"),
        ({"class_id": np.zeros(1, np.int64)}, "class_id must have shape"),
        ({"boxes_wh_px": np.zeros((2, 2))}, "boxes_wh_px must have shape"),
        ({"point_flags": np.zeros(4, np.uint8)}, "point_flags must have shape"),
        ({"pixels": np.zeros((4, 5, 3), np.uint8), "truth": np.zeros((5, 4), np.int32)}, "must fit pixels"),
        ({"truth": (Window(np.ones((1, 1), np.bool_), 0, 0),)}, "truth must have a mask for each point"),
        ({"point_flags": np.array([0, PointFlag.REGION, 0], np.uint8)}, "crowd regions must come after"),
        ({"class_names": ("a", "b"), "class_source_ids": (1,)}, "one number for each of class_names"),
    ],
)
def test_a_readers_mistake_is_refused(change: dict[str, object], match: str) -> None:
    sound = {"image_id": "a", "path": None, "split": "train", "points_xy": np.zeros((3, 2))}
    with pytest.raises(ValueError, match=match):
        RawImage(**{**sound, "class_id": np.zeros(3, np.int64), **change})  # type: ignore[arg-type]
