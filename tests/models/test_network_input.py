"""What every network asks of its images."""

import pytest
import torch

from pipeline.models.network_input import IMAGE_MEAN, IMAGE_STD, normalize_image, require_sides


def test_the_mean_becomes_zero_and_a_deviation_one():
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    torch.testing.assert_close(normalize_image(mean.expand(3, 2, 2)), torch.zeros(3, 2, 2))
    torch.testing.assert_close(normalize_image((mean + deviation).expand(2, 3, 1, 1)), torch.ones(2, 3, 1, 1))


@pytest.mark.parametrize("size_hw", [(31, 32), (32, 40), (0, 32), (32, 0)])
def test_sides_that_do_not_fit_are_named(size_hw):
    with pytest.raises(ValueError, match=f"multiples of 32, got {size_hw[0]}×{size_hw[1]}; pad"):
        require_sides(torch.zeros(1, 3, *size_hw), 32)


def test_sides_that_fit_pass():
    require_sides(torch.zeros(1, 3, 32, 64), 32)
