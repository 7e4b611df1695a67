import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training.crops import (
    PADDING_RGB,
    CropBatch,
    CropSampler,
    made_ahead,
    random_crop,
    step_generator,
)
from pipeline.training.options import CropOptions
from pipeline.training.scenes import Scene, SceneSource
from tests.training.blobs import draw_blobs

AS_IT_IS = CropOptions(size_px=64, scale_min=1.0, scale_max=1.0, flip_prob=0.0)


def blob_scene(seed=0, size_hw=(64, 64), n=5):
    pixels, points_xy, label_map = draw_blobs(np.random.default_rng(seed), size_hw, n)
    return Scene(pixels, points_xy, np.linspace(0.1, 1, n), label_map)


def test_a_crop_of_the_whole_image_is_the_image():
    scene = blob_scene()
    crop = random_crop(scene, AS_IT_IS, generator=np.random.default_rng(0))
    np.testing.assert_array_equal(crop.pixels, scene.pixels)
    np.testing.assert_array_equal(crop.label_map, scene.label_map)
    np.testing.assert_allclose(crop.points_xy, scene.points_xy)
    np.testing.assert_array_equal(crop.labels, np.arange(1, 6))


def test_a_flip_mirrors_pixels_points_and_masks():
    scene = blob_scene()
    options = CropOptions(size_px=64, scale_min=1.0, scale_max=1.0, flip_prob=1.0)
    crop = random_crop(scene, options, generator=np.random.default_rng(0))
    np.testing.assert_array_equal(crop.pixels, scene.pixels[:, ::-1])
    np.testing.assert_array_equal(crop.label_map, scene.label_map[:, ::-1])
    np.testing.assert_allclose(crop.points_xy, scene.points_xy * (-1, 1) + (63, 0))


@pytest.mark.parametrize("size_hw", [(1, 1), (5, 40), (40, 200)])
def test_small_images_are_padded(size_hw):
    scene = blob_scene(size_hw=size_hw, n=2)
    crop = random_crop(scene, AS_IT_IS, generator=np.random.default_rng(0))
    height, width = size_hw[0], min(64, size_hw[1])
    assert crop.pixels.shape == (64, 64, 3)
    assert (crop.pixels[height:] == PADDING_RGB).all()
    assert (crop.pixels[:, width:] == PADDING_RGB).all()
    assert not crop.label_map[height:].any()
    assert (crop.points_xy < (width - 0.5, height - 0.5)).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    scale=st.floats(0.3, 2.5),
    size_hw=st.tuples(st.integers(24, 150), st.integers(24, 150)),
    flip=st.sampled_from([0.0, 1.0]),
)
def test_points_stay_on_their_instances(seed, scale, size_hw, flip):
    """However a scene is cut, scaled and turned, a head in the crop lies on (or a pixel beside) its own mask."""
    rng = np.random.default_rng(seed)
    label_map = np.zeros(size_hw, np.int32)
    point_xy = np.array([rng.integers(6, size_hw[1] - 6), rng.integers(6, size_hw[0] - 6)], dtype=float)
    yy, xx = np.mgrid[: size_hw[0], : size_hw[1]]
    label_map[(np.abs(xx - point_xy[0]) <= 5) & (np.abs(yy - point_xy[1]) <= 5)] = 1
    scene = Scene(np.zeros((*size_hw, 3), np.uint8), point_xy[None], np.ones(1), label_map)
    options = CropOptions(size_px=64, scale_min=scale, scale_max=scale, flip_prob=flip)
    crop = random_crop(scene, options, generator=rng)
    rows, columns = np.nonzero(crop.label_map == 1)
    for x, y in crop.points_xy:
        assert crop.label_map[round(np.clip(y, 0, 63)), round(np.clip(x, 0, 63))] == 1
    if len(rows) and rows.min() > 0 and rows.max() < 63 and columns.min() > 0 and columns.max() < 63:
        # a mask inside the crop keeps its head at its centre
        inside = crop.label_map.any()
        assert inside
        assert len(crop.points_xy) == 1
        np.testing.assert_allclose(crop.points_xy[0], (columns.mean(), rows.mean()), atol=max(1.0, scale))


def test_every_image_is_used_once_before_any_again():
    scenes = [blob_scene(n=k + 1) for k in range(5)]
    source = SceneSource([str(k) for k in range(5)], lambda image_id: scenes[int(image_id)], cache_mib=1)
    sampler = CropSampler(source, CropOptions(size_px=64, batch=1, scale_min=1, scale_max=1), seed=1, stream=0)
    orders = [[len(sampler.crops(step)[0].points_xy) for step in range(5 * k, 5 * k + 5)] for k in range(3)]
    assert [sorted(order) for order in orders] == [[1, 2, 3, 4, 5]] * 3
    assert len({tuple(order) for order in orders}) > 1


def test_crops_depend_on_seed_stream_and_step_alone():
    source = SceneSource(["a"], lambda _: blob_scene(size_hw=(100, 100)), cache_mib=1)

    def first(seed=0, stream=0, step=3):
        return CropSampler(source, CropOptions(size_px=32), seed=seed, stream=stream).crops(step)[0].pixels

    np.testing.assert_array_equal(first(), first())
    for other in (first(seed=1), first(stream=1), first(step=4)):
        assert not np.array_equal(first(), other)


def test_no_images_to_crop_from():
    with pytest.raises(ValueError, match="at least one image"):
        CropSampler(SceneSource([], lambda _: blob_scene(), cache_mib=1), CropOptions(), seed=0, stream=0)


def test_stacked_crops_keep_their_lists():
    crops = [random_crop(blob_scene(n=n), AS_IT_IS, generator=np.random.default_rng(0)) for n in (2, 0, 5)]
    batch = CropBatch.stack(crops)
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.label_maps.shape == (3, 64, 64)
    assert [tuple(each.shape) for each in batch.points_xy] == [(2, 2), (0, 2), (5, 2)]
    assert [each.tolist() for each in batch.labels] == [[1, 2], [], [1, 2, 3, 4, 5]]


def test_step_generators_of_different_purposes_are_unrelated():
    draws = {step_generator(*key).integers(2**60) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(draws) == 4


def test_batches_made_ahead_come_in_order():
    def make(step):
        time.sleep(0.01 * (step % 3))
        return step * step

    assert list(made_ahead(make, range(4, 16), workers=3)) == [(step, step * step) for step in range(4, 16)]


def test_a_fault_while_making_a_batch_reaches_the_training():
    def make(step):
        if step == 2:
            raise OSError("the disk is gone")
        return step

    ahead = made_ahead(make, range(9), workers=2)
    assert [next(ahead)[0], next(ahead)[0]] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    scale=st.floats(0.5, 1.6),
    size_hw=st.tuples(st.integers(20, 110), st.integers(20, 110)),
    flip=st.sampled_from([0.0, 1.0]),
)
def test_ignored_pixels_and_weights_go_where_their_pixels_go(seed, scale, size_hw, flip):
    """Ignored pixels are those of a label; a ramp of weights is read at the place in the image that a cell shows."""
    rng = np.random.default_rng(seed)
    label_map = (rng.random(size_hw) < 0.3).astype(np.int32)
    cells_hw = -(-size_hw[0] // 4), -(-size_hw[1] // 4)
    i, j = np.mgrid[: cells_hw[0], : cells_hw[1]].astype(np.float32)
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    places = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)  # a point in every pixel shows where it goes
    pixels = np.zeros((*size_hw, 3), np.uint8)
    scene = Scene(pixels, places, np.ones(len(places)), label_map, label_map > 0, 0.01 * i + 0.0001 * j)
    options = CropOptions(size_px=64, scale_min=scale, scale_max=scale, flip_prob=flip)
    crop = random_crop(scene, options, generator=np.random.default_rng(seed))
    np.testing.assert_array_equal(crop.ignored, crop.label_map > 0)
    assert crop.cell_weights.shape == (16, 16)
    shown = places[crop.labels - 1]
    expected = np.ones((16, 16))
    at, inside = [], []
    for axis in (1, 0):
        slope, start = np.polyfit(crop.points_xy[:, axis], shown[:, axis], 1)
        place = start + slope * (4 * np.arange(16) + 1.5)
        edges = shown[:, axis].min() - 0.5, shown[:, axis].max() + 0.5
        inside.append((place > edges[0] + 1e-6) & (place < edges[1] - 1e-6))
        assert inside[-1].any()
        at.append(np.clip((place - 1.5) / 4, 0, cells_hw[1 - axis] - 1))
    value = 0.01 * at[0][:, None] + 0.0001 * at[1]
    sure = np.outer(*inside)
    np.testing.assert_allclose(crop.cell_weights[sure], value[sure], atol=1e-5)
    beyond = np.outer(~inside[0], np.ones(16)) + np.outer(np.ones(16), ~inside[1]) > 0
    if size_hw[0] * scale < 60 and size_hw[1] * scale < 60:  # the whole image is shown, and padding around it
        np.testing.assert_array_equal(crop.cell_weights[beyond], expected[beyond])


def test_weights_of_a_whole_image_are_read_as_they_are_and_mirrored():
    weights = np.random.default_rng(0).random((16, 16), dtype=np.float32)
    scene = blob_scene()
    scene = Scene(scene.pixels, scene.points_xy, scene.point_prob, scene.label_map, cell_weights=weights)
    for flip, expected in ((0.0, weights), (1.0, weights[:, ::-1])):
        options = CropOptions(size_px=64, scale_min=1.0, scale_max=1.0, flip_prob=flip)
        crop = random_crop(scene, options, generator=np.random.default_rng(0))
        np.testing.assert_allclose(crop.cell_weights, expected, atol=1e-6)
        assert crop.ignored is None


def test_a_batch_has_what_its_crops_have():
    scene = blob_scene()
    full = Scene(
        scene.pixels, scene.points_xy, scene.point_prob, scene.label_map, scene.label_map > 0,
        np.ones((16, 16), np.float32),
    )  # fmt: skip
    with_all, without = (
        CropBatch.stack([random_crop(each, AS_IT_IS, generator=np.random.default_rng(0))] * 2).to("cpu")
        for each in (full, scene)
    )
    assert with_all.ignored.shape == (2, 64, 64)
    assert with_all.cell_weights.shape == (2, 16, 16)
    assert without.ignored is without.cell_weights is None
