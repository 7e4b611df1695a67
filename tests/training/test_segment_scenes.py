import pytest

from pipeline.errors import PipelineError
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from pipeline.training.segment_scenes import SegmentScene, segment_scenes
from tests.training.shapes_home import split_shapes, write_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"))


def copied(store, image_ids, path):
    with MaskStore.create(path, Provenance("copy", 1)) as writer:
        for image_id in image_ids:
            writer.add(image_id, store.instances(image_id))
    return MaskStore.open(path)


def test_strong_images_come_first_each_with_its_own_masks(shapes, tmp_path):
    splits = split_shapes(shapes)
    weak = copied(shapes.truth, splits.unlabeled, tmp_path / "weak")
    scenes = segment_scenes(shapes, shapes.truth, splits.labeled_train, weak, n_classes=2, cache_mib=1)
    assert scenes.image_ids == (*splits.labeled_train, *sorted(splits.unlabeled))
    for position, image_id in enumerate(scenes.image_ids):
        assert scenes[position].rows.equals(shapes.truth.instances(image_id))
        assert scenes[position].pixels.shape[:2] == shapes.image(image_id).size_hw
        assert scenes[position].n_bytes > scenes[position].pixels.nbytes
    assert len(segment_scenes(shapes, shapes.truth, splits.labeled_train, None, n_classes=2, cache_mib=1)) == 2


def test_what_does_not_fit_is_named(shapes, tmp_path):
    splits = split_shapes(shapes)
    store = copied(shapes.truth, splits.labeled_train, tmp_path / "some")
    with pytest.raises(PipelineError, match=r"some: lacks 1 strong images \(train/0002"):
        segment_scenes(shapes, store, splits.labeled_train + splits.labeled_val, None, n_classes=2, cache_mib=1)
    with pytest.raises(PipelineError, match="holds pseudo-labels of 2 strong images .* belongs to another split"):
        segment_scenes(shapes, shapes.truth, splits.labeled_train, store, n_classes=2, cache_mib=1)
    scenes = segment_scenes(shapes, shapes.truth, splits.labeled_train, None, n_classes=1, cache_mib=1)
    with pytest.raises(PipelineError, match="rows of class . to 1, expected 0 to 0"):
        [scenes[k] for k in range(len(scenes))]
    with pytest.raises(ValueError, match="do not fit"):
        SegmentScene(scenes_pixels(shapes)[:-1], shapes.truth.instances("train/0000"))


def scenes_pixels(shapes):
    from pipeline.datasets.images import read_image_rgb

    return read_image_rgb(shapes.image("train/0000").path)
