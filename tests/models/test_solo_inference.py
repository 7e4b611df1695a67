import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipeline.models.solo_inference import (
    Detections,
    DetectOptions,
    detect,
    mask_shapes,
    point_nms,
    visible_features,
)
from pipeline.models.solov2 import SoloOutput
from tests.models.solo_by_hand import GRIDS, SURE, box, output_by_hand

MASKNESS = 1 / (1 + math.exp(-SURE))
ANY_SIZE = DetectOptions(min_area=(0, 0, 0, 0, 0), score_thr=0.0)


def one(output: SoloOutput, options: DetectOptions = ANY_SIZE, size_hw: tuple[int, int] | None = None) -> Detections:
    (found,) = detect(output, options=options, size_hw=None if size_hw is None else [size_hw])
    return found


def test_scores_stand_apart_and_the_score_is_their_product() -> None:
    pictures = [box(1, 1, 6, 6), box(2, 1, 7, 6), box(9, 9, 15, 15)]
    cells = {
        (0, 1, 1): (0, {0: 0.9, 1: 0.3}),
        (0, 1, 4): (1, {0: 0.8}),
        (2, 3, 3): (2, {2: 0.7}),
    }
    found = one(output_by_hand(pictures, cells), replace(ANY_SIZE, class_thr=0.5))
    iou = 20 / 30
    decay = torch.tensor([1.0, 1.0, math.exp(-2 * iou**2)])
    class_score = torch.tensor([0.9, 0.7, 0.8])
    assert found.class_id.tolist() == [0, 2, 0]
    assert found.level.tolist() == [0, 2, 0]
    torch.testing.assert_close(found.class_score, class_score)
    torch.testing.assert_close(found.maskness, torch.full((3,), MASKNESS))
    torch.testing.assert_close(found.nms_decay, decay)
    torch.testing.assert_close(found.score, class_score * MASKNESS * decay)
    torch.testing.assert_close(found.class_probs[0], torch.tensor([0.9, 0.3, torch.tensor(-20.0).sigmoid()]))
    assert [(mask > 0.5).equal(pictures[k]) for mask, k in zip(found.masks_prob, (0, 2, 1), strict=True)] == [True] * 3


def test_a_cell_may_be_two_classes() -> None:
    found = one(output_by_hand([box(1, 1, 6, 6)], {(1, 0, 0): (0, {0: 0.6, 2: 0.9})}))
    assert found.class_id.tolist() == [2, 0]
    assert found.nms_decay.tolist() == [1.0, 1.0]


def test_maskness_is_the_mean_above_half() -> None:
    picture = torch.full((16, 16), -9.0)
    picture[0, :4] = torch.logit(torch.tensor([0.6, 0.8, 0.5, 0.4]))
    found = one(output_by_hand([picture], {(0, 0, 0): (0, {0: 0.5})}))
    assert float(found.maskness) == pytest.approx(0.7)


def test_point_nms_looks_up_and_left() -> None:
    prob = torch.tensor([[0.5, 0.5, 0.1], [0.4, 0.6, 0.6], [0.9, 0.2, 0.6]])[None, None]
    expected = [[True, True, False], [False, True, True], [True, False, True]]
    assert point_nms(prob)[0, 0].tolist() == expected
    assert point_nms(prob.expand(2, 3, -1, -1)).shape == (2, 3, 3, 3)


def test_point_nms_hides_candidates_within_a_class() -> None:
    pictures = [box(1, 1, 6, 6), box(8, 8, 14, 14)]
    beside = {(0, 1, 1): (0, {0: 0.9}), (0, 1, 2): (1, {0: 0.8})}
    assert one(output_by_hand(pictures, beside)).class_score.tolist() == pytest.approx([0.9])
    other = {(0, 1, 1): (0, {0: 0.9}), (0, 1, 2): (1, {1: 0.8})}
    assert one(output_by_hand(pictures, other)).class_score.tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize(
    ("changes", "scores"),
    [
        ({}, [0.95, 0.6, 0.3, 0.15]),
        ({"class_thr": 0.31}, [0.95, 0.6]),
        ({"score_thr": 0.2}, [0.95, 0.6, 0.3]),
        ({"max_candidates": 2}, [0.95, 0.6]),
        ({"max_detections": 3}, [0.95, 0.6, 0.3]),
        ({"min_area": (8, 8, 16, 32, 32)}, [0.6, 0.3]),  # the others have 8 pixels, and 16 on level 2
        ({"min_area": (7, 8, 15, 32, 32)}, [0.95, 0.6, 0.3, 0.15]),
    ],
)
def test_each_limit(changes: dict[str, object], scores: list[float]) -> None:
    pictures = [box(0, 0, 4, 2), box(6, 0, 12, 6), box(0, 8, 6, 14), box(8, 8, 12, 12)]
    cells = {(0, 0, 0): (0, {0: 0.95}), (0, 1, 5): (1, {0: 0.6}), (0, 6, 1): (2, {0: 0.3}), (2, 2, 2): (3, {0: 0.15})}
    found = one(output_by_hand(pictures, cells), replace(ANY_SIZE, **changes))
    assert found.class_score.tolist() == pytest.approx(scores)


def test_there_is_no_cap_unless_asked_for() -> None:
    """One picture of 4 pixels for each of 64 cells, twice: on levels 0 and 4 classes of their own."""
    pictures = [box(2 * j, 2 * i, 2 * j + 2, 2 * i + 2) for i in range(8) for j in range(8)]
    cells = {(0, i, j): (8 * i + j, dict.fromkeys(range(3), 0.9)) for i in range(8) for j in range(8)}
    found = one(output_by_hand(pictures, cells))
    assert len(found) == 192
    assert found.nms_decay.tolist() == [1.0] * 192
    assert len(one(output_by_hand(pictures, cells), replace(ANY_SIZE, max_detections=100))) == 100


@pytest.mark.parametrize(("nms", "decays"), [("matrix", [1.0, math.exp(-2)]), ("greedy", [1.0]), ("none", [1.0, 1.0])])
def test_two_cells_with_one_mask(nms: str, decays: list[float]) -> None:
    cells = {(0, 1, 1): (0, {0: 0.9}), (3, 0, 0): (0, {0: 0.8})}
    found = one(output_by_hand([box(1, 1, 6, 6)], cells), replace(ANY_SIZE, nms=nms))
    assert found.nms_decay.tolist() == pytest.approx(decays)


def test_masks_end_where_the_image_ends() -> None:
    output = output_by_hand([box(0, 0, 16, 16)], {(0, 0, 0): (0, {0: 0.9})})
    mask = one(output, size_hw=(38, 64)).masks_prob[0]
    assert (mask[:10] > 0.5).all()  # 38 px reach into the tenth row
    assert not mask[10:].any()
    assert one(output).masks_prob.min() > 0.5
    beyond = output_by_hand([box(0, 11, 16, 16)], {(0, 0, 0): (0, {0: 0.9})})
    assert len(one(beyond, size_hw=(38, 64))) == 0


def test_shapes_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    kernels = torch.randn(20, 5, generator=generator)
    features = visible_features(torch.randn(5, 6, 7, generator=generator), (20, 28))
    whole = mask_shapes(kernels, features)
    prob = torch.sigmoid(torch.einsum("me,ehw->mhw", kernels, features.features)) * features.visible
    area = (prob > 0.5).sum(dim=(1, 2))
    torch.testing.assert_close(whole.area, area)
    torch.testing.assert_close(whole.maskness, (prob * (prob > 0.5)).sum(dim=(1, 2)) / area)
    monkeypatch.setattr("pipeline.models.solo_inference._CHUNK_VALUES", 100)
    for found, expected in zip(mask_shapes(kernels, features), whole, strict=True):
        torch.testing.assert_close(found, expected)


def test_every_image_of_a_batch_has_its_own() -> None:
    first = output_by_hand([box(1, 1, 6, 6), box(8, 8, 14, 14)], {(0, 1, 1): (0, {0: 0.9})})
    second = output_by_hand([box(1, 1, 6, 6), box(8, 8, 14, 14)], {(4, 1, 1): (1, {1: 0.7})})

    def both(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        return [torch.cat(pair) for pair in zip(a, b, strict=True)]

    output = SoloOutput(
        both(first.class_logits, second.class_logits),
        both(first.kernels, second.kernels),
        torch.cat([first.mask_features, second.mask_features]),
    )
    found = detect(output, options=ANY_SIZE)
    assert [each.class_id.tolist() for each in found] == [[0], [1]]
    assert [each.level.tolist() for each in found] == [[0], [4]]
    with pytest.raises(ValueError, match="size_hw: expected 2 sizes, one for each image, got 1"):
        detect(output, size_hw=[(64, 64)])


def test_nothing_is_found_where_nothing_is() -> None:
    found = one(output_by_hand([box(1, 1, 6, 6)], {}))
    assert len(found) == 0
    assert found.masks_prob.shape == (0, 16, 16)
    assert found.class_probs.shape == (0, 3)
    empty = one(output_by_hand([box(0, 0, 0, 0)], {(0, 0, 0): (0, {0: 0.9})}))
    assert len(empty) == 0


def test_the_defaults_are_the_published_values() -> None:
    options = DetectOptions()
    assert (options.class_thr, options.max_candidates, options.nms, options.sigma) == (0.1, 500, "matrix", 2.0)
    assert (options.min_area, options.score_thr) == ((8, 8, 16, 32, 32), 0.05)
    assert len(GRIDS) == len(options.min_area)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_thr": 1.5}, r"class_thr: expected a number in \[0, 1\], got 1.5"),
        ({"max_detections": 0}, "max_detections: expected at least 1, or null for all, got 0"),
        ({"nms": "soft"}, "nms: expected matrix, greedy or none, got 'soft'"),
        ({"sigma": 0.0}, "sigma: expected a number above 0"),
        ({"min_area": (1, 2)}, r"min_area: expected 5 numbers .* got \(1, 2\)"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectOptions(**changes)
