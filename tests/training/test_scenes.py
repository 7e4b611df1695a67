import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.store import MaskStore
from pipeline.training.scenes import Scene, SceneSource, labeled_scenes
from tests.training.blobs import write_masks


def make_scene(side_px=64, n=1):
    pixels = np.zeros((side_px, side_px, 3), np.uint8)
    return Scene(pixels, np.full((n, 2), 3.0), np.ones(n), np.zeros((side_px, side_px), np.int32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"point_prob": np.ones(3)}, "points_xy .* and point_prob .* do not fit"),
        ({"label_map": np.zeros((3, 3), np.int32)}, "label_map .* and pixels .* do not fit"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    scene = make_scene()
    fields = {name: getattr(scene, name) for name in ("pixels", "points_xy", "point_prob", "label_map")}
    with pytest.raises(ValueError, match=message):
        Scene(**(fields | change))


def test_scenes_are_kept_within_the_memory_given():
    reads = []
    side_px = 256  # 256² × 7 bytes: two fit in 1 MiB, three do not

    def read(image_id):
        reads.append(image_id)
        return make_scene(side_px)

    source = SceneSource(["a", "b", "c"], read, cache_mib=1)
    for position in (0, 1, 0, 2, 0, 1):
        source[position]
    assert reads == ["a", "b", "c", "b"]


def test_a_scene_larger_than_the_memory_is_read_each_time():
    reads = []
    source = SceneSource(["a"], lambda image_id: reads.append(image_id) or make_scene(1024), cache_mib=1)
    assert source[0].pixels.shape == source[0].pixels.shape
    assert len(reads) == 2


def test_labeled_scenes_hold_points_and_masks_of_one_order(blob_run):
    image_id = blob_run.splits.labeled_train[0]
    scene = labeled_scenes(blob_run.prepared, blob_run.masks, [image_id], cache_mib=1)[0]
    assert len(scene.points_xy) == blob_run.prepared.image(image_id).n_points
    assert (scene.point_prob == 1).all()
    x, y = np.floor(scene.points_xy[-1] + 0.5).astype(int)
    assert scene.label_map[y, x] == len(scene.points_xy)  # the last one is drawn on top


def test_missing_masks_are_named(blob_run, tmp_path):
    write_masks(tmp_path / "masks", {})
    with pytest.raises(PipelineError, match=r"lacks 1 labelled images \(train/00"):
        labeled_scenes(blob_run.prepared, MaskStore.open(tmp_path / "masks"), ["train/00"], cache_mib=1)


def test_masks_of_other_points_are_refused(blob_run, tmp_path):
    write_masks(tmp_path / "masks", {"train/00": Instances.empty((64, 64))})
    with pytest.raises(PipelineError, match=r"train/00: \d points, but 0 rows"):
        labeled_scenes(blob_run.prepared, MaskStore.open(tmp_path / "masks"), ["train/00"], cache_mib=1)
