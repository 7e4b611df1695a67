from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.models.crowd_net import image_to_tensor
from pipeline.training.strong_view import change_colors, random_cut_out, strong_view
from pipeline.training.view_options import ColorOptions, StrongViewOptions

PIXELS = np.random.default_rng(0).integers(0, 255, (64, 48, 3)).astype(np.uint8)
PLAIN = ColorOptions(jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)


def test_without_any_change_it_is_the_weak_view():
    plain = StrongViewOptions(colors=PLAIN, cut_out_max_frac=0.0)
    view, cut_out = strong_view(PIXELS, plain, generator=np.random.default_rng(0))
    torch.testing.assert_close(view, image_to_tensor(PIXELS))
    assert not cut_out.any()


@pytest.mark.parametrize("name", ["jitter_prob", "gray_prob", "blur_prob", "noise_max"])
def test_each_change_shows(name):
    options = replace(PLAIN, blur_sigma_min=1.0, **{name: 1.0})
    view = change_colors(PIXELS, options, generator=np.random.default_rng(0))
    assert float((view - image_to_tensor(PIXELS)).abs().mean()) > 0.05


def test_the_view_depends_on_its_generator_alone():
    views = [strong_view(PIXELS, StrongViewOptions(), generator=np.random.default_rng(seed)) for seed in (4, 4, 5)]
    assert torch.equal(views[0][0], views[1][0])
    assert torch.equal(views[0][1], views[1][1])
    assert not torch.equal(views[0][0], views[2][0])


@pytest.mark.parametrize("seed", range(20))
def test_the_cut_out_is_one_rectangle_of_whole_cells(seed):
    cut_out = random_cut_out((128, 64), StrongViewOptions(), generator=np.random.default_rng(seed))
    rows, columns = (torch.nonzero(cut_out.any(dim=axis)).flatten() for axis in (1, 0))
    for span, side in ((rows, 128), (columns, 64)):
        assert int(span[0]) % 4 == 0
        assert len(span) == int(span[-1] - span[0]) + 1
        assert side / 8 <= len(span) <= side / 4
    assert int(cut_out.sum()) == len(rows) * len(columns)


def test_the_cut_out_is_zero_in_the_view():
    view, cut_out = strong_view(PIXELS, StrongViewOptions(), generator=np.random.default_rng(1))
    assert cut_out.any()
    assert not view[:, cut_out].any()


def test_a_tiny_crop_can_be_blurred():
    options = replace(PLAIN, blur_prob=1.0, blur_sigma_min=2.0)
    view = change_colors(PIXELS[:2, :2], options, generator=np.random.default_rng(0))
    assert view.shape == (3, 2, 2)
