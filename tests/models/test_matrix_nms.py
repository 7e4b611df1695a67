import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.models.matrix_nms import greedy_mask_nms, mask_iou, mask_overlaps, matrix_nms


def plain_iou(one: Tensor, other: Tensor) -> float:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0


def ranked(scores: Tensor) -> list[int]:
    return sorted(range(len(scores)), key=lambda k: (-float(scores[k]), k))


def plain_matrix_nms(masks: Tensor, class_id: Tensor, scores: Tensor, sigma: float = 2.0) -> list[float]:
    """The formula of the spec, one pair at a time."""
    order = ranked(scores)
    above = {j: [i for i in order[: order.index(j)] if class_id[i] == class_id[j]] for j in order}
    largest = {i: max((plain_iou(masks[i], masks[k]) for k in above[i]), default=0.0) for i in order}
    return [
        min((math.exp(-sigma * (plain_iou(masks[i], masks[j]) ** 2 - largest[i] ** 2)) for i in above[j]), default=1.0)
        for j in range(len(masks))
    ]


def plain_greedy(masks: Tensor, class_id: Tensor, scores: Tensor, max_iou: float) -> list[bool]:
    kept: list[int] = []
    for j in ranked(scores):
        if not any(class_id[i] == class_id[j] and plain_iou(masks[i], masks[j]) > max_iou for i in kept):
            kept.append(j)
    return [j in kept for j in range(len(masks))]


def boxes(n: int, seed: int, size_hw: tuple[int, int] = (40, 70)) -> Tensor:
    """Boxes over more than one tile, some of them empty, some equal."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(n, *size_hw, dtype=torch.bool)
    for k in range(n):
        x, y = (int(torch.randint(0, side - 5, (1,), generator=generator)) for side in size_hw[::-1])
        w, h = torch.randint(0, 30, (2,), generator=generator).tolist()
        masks[k, y : y + h, x : x + w] = True
        if k and float(torch.rand(1, generator=generator)) < 0.3:
            masks[k] = masks[k - 1]
    return masks


# Few scores make ties, few classes make neighbours.
@settings(deadline=None, max_examples=40)
@given(n=st.integers(0, 14), classes=st.integers(1, 3), steps=st.sampled_from([3, 1000]), seed=st.integers(0, 999))
def test_equal_the_plain_forms(n: int, classes: int, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = boxes(n, seed)
    class_id = torch.randint(0, classes, (n,), generator=generator)
    scores = torch.randint(1, steps + 1, (n,), generator=generator) / steps
    shared = mask_overlaps(masks)
    assert shared.tolist() == [[int((a & b).sum()) for b in masks] for a in masks]
    assert matrix_nms(masks, class_id, scores).tolist() == pytest.approx(plain_matrix_nms(masks, class_id, scores))
    for max_iou in (0.2, 0.5):
        kept = greedy_mask_nms(masks, class_id, scores, max_iou=max_iou)
        assert kept.tolist() == plain_greedy(masks, class_id, scores, max_iou)


def test_two_sets_of_masks() -> None:
    masks, others = boxes(7, 1), boxes(4, 2)
    assert mask_iou(masks, others).shape == (7, 4)
    expected = [[plain_iou(a, b) for b in others] for a in masks]
    torch.testing.assert_close(mask_iou(masks, others), torch.tensor(expected))
    assert mask_overlaps(masks[:0], others).shape == (0, 4)


def halves() -> Tensor:
    """Three masks of 8 pixels: the second shares 6 with the first, the third 4 with the second and 2 with the first."""
    masks = torch.zeros(3, 1, 16, dtype=torch.bool)
    for k, x in enumerate((0, 2, 6)):
        masks[k, 0, x : x + 8] = True
    return masks


def test_matrix_nms_by_hand() -> None:
    first, second, far = 6 / 10, 4 / 12, 2 / 14
    decay = matrix_nms(halves(), torch.zeros(3, dtype=torch.int64), torch.tensor([0.9, 0.8, 0.7]))
    expected = [
        1.0,
        math.exp(-2 * first**2),
        min(math.exp(-2 * far**2), math.exp(-2 * (second**2 - first**2))),
    ]
    assert decay.tolist() == pytest.approx(expected)
    assert expected[2] == math.exp(-2 * far**2)


def test_sigma_is_the_strength() -> None:
    masks, class_id, scores = halves(), torch.zeros(3, dtype=torch.int64), torch.tensor([0.9, 0.8, 0.7])
    weak, strong = matrix_nms(masks, class_id, scores, sigma=0.5), matrix_nms(masks, class_id, scores)
    torch.testing.assert_close(weak.pow(4), strong)


def test_other_classes_and_lower_scores_do_no_harm() -> None:
    masks = halves()[[0, 0, 0]]
    decay = matrix_nms(masks, torch.tensor([0, 1, 0]), torch.tensor([0.5, 0.1, 0.9]))
    assert decay.tolist() == pytest.approx([math.exp(-2), 1.0, 1.0])
    assert greedy_mask_nms(masks, torch.tensor([0, 1, 0]), torch.tensor([0.5, 0.1, 0.9])).tolist() == [
        False,
        True,
        True,
    ]


def test_a_mask_that_greedy_nms_dropped_drops_no_other() -> None:
    zeros = torch.zeros(3, dtype=torch.int64)
    assert greedy_mask_nms(halves(), zeros, torch.tensor([0.9, 0.8, 0.7]), max_iou=0.3).tolist() == [True, False, True]
