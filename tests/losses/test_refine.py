import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.losses.refine import refine_loss

B, H, W = 2, 3, 4


def oracle(logits, target, valid):
    """Dice and cross-entropy, one pixel at a time."""
    shared = predicted = true = entropy = 0.0
    n = 0
    for b in range(len(logits)):
        for y in range(logits.shape[2]):
            for x in range(logits.shape[3]):
                if not valid[b, y, x]:
                    continue
                background, foreground = (math.exp(logits[b, k, y, x]) for k in (0, 1))
                p, t = foreground / (background + foreground), float(target[b, y, x])
                shared, predicted, true = shared + p * t, predicted + p * p, true + t * t
                entropy -= math.log(p if t else 1 - p)
                n += 1
    return 1 - 2 * shared / (predicted + true + 0.002), entropy / max(n, 1)


def random_case(seed, valid_frac):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (B, 2, H, W))
    return logits, rng.random((B, H, W)) < 0.5, rng.random((B, H, W)) < valid_frac


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.7]))
def test_it_is_what_a_loop_over_pixels_gives(seed, valid_frac, ce_weight):
    logits, target, valid = random_case(seed, valid_frac)
    found = refine_loss(
        torch.from_numpy(logits), torch.from_numpy(target), torch.from_numpy(valid), ce_weight=ce_weight
    )
    dice, entropy = oracle(logits, target, valid)
    assert found["dice"].item() == pytest.approx(dice, abs=1e-12)
    assert found["cross_entropy"].item() == pytest.approx(entropy, abs=1e-12)
    assert found["loss"].item() == pytest.approx(dice + ce_weight * entropy, abs=1e-12)


@pytest.mark.parametrize(
    ("margin", "target", "dice"),
    [
        (50.0, True, 1 - 2 * 24 / (24 + 24 + 0.002)),
        (-50.0, True, 1.0),
        (0.0, True, 1 - 2 * 12 / (6 + 24 + 0.002)),
        (-50.0, False, 1.0),
    ],
)
def test_literal_values(margin, target, dice):
    logits = torch.zeros(B, 2, H, W)
    logits[:, 1] = margin
    found = refine_loss(logits, torch.full((B, H, W), target), torch.ones(B, H, W, dtype=torch.bool), ce_weight=1.0)
    assert found["dice"].item() == pytest.approx(dice, abs=1e-6)


def test_dice_is_one_figure_for_the_batch_whatever_its_shape():
    logits, target, valid = (torch.from_numpy(each) for each in random_case(0, 1.0))
    whole = refine_loss(logits, target, valid, ce_weight=0.0)["loss"]
    laid_out = refine_loss(
        logits.permute(1, 0, 2, 3).reshape(1, 2, B * H, W), target.reshape(1, B * H, W), valid.reshape(1, B * H, W),
        ce_weight=0.0,
    )["loss"]  # fmt: skip
    assert whole.item() == pytest.approx(laid_out.item(), abs=1e-12)
    alone = [refine_loss(logits[b : b + 1], target[b : b + 1], valid[b : b + 1], ce_weight=0.0)["loss"] for b in (0, 1)]
    assert whole.item() != pytest.approx(float(torch.stack(alone).mean()), abs=1e-6)


def test_gradients_are_right_and_absent_where_pixels_do_not_count():
    logits, target, valid = (torch.from_numpy(each) for each in random_case(1, 0.6))
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: refine_loss(z, target, valid, ce_weight=0.5)["loss"], logits)
    refine_loss(logits, target, valid, ce_weight=0.5)["loss"].backward()
    assert logits.grad is not None
    moved = (logits.grad != 0).any(dim=1)
    assert torch.equal(moved, valid)


def test_half_precision_is_summed_in_float():
    logits, target, valid = (torch.from_numpy(each) for each in random_case(2, 1.0))
    found = refine_loss(logits.bfloat16(), target, valid, ce_weight=1.0)
    assert {value.dtype for value in found.values()} == {torch.float32}
