import numpy as np
import pytest
import torch

from pipeline.geometry.point_owners import UNKNOWN, component_offsets
from pipeline.training.options import CropOptions
from pipeline.training.p2seg_batches import SeedBatch, SeedBatches, SeedScene, random_seed_crop
from pipeline.training.view_options import ColorOptions

PLAIN = ColorOptions(jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0, noise_max=0.0)
FIXED = CropOptions(size_px=32, batch=2, scale_min=1.0, scale_max=1.0, flip_prob=0.0)


def scene(size_hw=(40, 50), seed=0) -> SeedScene:
    rng = np.random.default_rng(seed)
    classes = np.zeros(size_hw, np.uint8)
    classes[10:30, 12:28] = 2
    pixels = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    pixels[classes == 2] = (250, 10, 20)
    return SeedScene(pixels, classes, np.array([[20.0, 20.0], [2.0, 47.0]]), np.array([1, 0]))


def test_pixels_classes_and_points_move_together() -> None:
    options = CropOptions(size_px=64, scale_min=0.6, scale_max=1.9, flip_prob=0.5)
    for seed in range(30):
        crop = random_seed_crop(scene(), options, PLAIN, generator=np.random.default_rng(seed))
        red = (crop.rgb[0] > 0.9) & (crop.rgb[1] < 0.15) & (crop.rgb[2] < 0.2)
        inside = torch.from_numpy(crop.classes == 2)
        assert (red & inside).sum() >= 0.8 * inside.sum()
        y, x = np.rint(crop.points_yx[0]).astype(int)
        if 0 <= y < 64 and 0 <= x < 64:
            assert crop.classes[y, x] == 2


def test_points_outside_the_crop_stay_and_the_padding_is_unknown() -> None:
    crop = random_seed_crop(scene((20, 24)), FIXED, PLAIN, generator=np.random.default_rng(0))
    assert (crop.classes[20:] == UNKNOWN).all()
    assert (crop.classes[:, 24:] == UNKNOWN).all()
    assert crop.points_yx.tolist() == [[20.0, 20.0], [2.0, 47.0]]
    assert crop.point_class.tolist() == [1, 0]


def test_a_flip_mirrors_the_points() -> None:
    options = CropOptions(size_px=32, scale_min=1.0, scale_max=1.0, flip_prob=1.0)
    crop = random_seed_crop(scene((20, 24)), options, PLAIN, generator=np.random.default_rng(0))
    assert crop.points_yx[0].tolist() == [20.0, 11.0]


def test_a_batch_is_a_function_of_its_step_and_each_image_comes_once_before_any_comes_again() -> None:
    read: list[str] = []

    def give(image_id: str) -> SeedScene:
        read.append(image_id)
        return scene(seed=int(image_id))

    batches = SeedBatches(("0", "1", "2", "3"), give, FIXED, PLAIN, seed=7)
    first = batches(0)
    batches(1)
    assert sorted(read) == ["0", "1", "2", "3"]
    assert batches.describe(0) == f"the images {read[0]}, {read[1]}"
    again = batches(0)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.offsets, again.offsets)
    assert not torch.equal(first.images, batches(2).images)


def test_the_static_target_is_the_crops_own() -> None:
    crop = random_seed_crop(scene(), FIXED, PLAIN, generator=np.random.default_rng(1))
    batch = SeedBatch.stack([crop])
    wanted = component_offsets(crop.classes, crop.points_yx, crop.point_class)
    assert batch.weight[0].any()
    np.testing.assert_array_equal(batch.offsets[0], wanted.offsets)
    np.testing.assert_array_equal(batch.weight[0], wanted.weight)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        SeedScene(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), np.zeros((0, 2)), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="do not fit"):
        SeedScene(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((1, 2)), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="at least one image"):
        SeedBatches((), lambda _: scene(), FIXED, PLAIN, 0)
