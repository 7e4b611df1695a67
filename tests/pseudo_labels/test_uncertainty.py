import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.losses.solo import SoloInstances, dice_loss, disjoint_ranges, solo_loss, solo_targets
from pipeline.masks.instances import Instances
from pipeline.masks.soft_format import SoftMask, encode_soft
from pipeline.models.solov2 import SoloOutput
from pipeline.pseudo_labels.soft_view import View
from pipeline.pseudo_labels.uncertainty import certainty, joined_pixel_weights, pixel_weights, weight_windows
from tests.pseudo_labels.rows_by_hand import boxes

IMAGE_HW = (32, 32)
SAME = View.whole(IMAGE_HW, IMAGE_HW, IMAGE_HW)
LARGER = View.whole(IMAGE_HW, (44, 44), (64, 64), flip=True)
CORNERS = [(0, 0, 16, 16), (8, 8, 24, 20)]


def rows_of(maps: list[np.ndarray], *, source: list[str] | str = "solov2") -> Instances:
    """Rows whose soft masks cover all cells of the image, the masks being boxes."""
    blobs = [encode_soft(SoftMask(one.astype(np.float32), 0, 0)) for one in maps]
    return boxes(CORNERS[: len(maps)], size_hw=IMAGE_HW, prob_q8=blobs, source=source)


def random_maps(seed: int, n: int = 2, *, sure: bool = False) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256, (n, 8, 8)) if not sure else rng.integers(0, 2, (n, 8, 8)) * 255
    return list(levels / 255.0)


def scene(seed: int) -> tuple[SoloOutput, SoloInstances]:
    make = torch.Generator().manual_seed(seed)
    masks = torch.zeros(2, *IMAGE_HW, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, CORNERS, strict=True):
        mask[y0:y1, x0:x1] = True
    grids = (4, 2)
    output = SoloOutput(
        class_logits=[torch.randn(1, 2, s, s, generator=make, dtype=torch.float64) for s in grids],
        kernels=[torch.randn(1, 3, s, s, generator=make, dtype=torch.float64) for s in grids],
        mask_features=torch.randn(1, 3, 8, 8, generator=make, dtype=torch.float64),
    )
    return output, SoloInstances(masks, torch.tensor([0, 1]))


def loss_of(seed: int, weights: Tensor | None) -> dict[str, float]:
    output, instances = scene(seed)
    targets = solo_targets([instances], grids=(4, 2), ranges_px=disjoint_ranges((1, 15, 99)), size_hw=IMAGE_HW)
    assert targets.n_positive > 0
    found = solo_loss(output, targets, pixel_weights=None if weights is None else [weights])
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("view", [SAME, LARGER])
def test_a_sure_teacher_weighs_one_everywhere_at_every_size(view: View) -> None:
    rows = rows_of(random_maps(0, sure=True))
    assert torch.equal(pixel_weights(rows, view), torch.ones(2, *view.cells_hw(4)))
    assert torch.equal(joined_pixel_weights(rows, view), torch.ones(view.cells_hw(4)))


def test_a_sure_teacher_gives_the_plain_losses() -> None:
    sure, doubtful = rows_of(random_maps(1, sure=True)), rows_of(random_maps(1))
    assert loss_of(3, pixel_weights(sure, SAME)) == loss_of(3, None)
    assert loss_of(3, pixel_weights(doubtful, SAME))["dice"] != loss_of(3, None)["dice"]
    assert loss_of(3, pixel_weights(doubtful, SAME))["focal"] == loss_of(3, None)["focal"]

    logits = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    target = (torch.rand(8, 8, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    plain = F.binary_cross_entropy_with_logits(logits, target)
    weighted = [
        F.binary_cross_entropy_with_logits(logits, target, joined_pixel_weights(rows, SAME))
        for rows in (sure, doubtful)
    ]
    assert weighted[0] == plain
    assert weighted[1] < plain  # not renormalised


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_weights_are_those_of_the_formula(seed: int) -> None:
    maps = random_maps(seed)
    weights = pixel_weights(rows_of(maps), SAME).double().numpy()
    np.testing.assert_allclose(weights, [np.abs(2 * one - 1) for one in maps], atol=1e-6)
    likeliest = np.maximum(*maps)
    np.testing.assert_allclose(joined_pixel_weights(rows_of(maps), SAME), np.abs(2 * likeliest - 1), atol=1e-6)


def test_weighted_dice_is_that_of_the_spec() -> None:
    [prob] = random_maps(5, 1)
    weight = pixel_weights(rows_of([prob]), SAME).double().flatten(1)
    student = torch.rand(1, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = (torch.rand(1, 64, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    w, s, t = (each[0].tolist() for each in (weight, student, target))
    top = sum(a * b * c for a, b, c in zip(w, s, t, strict=True))
    below = sum(a * b * b for a, b in zip(w, s, strict=True)) + sum(a * b * b for a, b in zip(w, t, strict=True))
    assert float(dice_loss(student, target, weight)) == pytest.approx(1 - 2 * top / (below + 0.002))


def test_literal_weights_and_what_the_store_does_not_hold() -> None:
    blob = encode_soft(SoftMask(np.array([[1.0, 0.8], [0.5, 0.0]], np.float32), 2, 1))
    rows = boxes([(8, 4, 16, 12)], size_hw=IMAGE_HW, prob_q8=[blob])
    weights = pixel_weights(rows, SAME)[0]
    expected = torch.ones(8, 8)
    expected[1:3, 2:4] = torch.tensor([[1.0, 0.6], [0.0, 1.0]])
    torch.testing.assert_close(weights, expected, atol=0.005, rtol=0)
    [window] = weight_windows(rows, SAME)
    assert (window.x0, window.y0, window.values.shape) == (2, 1, (2, 2))


def test_an_instance_is_as_sure_as_the_likeliest_of_all() -> None:
    rows = rows_of([np.full((8, 8), 0.9), np.full((8, 8), 0.4)])
    torch.testing.assert_close(joined_pixel_weights(rows, SAME), torch.full((8, 8), 0.8), atol=0.005, rtol=0)


def test_truth_weighs_one() -> None:
    doubt = np.full((8, 8), 0.5)
    rows = rows_of([doubt, doubt], source=["truth", "solov2"])
    weights = pixel_weights(rows, SAME)
    assert (weights[0] == 1).all()
    assert (weights[1] < 0.01).all()
    joined = joined_pixel_weights(rows, SAME)
    assert (joined[:4, :4] == 1).all()
    assert (joined[4:] < 0.01).all()
    without = boxes(CORNERS, size_hw=IMAGE_HW, source="truth")
    assert (pixel_weights(without, SAME) == 1).all()


def test_off_needs_no_soft_masks() -> None:
    rows = boxes(CORNERS, size_hw=IMAGE_HW)
    assert torch.equal(pixel_weights(rows, LARGER, mode="off"), torch.ones(2, 16, 16))
    assert torch.equal(joined_pixel_weights(rows, LARGER, mode="off"), torch.ones(16, 16))


@pytest.mark.parametrize("make", [pixel_weights, joined_pixel_weights, weight_windows])
def test_a_store_without_soft_masks_is_refused(make: object) -> None:
    rows = boxes([*CORNERS, (0, 0, 0, 0)], size_hw=IMAGE_HW)
    assert callable(make)
    with pytest.raises(PipelineError, match="prob_q8: 2 of 3 rows have no soft mask, as pixel_weights: uncertainty"):
        make(rows, SAME)


def test_rows_without_a_mask_and_images_without_rows() -> None:
    blob = encode_soft(SoftMask(np.full((8, 8), 0.5, np.float32), 0, 0))
    rows = boxes([(0, 0, 0, 0), (0, 0, 8, 8)], size_hw=IMAGE_HW, prob_q8=[None, blob])
    assert (pixel_weights(rows, SAME)[0] == 1).all()
    assert pixel_weights(Instances.empty(IMAGE_HW), SAME).shape == (0, 8, 8)
    assert (joined_pixel_weights(Instances.empty(IMAGE_HW), SAME) == 1).all()


def test_certainty() -> None:
    np.testing.assert_allclose(certainty(np.array([0, 0.25, 0.5, 1], np.float32)), [1, 0.5, 0, 1])
