import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotators.superpixel import SuperpixelAnnotator, SuperpixelOptions, grow_regions
from tests.annotators.fake_model import circle_masks, full_masks, mark


def two_colors(size_hw=(60, 60), part=np.s_[20:40, 24:36]):
    image = np.full((*size_hw, 3), (40, 60, 200), np.uint8)
    image[part] = (230, 190, 40)
    return image


@pytest.mark.parametrize("radius", [12.0, 16.0, 20.0])
def test_a_region_grows_exactly_along_the_colour(radius) -> None:
    marked = mark([[29.0, 29.0]], (60, 60), radius_px=[radius], image=two_colors())
    options = SuperpixelOptions(radius_px=radius)  # at the image's own scale
    wanted = np.zeros((60, 60), bool)
    wanted[20:40, 24:36] = True
    wanted &= circle_masks(marked)[0]
    np.testing.assert_array_equal(full_masks(SuperpixelAnnotator(options).annotate(marked))[0], wanted)
    regions = grow_regions(marked, options)
    ys, xs = np.nonzero(wanted)
    assert regions.boxes_xyxy()[0].tolist() == [xs.min(), ys.min(), xs.max(), ys.max()]
    assert regions.inside_frac[0] > 0.9


@pytest.mark.parametrize("radius", [16.0, 8.0])
def test_edges_stay_where_they_are_at_another_scale(radius) -> None:
    marked = mark([[29.0, 29.0]], (60, 60), radius_px=[radius], image=two_colors(part=np.s_[25:35, 26:34]))
    box = grow_regions(marked, SuperpixelOptions()).boxes_xyxy()[0]
    np.testing.assert_allclose(box, [26, 25, 33, 34], atol=1.0)


def test_one_colour_fills_the_circle() -> None:
    image = np.full((60, 60, 3), 128, np.uint8)
    marked = mark([[30.0, 30.0]], (60, 60), radius_px=[12.0], image=image)
    everything = grow_regions(marked, SuperpixelOptions(inside_frac=0.0)).windows()[0]
    np.testing.assert_array_equal(
        full_masks(SuperpixelAnnotator(SuperpixelOptions(inside_frac=0.0)).annotate(marked)), circle_masks(marked)
    )
    strict = grow_regions(marked, SuperpixelOptions(inside_frac=1.0)).windows()[0]
    assert 0 < strict.mask.sum() < everything.mask.sum()


def test_colour_limits_stop_growth() -> None:
    ramp = np.zeros((40, 80, 3), np.uint8)
    ramp[:] = np.linspace(0, 255, 80).astype(np.uint8)[None, :, None]
    marked = mark([[40.0, 20.0]], (40, 80), radius_px=[36.0], image=ramp)
    areas = []
    for limits in ({"step_delta_e": 1.0}, {"seed_delta_e": 12.0}, {}):
        options = SuperpixelOptions(radius_px=36.0, segments_per_circle=60, **limits)
        areas.append(int(grow_regions(marked, options).windows()[0].mask.sum()))
    assert areas[0] < areas[1] < areas[2]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_rows_are_disjoint_and_inside_their_circles(seed, count, size_hw) -> None:
    rng = np.random.default_rng(seed)
    points_xy = rng.uniform(-0.2, 1.2, (count, 2)) * size_hw[::-1]
    marked = mark(points_xy, size_hw, seed=seed)
    instances = SuperpixelAnnotator(SuperpixelOptions()).annotate(marked)
    masks = full_masks(instances)
    assert instances.point_id.tolist() == marked.point_id.tolist()
    assert masks.sum(0).max() <= 1
    assert not (masks & ~circle_masks(marked)).any()
    np.testing.assert_array_equal(masks.any((1, 2)), instances.status == "ok")
    assert ((instances.score >= 0) & (instances.score <= 1)).all()
    np.testing.assert_allclose(instances.leak_frac, 1 - grow_regions(marked, SuperpixelOptions()).inside_frac)


def test_no_heads() -> None:
    regions = grow_regions(mark([]), SuperpixelOptions())
    assert regions.windows() == []
    assert regions.boxes_xyxy().shape == (0, 4)
    assert len(SuperpixelAnnotator(SuperpixelOptions()).annotate(mark([]))) == 0


def test_the_same_input_gives_the_same_rows() -> None:
    marked = mark([[10.0, 10.0], [30.0, 25.0]], (40, 50))
    first, second = (SuperpixelAnnotator(SuperpixelOptions()).annotate(marked) for _ in range(2))
    assert first.equals(second)


@pytest.mark.parametrize(
    "bad", [{"radius_px": 0.0}, {"segments_per_circle": -1.0}, {"step_delta_e": 0.0}, {"inside_frac": 1.5}]
)
def test_options_refuse_values_out_of_range(bad) -> None:
    (name,) = bad
    with pytest.raises(ValueError, match=f"{name} must be"):
        SuperpixelOptions(**bad)
