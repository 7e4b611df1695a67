import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotators.edp_sam import EdpSamAnnotator, EdpSamOptions
from pipeline.annotators.exclusion import ExclusionOptions
from tests.annotators.fake_model import DiscModel, circle_masks, full_masks, mark

HEAD_ONLY = EdpSamOptions(prompts=("head",))


def annotate(marked, model=None, options=HEAD_ONLY):
    return EdpSamAnnotator(model or DiscModel(), options).annotate(marked)


def check_rules(instances, marked) -> None:
    """What holds for every annotation: one row per point, masks disjoint and inside their circles."""
    assert instances.point_id.tolist() == marked.point_id.tolist()
    assert instances.class_id.tolist() == marked.class_id.tolist()
    np.testing.assert_array_equal(instances.points_xy, marked.points_xy)
    np.testing.assert_array_equal(instances.radius_px, marked.radius_px)
    masks = full_masks(instances)
    assert masks.sum(0).max(initial=0) <= 1
    assert not (masks & ~circle_masks(marked)).any()
    np.testing.assert_array_equal(masks.any((1, 2)), instances.status != "empty")
    assert ((instances.source == "fallback") | (instances.status != "fallback")).all()
    assert (instances.score >= 0).all()
    assert (instances.score <= 1).all()


def test_the_best_candidate_wins_and_is_drawn_where_its_head_is() -> None:
    marked = mark([[20.0, 24.0], [44.0, 40.0]], radius_px=[10.5, 10.5])
    instances = annotate(marked)
    check_rules(instances, marked)
    assert instances.status.tolist() == ["ok", "ok"]
    assert instances.source.tolist() == ["head", "head"]
    np.testing.assert_allclose(instances.pred_iou, 0.9, rtol=1e-6)  # of 0.9 small enough, 0.6 smaller, 0.8 flooding
    y, x = np.mgrid[:64, :64]
    for mask, (px, py) in zip(full_masks(instances), marked.points_xy, strict=True):
        distance = np.hypot(x - px, y - py)
        assert mask[distance <= 7].all()  # bilinear samples of a cone, 4 px a cell
        assert not mask[distance >= 9].any()
    assert (instances.leak_frac < 0.2).all()
    np.testing.assert_allclose(instances.score, instances.pred_iou * instances.stability, rtol=0.15)


def test_leaks_into_other_heads_cost_rank_unless_exclusion_is_off() -> None:
    marked = mark([[24.0, 32.0], [38.0, 32.0]], radius_px=[14.0, 14.0])
    model = DiscModel(radii=(8.0, 4.0, 18.0), estimates=(0.8, 0.1, 0.9))
    assert annotate(marked, model).pred_iou.tolist() == pytest.approx([0.8, 0.8])
    off = EdpSamOptions(prompts=("head",), exclusive=False)
    instances = annotate(marked, model, off)
    check_rules(instances, marked)
    assert instances.pred_iou.tolist() == pytest.approx([0.9, 0.9])


def test_nothing_found_falls_back_to_half_a_circle() -> None:
    marked = mark([[20.0, 20.0], [50.0, 40.0]], radius_px=[9.0, 8.0])
    instances = annotate(marked, DiscModel(sign=-1.0), EdpSamOptions(prompts=("head",), min_radius_model_px=5.0))
    check_rules(instances, marked)
    assert instances.status.tolist() == instances.source.tolist() == ["fallback", "fallback"]
    np.testing.assert_allclose(instances.score, 0.1, rtol=1e-6)
    for name in ("pred_iou", "stability", "leak_frac", "clipped_frac"):
        assert np.isnan(getattr(instances, name)).all()
    half = circle_masks(mark(marked.points_xy, radius_px=marked.radius_px / 2))
    np.testing.assert_array_equal(full_masks(instances), half)


def test_a_real_mask_beats_a_fallback_disc() -> None:
    class OneEyed(DiscModel):
        def decode(self, embedding, points_xy, boxes_xyxy=None, negatives_xy=None):
            logits, estimates = super().decode(embedding, points_xy)
            return torch.where(points_xy[:, 0, None, None, None] < 32, logits, -logits.abs() - 1), estimates

    marked = mark([[26.0, 32.0], [36.5, 32.0]], radius_px=[10.5, 10.5])
    instances = annotate(marked, OneEyed(radii=(10.0, 3.0, 3.0)))
    check_rules(instances, marked)
    assert instances.status.tolist() == ["ok", "fallback"]
    alone = annotate(mark([[26.0, 32.0]], radius_px=[10.5]), DiscModel(radii=(10.0, 3.0, 3.0)))
    np.testing.assert_array_equal(full_masks(instances)[0], full_masks(alone)[0])


class TwoRingModel(DiscModel):
    """Positive on an island around the head and on a ring far from it, or on a disc with a hole beside the head."""

    def __init__(self, hole: bool) -> None:
        super().__init__()
        self.hole = hole

    def decode(self, embedding, points_xy, boxes_xyxy=None, negatives_xy=None):
        logits, estimates = super().decode(embedding, points_xy)
        distance = self.radii[0] - logits[:, :1]
        if self.hole:
            shape = torch.where(logits[:, :1].roll(1, dims=3) == logits[:, :1].amax(), -3.0, 10.0 - distance)
        else:
            shape = torch.where(distance < 2, 6.0, torch.where(distance > 9, 6.0, -3.0))
        return shape.expand(-1, 3, -1, -1), estimates


@pytest.mark.parametrize("hole", [False, True])
def test_holes_are_filled_and_islands_dropped(hole) -> None:
    marked = mark([[33.5, 33.5]], radius_px=[10.5])  # the centre of a cell of 4 pixels
    instances = annotate(marked, TwoRingModel(hole))
    check_rules(instances, marked)
    mask = full_masks(instances)[0]
    assert mask[33, 33]
    assert mask[33, 37] == hole  # one cell to the right
    assert instances.clipped_frac[0] == pytest.approx(0.0 if hole else 1.0, abs=0.15)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.tuples(st.integers(1, 90), st.integers(1, 90)))
def test_rules_hold_for_any_crowd(seed, count, size_hw) -> None:
    rng = np.random.default_rng(seed)
    points_xy = rng.uniform(-0.1, 1.1, (count, 2)) * size_hw[::-1]
    points_xy[rng.random(count) < 0.2] = points_xy[0]
    marked = mark(points_xy, size_hw, seed=seed)
    instances = annotate(marked, DiscModel(radii=tuple(rng.uniform(1, 30, 3))))
    check_rules(instances, marked)


def test_duplicates_both_keep_a_row() -> None:
    marked = mark([[20.0, 20.0], [20.0, 20.0], [40.0, 40.0]])
    instances = annotate(marked)
    check_rules(instances, marked)
    assert instances.status.tolist() == ["ok", "empty", "ok"]
    assert instances.score[1] == 0


@pytest.mark.parametrize(
    ("point", "radius", "statuses"),
    [
        ((-3.0, 30.0), 8.0, {"ok", "fallback"}),  # the circle reaches into the image
        ((-300.0, 30.0), 8.0, {"empty"}),
        ((63.4, 63.4), 5.0, {"ok", "fallback"}),
        ((70.0, 70.0), 5.0, {"empty"}),
    ],
)
def test_points_outside_keep_a_row(point, radius, statuses) -> None:
    marked = mark([point, [32.0, 32.0]], radius_px=[radius, 10.0])
    for sign in (1.0, -1.0):
        instances = annotate(marked, DiscModel(sign=sign))
        check_rules(instances, marked)
        assert instances.status[0] in statuses


@pytest.mark.parametrize("prompts", [("head",), ("head", "superpixel", "box")])
def test_a_one_pixel_image(prompts) -> None:
    marked = mark([[0.0, 0.0]], (1, 1))
    instances = annotate(marked, options=EdpSamOptions(prompts=prompts))
    check_rules(instances, marked)
    assert instances.area_px.tolist() == [1]


def test_no_heads() -> None:
    model = DiscModel()
    assert len(annotate(mark([]), model, EdpSamOptions(prompts=("head", "superpixel", "box")))) == 0
    assert model.calls == []


def test_the_same_input_gives_the_same_rows() -> None:
    rng = np.random.default_rng(4)
    marked = mark(rng.uniform(0, 90, (30, 2)), (80, 90))
    options = EdpSamOptions(prompts=("head", "superpixel", "box"))
    first, second = annotate(marked, DiscModel(), options), annotate(marked, DiscModel(), options)
    assert first.equals(second)
    assert set(first.source.tolist()) <= {"head", "superpixel", "box", "fallback"}


def test_rows_do_not_depend_on_what_else_is_in_the_chunk() -> None:
    marked = mark([[20.0, 20.0], [44.0, 44.0]], radius_px=[10.0, 16.0])
    both = full_masks(annotate(marked))
    for row in range(2):
        alone = mark(marked.points_xy[[row]], radius_px=marked.radius_px[[row]])
        np.testing.assert_array_equal(full_masks(annotate(alone))[0], both[row])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": ()}, "prompts must be one or more"),
        ({"prompts": ("head", "head")}, "each once"),
        ({"prompts": ("points",)}, "got \\['points'\\]"),
        ({"min_radius_model_px": -1.0}, "min_radius_model_px must be"),
        ({"max_magnification": 0.5}, "max_magnification must be"),
        ({"coarser_steps": -1}, "coarser_steps must be"),
        ({"negatives": -2}, "negatives must be"),
    ],
)
def test_options_refuse_values_out_of_range(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        EdpSamOptions(**options)


def test_the_score_of_fallbacks_is_an_option() -> None:
    options = EdpSamOptions(
        prompts=("head",), exclusion=ExclusionOptions(fallback_score=0.25, fallback_radius_frac=1.0)
    )
    marked = mark([[30.0, 30.0]], radius_px=[9.0])
    instances = annotate(marked, DiscModel(sign=-1.0), options)
    assert instances.score.tolist() == [0.25]
    np.testing.assert_array_equal(full_masks(instances), circle_masks(marked))
