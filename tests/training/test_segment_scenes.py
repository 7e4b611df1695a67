from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from pipeline.training.segment_scenes import SegmentScene, segment_scenes, unseen_classes
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


def relabelled(store, path, **columns):
    """The store with other classes or statuses: image → values of its rows."""
    with MaskStore.create(path, Provenance("copy", 1)) as writer:
        for image_id in store.image_ids:
            rows = store.instances(image_id)
            writer.add(
                image_id, replace(rows, **{name: np.full(len(rows), of(image_id)) for name, of in columns.items()})
            )
    return MaskStore.open(path)


def test_classes_that_nothing_shows_are_named(shapes, tmp_path):
    strong = split_shapes(shapes).labeled_train
    names = ("square", "disc", "star")
    last = relabelled(shapes.truth, tmp_path / "a", class_id=lambda image_id: 0 if image_id in strong else 2)
    assert unseen_classes(last, strong, None, class_names=names) == ("disc", "star")
    assert unseen_classes(last, strong, last, class_names=names) == ("disc",)
    unsure = relabelled(last, tmp_path / "b", status=lambda image_id: "ok" if image_id in strong else "collision")
    assert unseen_classes(last, strong, unsure, class_names=names) == ("disc", "star")
    empty = copied(last, [], tmp_path / "c")
    assert unseen_classes(empty, (), None, class_names=names) == names
