from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.soft import soft_masks_to_instances
from pipeline.models.network_input import IMAGE_MEAN
from pipeline.training.kept import Kept
from pipeline.training.segment_batches import (
    PairedBatches,
    SegmentBatches,
    pad_rgb,
    padded_hw,
    random_view,
    resize_rgb,
    resized_hw,
    stack_views,
)
from pipeline.training.segment_scenes import SegmentScene, SegmentScenes
from pipeline.training.segmenter_options import ViewOptions, unchanged_colors
from pipeline.training.view_options import StrongViewOptions

SAME = ViewOptions(batch=2, short_side_min_px=40, short_side_max_px=40, long_side_px=64, flip_prob=0.0)


def rng(seed=0):
    return np.random.default_rng(seed)


def scene(status=("ok", "ok", "duplicate"), size_hw=(40, 64)):
    """Three rectangles; row 1 covers a part of row 0, and row 2 a part of both."""
    labels = [np.zeros(size_hw, np.int32) for _ in range(3)]
    labels[0][4:20, 4:24], labels[1][10:30, 20:50], labels[2][15:36, 2:30] = 1, 1, 1
    windows = [Instances.from_label_map(each, **columns(1)).window(0) for each in labels]
    rows = Instances.from_windows(
        size_hw, windows, point_id=np.arange(3), points_xy=np.zeros((3, 2)), radius_px=np.full(3, np.nan),
        class_id=[2, 0, 1], source="truth", status=list(status),
    )  # fmt: skip
    pixels = rng().integers(0, 255, (*size_hw, 3)).astype(np.uint8)
    return SegmentScene(pixels, rows), [each.astype(bool) for each in labels]


def columns(n):
    return {
        "point_id": np.arange(n), "points_xy": np.zeros((n, 2)), "radius_px": np.full(n, np.nan), "source": "truth",
        "status": "ok",
    }  # fmt: skip


def test_at_its_own_size_an_image_is_shown_as_it_is():
    one, masks = scene()
    view = random_view(one, SAME, generator=rng())
    assert torch.equal(view.rgb, torch.from_numpy(one.pixels).permute(2, 0, 1).float() / 255)
    assert np.array_equal(view.masks, np.stack(masks[:2]))
    assert view.class_id.tolist() == [2, 0]
    assert np.array_equal(view.ignore, masks[2] & ~masks[0] & ~masks[1])


def test_a_flip_turns_pixels_and_masks_alike():
    one, _ = scene()
    flipped = random_view(one, ViewOptions(**{**vars(SAME), "flip_prob": 1.0}), generator=rng())
    plain = random_view(one, SAME, generator=rng())
    assert torch.equal(flipped.rgb, plain.rgb.flip(2))
    assert np.array_equal(flipped.masks, plain.masks[:, :, ::-1])
    assert np.array_equal(flipped.ignore, plain.ignore[:, ::-1])


def test_resized_masks_keep_their_share_of_the_image():
    one, masks = scene()
    double = ViewOptions(**{**vars(SAME), "short_side_min_px": 80, "short_side_max_px": 80, "long_side_px": 128})
    view = random_view(one, double, generator=rng())
    assert view.rgb.shape == (3, 80, 128)
    assert np.array_equal(view.masks[0], np.kron(masks[0], np.ones((2, 2), bool)))
    half = ViewOptions(**{**vars(SAME), "short_side_min_px": 32, "short_side_max_px": 32})
    view = random_view(one, half, generator=rng())
    assert view.masks[0].mean() == pytest.approx(masks[0].mean(), rel=0.15)


def test_sides_stay_in_their_bounds_and_all_of_them_come():
    one, _ = scene()
    options = ViewOptions(**{**vars(SAME), "short_side_min_px": 32, "short_side_max_px": 48, "long_side_px": 70})
    sizes = {tuple(random_view(one, options, generator=rng(k)).rgb.shape[1:]) for k in range(300)}
    assert {height for height, _ in sizes} == set(range(32, 45))  # 44 · 1.6 = 70
    assert max(width for _, width in sizes) == 70
    assert resized_hw((40, 64), short_side_px=40, long_side_px=32) == (20, 32)


def test_padding_is_background_of_the_mean_colour():
    one, _ = scene()
    small = random_view(one, SAME, generator=rng())
    wide, _ = scene(size_hw=(64, 40))
    tall = random_view(wide, SAME, generator=rng())
    batch = stack_views([small, tall])
    assert batch.images.shape == (2, 3, 64, 64)
    assert padded_hw([(40, 64), (64, 40)]) == (64, 64)
    assert torch.equal(batch.images[0, :, :40], small.rgb)
    assert torch.allclose(batch.images[0, :, 40:], torch.tensor(IMAGE_MEAN)[:, None, None].expand(3, 24, 64))
    assert batch.instances[0].masks.shape == (2, 64, 64)
    assert not batch.instances[0].masks[:, 40:].any()
    assert not batch.instances[0].ignore[40:].any()
    assert torch.equal(pad_rgb(small.rgb, (40, 64)), small.rgb)


def test_colours_change_where_asked_for():
    from pipeline.training.view_options import ColorOptions

    one, _ = scene()
    plain = random_view(one, SAME, generator=rng())
    changed = random_view(one, ViewOptions(**{**vars(SAME), "colors": ColorOptions()}), generator=rng())
    assert not torch.equal(plain.rgb, changed.rgb)
    assert 0 <= changed.rgb.min() <= changed.rgb.max() <= 1
    assert np.array_equal(plain.masks, changed.masks)


def test_resizing_to_the_same_size_changes_nothing():
    pixels = rng().integers(0, 255, (9, 7, 3)).astype(np.uint8)
    assert np.array_equal(resize_rgb(pixels, (9, 7)), pixels)


@pytest.fixture
def scenes():
    one, _ = scene()
    return SegmentScenes(tuple("abc"), Kept(lambda image_id: one, cache_mib=1))


def test_every_image_comes_before_any_comes_again(scenes):
    batches = SegmentBatches(scenes, SAME, seed=1)
    names = ",".join(batches.describe(step).removeprefix("the images ").replace(" ", "") for step in range(3)).split(
        ","
    )
    assert sorted(names[:3]) == sorted(names[3:]) == ["a", "b", "c"]


def test_ranks_share_the_batch_of_one(scenes):
    options = ViewOptions(**{**vars(SAME), "flip_prob": 0.5, "short_side_min_px": 32})
    whole = SegmentBatches(scenes, options, seed=1)(3)
    parts = [SegmentBatches(scenes, options, seed=1, rank=rank, ranks=2)(3) for rank in range(2)]
    assert [len(part.images) for part in parts] == [1, 1]
    for k, part in enumerate(parts):
        height, width = part.images.shape[2:]
        assert torch.equal(part.images[0], whole.images[k, :, :height, :width])
        assert torch.equal(part.instances[0].masks, whole.instances[k].masks[:, :height, :width])
    again = SegmentBatches(scenes, options, seed=1)(3)
    assert torch.equal(again.images, whole.images)
    assert not torch.equal(SegmentBatches(scenes, options, seed=2)(3).images, whole.images)


def test_what_cannot_be_divided_is_refused(scenes):
    with pytest.raises(ValueError, match="expected a divisor of the batch of 2, got 3"):
        SegmentBatches(scenes, SAME, seed=0, ranks=3)
    with pytest.raises(ValueError, match="at least one image"):
        SegmentBatches(SegmentScenes((), scenes.kept), SAME, seed=0)


STRONG = StrongViewOptions(cut_out_min_frac=0.25, cut_out_max_frac=0.5)
SURE = StrongViewOptions(colors=unchanged_colors(), cut_out_max_frac=0.0)


def soft_scene():
    """One disc-like row of a teacher: sure inside, in doubt on its right half."""
    rows = soft_masks_to_instances(
        [torch.tensor(DOUBT)[None]], size_hw=(40, 64), image_hw=(40, 64), keep_prob=True, **columns(1)
    )
    rows.source[:] = "solov2"
    return SegmentScene(np.zeros((40, 64, 3), np.uint8), rows, pseudo=True)


DOUBT = np.zeros((10, 16), np.float32)
DOUBT[2:8, 3:7], DOUBT[2:8, 7:12] = 1.0, 0.75


def test_a_strong_view_moves_nothing_and_keeps_what_the_teacher_sees():
    one, _ = scene()
    weak, strong = (random_view(one, SAME, generator=rng(), strong=each) for each in (None, STRONG))
    assert np.array_equal(weak.masks, strong.masks)
    assert np.array_equal(weak.ignore, strong.ignore)
    assert torch.equal(strong.weak_rgb, weak.rgb)
    assert not torch.equal(strong.rgb, weak.rgb)
    mean = torch.tensor(IMAGE_MEAN)[:, None, None]
    cut_out = (strong.rgb == mean).all(dim=0)
    assert 0.25**2 * 0.5 <= cut_out.float().mean() <= 0.5**2 * 1.2
    assert torch.equal(random_view(one, SAME, generator=rng(), strong=SURE).rgb, weak.rgb)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_teachers_doubt_weighs_its_pixels_where_they_are_shown(flip):
    options = ViewOptions(**{**vars(SAME), "flip_prob": flip})
    view = random_view(soft_scene(), options, generator=rng(), weigh="uncertainty")
    assert view.weights.shape == (1, 16, 16)  # of 64 × 64 px, the padding counted
    expected = np.ones((16, 16), np.float32)
    expected[2:8, 7:12] = 0.5  # |2 · 0.75 − 1|
    if flip:
        expected[:, :] = expected[:, ::-1]
    np.testing.assert_allclose(view.weights[0], expected, atol=0.01)


def test_nothing_is_weighed_but_a_teachers_masks():
    assert random_view(scene()[0], SAME, generator=rng(), weigh="uncertainty").weights is None
    assert random_view(soft_scene(), SAME, generator=rng()).weights is None


def test_masks_without_soft_ones_cannot_be_weighed():
    hard = replace(scene()[0], pseudo=True)
    hard.rows.source[:] = "solov2"
    with pytest.raises(PipelineError, match="prob_q8: 2 of 2 rows have no soft mask"):
        random_view(hard, SAME, generator=rng(), weigh="uncertainty")


def paired(**changes):
    kept = Kept(lambda name: {"a": scene()[0], "b": soft_scene()}[name], cache_mib=1)
    labeled = SegmentBatches(SegmentScenes(("a",), kept), SAME, 0)
    pool = SegmentBatches(
        SegmentScenes(("b",), kept), ViewOptions(**{**vars(SAME), "batch": 3}), 0, strong=STRONG, stream=1, **changes
    )
    return PairedBatches(labeled, pool)


def test_both_kinds_of_images_stand_in_one_batch():
    batch = paired(weigh="uncertainty")(0)
    assert (len(batch.images), batch.n_labeled, len(batch.weak_images)) == (5, 2, 3)
    assert [len(each.masks) for each in batch.instances] == [2, 2, 1, 1, 1]
    assert batch.sizes_hw == ((40, 64),) * 5
    assert [tuple(each.shape) for each in batch.weights] == [(2, 16, 16)] * 2 + [(1, 16, 16)] * 3
    assert bool((batch.weights[0] == 1).all())
    assert batch.weights[4].min() == pytest.approx(0.5, abs=0.01)
    assert "pseudo-labelled, the images b, b, b" in paired().describe(0)


def test_views_of_the_second_kind_are_drawn_for_themselves():
    one, other = paired()(0), paired()(0)
    assert torch.equal(one.images, other.images)
    assert not torch.equal(one.images[2], one.images[3])
    assert not torch.equal(paired()(1).images[2], one.images[2])
