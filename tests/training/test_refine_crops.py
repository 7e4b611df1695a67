from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.masks.rle import window_to_rle
from pipeline.training.refine_crops import (
    Box,
    RefineBatches,
    grown_box,
    kept_images,
    random_crop,
    whole_crop,
)
from pipeline.training.refine_options import RefineCropOptions
from pipeline.training.refine_pairs import RefinePair, Rough, refine_pairs

OPTIONS = RefineCropOptions(size_px=32, batch=4, heat_sigma_px=2.0)
IMAGE_HW = (40, 60)


def rough_box(x, y, w, h, point=None, size_hw=IMAGE_HW, class_id=1):
    rle = window_to_rle(np.ones((h, w), bool), x, y, size_hw)
    return Rough(size_hw, class_id, point or (x + w / 2, y + h / 2), (x, y, w, h), rle)


@pytest.mark.parametrize(
    ("rough", "factor", "box"),
    [
        (rough_box(20, 10, 10, 6), 1.0, (20, 10, 10, 6)),
        (rough_box(20, 10, 10, 6), 2.0, (15, 7, 20, 12)),
        (rough_box(20, 10, 5, 3), 2.0, (17, 8, 11, 7)),  # half pixels count whole
        (rough_box(0, 0, 10, 6), 2.0, (0, 0, 15, 9)),  # cut at the edge
        (rough_box(50, 34, 10, 6), 2.0, (45, 31, 15, 9)),
        (rough_box(20, 10, 10, 6, (40.0, 3.6)), 1.0, (20, 4, 21, 12)),  # holds the point
        (rough_box(20, 10, 10, 6, (-3.0, 99.0)), 1.0, (0, 10, 30, 30)),  # or the pixel next to it
    ],
)
def test_the_box_grows_and_holds_the_point(rough, factor, box):
    assert grown_box(rough, factor) == Box(*box)


def plain_heat(at_xy, size_px, sigma):
    heat = np.zeros((size_px, size_px))
    for y in range(size_px):
        for x in range(size_px):
            heat[y, x] = np.exp(-((x - at_xy[0]) ** 2 + (y - at_xy[1]) ** 2) / (2 * sigma**2))
    return heat


def test_the_crop_to_refine_holds_the_whole_window():
    pixels = np.random.default_rng(0).integers(0, 255, (*IMAGE_HW, 3), dtype=np.uint8)
    rough = rough_box(20, 10, 8, 8, (22.0, 13.0))
    crop = whole_crop(pixels, rough, grown_box(rough, 2.0), OPTIONS)  # 16 x 16 from (16, 6): each pixel becomes 2 x 2
    wanted = np.zeros((32, 32), bool)
    wanted[8:24, 8:24] = True
    np.testing.assert_array_equal(crop.rough, wanted)
    np.testing.assert_allclose(crop.heat, plain_heat((12, 14), 32, 2.0), atol=1e-6)  # (22 - 16 + .5) * 2 - .5, even
    assert crop.heat.max() == 1
    assert crop.class_id == 1
    assert np.abs(crop.pixels[1::2, 1::2].astype(int) - pixels[6:22, 16:32]).mean() < 40
    same_size = whole_crop(pixels, rough, Box(10, 4, 32, 32), OPTIONS)
    np.testing.assert_array_equal(same_size.pixels, pixels[4:36, 10:42])


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 32), st.integers(1, 10), st.integers(1, 8),
    st.floats(-5, 64), st.floats(-5, 44),
)  # fmt: skip
def test_random_crops_hold_the_point_and_stay_aligned(seed, x, y, w, h, point_x, point_y):
    rough = rough_box(x, y, w, h, (point_x, point_y))
    truth = np.zeros(IMAGE_HW, bool)
    truth[max(0, y - 2) : y + h, x : x + w + 1] = True
    # Red holds the rough mask, green the true one, blue the image.
    pixels = np.zeros((*IMAGE_HW, 3), np.uint8)
    pixels[y : y + h, x : x + w, 0] = 255
    pixels[truth, 1] = 255
    pixels[..., 2] = 255
    pair = RefinePair("a", rough, window_to_rle(truth, 0, 0, IMAGE_HW), int(truth.sum()))
    crop = random_crop(pixels, pair, OPTIONS, generator=np.random.default_rng(seed))
    assert crop.pixels.shape == (32, 32, 3)
    assert crop.heat.dtype == np.float32
    assert crop.heat.max() == 1
    assert crop.valid[np.unravel_index(crop.heat.argmax(), crop.heat.shape)]
    np.testing.assert_array_equal(crop.valid, crop.pixels[..., 2] == 255)
    for mask, channel in ((crop.rough, 0), (crop.target, 1)):
        assert not mask[~crop.valid].any()
        sure = crop.valid & ((crop.pixels[..., channel] > 200) | (crop.pixels[..., channel] < 55))
        np.testing.assert_array_equal(mask[sure], crop.pixels[..., channel][sure] > 128)


@pytest.mark.parametrize(
    ("scale_max", "pixel_px"),
    [(0.6, 3.0), (2.5, 7.0)],  # the latter far larger than the crop: most of it is cut off
)
def test_the_heat_lies_where_the_point_does(scale_max, pixel_px):
    pixels = np.zeros((*IMAGE_HW, 3), np.uint8)
    pixels[15, 35] = 255
    rough = rough_box(24, 14, 12, 12, (35.0, 15.0))
    pair = RefinePair("a", rough, rough.rle, 144)
    options = replace(OPTIONS, scale_max=scale_max, scale_min=0.9 * scale_max)
    for seed in range(20):
        crop = random_crop(pixels, pair, options, generator=np.random.default_rng(seed))
        light = np.where(crop.valid, crop.pixels[..., 0], 0)
        bright = np.argwhere(light == light.max()).mean(axis=0)
        peak = np.array(np.unravel_index(crop.heat.argmax(), crop.heat.shape))
        assert np.abs(bright - peak).max() <= pixel_px / 2


def test_crops_vary_in_scale_and_side():
    pixels = np.zeros((*IMAGE_HW, 3), np.uint8)
    rough = rough_box(24, 14, 12, 8, (25.0, 18.0))
    pair = RefinePair("a", rough, rough.rle, 96)
    crops = [random_crop(pixels, pair, OPTIONS, generator=np.random.default_rng(seed)) for seed in range(60)]
    areas = [crop.rough.sum() for crop in crops]
    assert max(areas) > 4 * min(areas)
    right = [np.argwhere(crop.heat == 1)[0, 1] > np.argwhere(crop.rough)[:, 1].mean() for crop in crops]
    assert 10 < sum(right) < 50  # the point is left of the middle; flipped, it is right of it


def test_an_image_of_another_size_is_refused():
    with pytest.raises(PipelineError, match="an image is 10 x 60 pixels, but its masks are of one of 40 x 60"):
        whole_crop(np.zeros((10, 60, 3), np.uint8), rough_box(1, 1, 2, 2), Box(0, 0, 9, 9), OPTIONS)


@pytest.fixture
def batches(rough_run):
    pairs = refine_pairs(rough_run.prepared, rough_run.truth, rough_run.rough, ["train/00"], n_classes=2)
    images = kept_images(rough_run.prepared, cache_mib=8)
    return lambda **changes: RefineBatches(pairs, images, OPTIONS, **({"seed": 0} | changes)), pairs


def test_a_batch_depends_on_seed_and_step_alone(batches):
    make, _ = batches
    first, again = make()(3), make()(3)
    assert first.inputs.images.shape == (4, 3, 32, 32)
    assert 0 <= first.inputs.images.min() < first.inputs.images.max() <= 1
    for name in ("images", "heat", "class_id", "rough"):
        assert torch.equal(getattr(first.inputs, name), getattr(again.inputs, name))
    assert torch.equal(first.target, again.target)
    assert not torch.equal(first.inputs.images, make()(4).inputs.images)
    assert not torch.equal(first.inputs.images, make(seed=1)(3).inputs.images)


def test_ranks_divide_the_batch(batches):
    make, _ = batches
    whole, parts = make()(2), [make(rank=rank, ranks=2)(2) for rank in (0, 1)]
    assert torch.equal(whole.inputs.images, torch.cat([part.inputs.images for part in parts]))
    assert torch.equal(whole.target, torch.cat([part.target for part in parts]))
    assert make().describe(2) == make(rank=1, ranks=2).describe(2)
    assert make().describe(2).count("train/00") == 4


def test_every_pair_is_used_once_before_any_is_used_again(batches):
    make, pairs = batches
    one = make()
    drawn = [one._pair(step, k) for step in range(len(pairs)) for k in range(4)]
    rounds = [drawn[k * len(pairs) : (k + 1) * len(pairs)] for k in range(4)]
    assert all(sorted(each) == sorted(pairs) for each in rounds)
    assert rounds[0] != rounds[1]
