import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotators.disc import DiscAnnotator
from tests.annotators.fake_model import circle_masks, full_masks, mark


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 15), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_circles_shared_out_by_relative_distance(seed, count, size_hw) -> None:
    rng = np.random.default_rng(seed)
    marked = mark(rng.uniform(-0.2, 1.2, (count, 2)) * size_hw[::-1], size_hw)
    instances = DiscAnnotator().annotate(marked)
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    relative = np.array(
        [np.hypot(x - px, y - py) / r for (px, py), r in zip(marked.points_xy, marked.radius_px, strict=True)]
    ).astype(np.float32)
    circles = circle_masks(marked)
    nearest = np.where(circles, relative, np.inf).argmin(0)
    expected = circles & (nearest == np.arange(count)[:, None, None])
    masks = full_masks(instances)
    # Every circle's share is convex but for the pixel grid: what is cut off from the head may be missing.
    assert not (masks & ~expected).any()
    assert masks.sum() >= 0.9 * expected.sum() - 2
    np.testing.assert_array_equal(instances.status == "ok", masks.any((1, 2)))
    assert set(instances.source.tolist()) == {"disc"}


def test_two_heads_share_the_middle() -> None:
    marked = mark([[10.0, 10.0], [16.0, 10.0]], (21, 27), radius_px=[6.0, 6.0])
    left, right = full_masks(DiscAnnotator().annotate(marked))
    circles = circle_masks(marked)
    np.testing.assert_array_equal(left | right, circles[0] | circles[1])
    assert left[10, 13]  # a tie goes to the earlier row
    assert right[10, 14]


def test_no_heads_and_one_pixel() -> None:
    assert len(DiscAnnotator().annotate(mark([]))) == 0
    assert DiscAnnotator().annotate(mark([[0.0, 0.0], [0.0, 0.0]], (1, 1))).status.tolist() == ["ok", "empty"]
