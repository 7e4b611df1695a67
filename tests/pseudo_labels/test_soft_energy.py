"""Probabilities from energies, against one frame per candidate written plainly."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.masks.soft_format import decode_soft
from pipeline.models.embedding import smooth_embedding
from pipeline.pseudo_labels import energy
from pipeline.pseudo_labels.energy import TRAINING_ENERGY, energy_instances, energy_label_map
from pipeline.pseudo_labels.soft_energy import SoftEnergy

TAU, LAMBDA_GEO, SIGMA = 0.8, 0.6, 1.5


def random_embedding(seed: int, h: int, w: int) -> Tensor:
    values = torch.randn(3, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values + 0.7, dim=0)


def plain_probs(
    embedding: Tensor, points: np.ndarray, radii: np.ndarray, size_hw: tuple[int, int], whole: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W) p of every candidate and (H, W) owner, -1 for none; the points are pixel centres."""
    fine_hw = (4 * embedding.shape[1], 4 * embedding.shape[2])
    field = smooth_embedding(embedding[None], size_hw=fine_hw, blur_sigma=SIGMA)[0].numpy()
    probs = np.zeros((len(points), *size_hw))
    owner = np.full(size_hw, -1)
    order = np.lexsort(points.T)
    for y, x in np.ndindex(*size_hw):
        energies = np.full(len(points), math.inf)
        for k, (px, py) in enumerate(points):
            squared = (x - px) ** 2 + (y - py) ** 2
            if squared <= radii[k] ** 2:
                far = math.sqrt(((field[:, y, x] - field[:, int(py), int(px)]) ** 2).sum())
                energies[k] = far + LAMBDA_GEO * squared / radii[k] ** 2
        takes = [k for k in order if energies[k] < (math.inf if whole[k] else TAU)]
        reaches = [k for k in order if energies[k] < math.inf]
        if reaches:
            one = min(takes or reaches, key=lambda k: energies[k])
            probs[one, y, x] = max(2 ** (-energies[one] / TAU), 0.5 if whole[one] else 0.0)
            owner[y, x] = one if takes else -1
    return probs, owner


def plain_cell(prob: np.ndarray, i: int, j: int) -> float:
    """Mean of the four pixels around the centre of a cell; beyond the image its outermost."""
    height, width = prob.shape
    places = [(min(4 * i + a, height - 1), min(4 * j + b, width - 1)) for a in (1, 2) for b in (1, 2)]
    return float(np.mean([prob[place] for place in places]))


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 999), st.integers(1, 6), st.sampled_from([(16, 20), (13, 17), (14, 19)]), st.booleans(),
    st.sampled_from([2**18, 40]),
)  # fmt: skip
def test_quality_and_soft_masks_are_those_of_plain_frames(
    seed: int, n: int, size_hw: tuple[int, int], gated: bool, band_pixels: int
) -> None:
    rng = np.random.default_rng(seed)
    flat = rng.choice(size_hw[0] * size_hw[1], n, replace=False)
    points = np.stack([flat % size_hw[1], flat // size_hw[1]], axis=1).astype(np.float64)
    radii, whole = rng.uniform(1.5, 9.5, n), (rng.random(n) < 0.5) & gated
    embedding = random_embedding(seed, 4, 5)
    soft = SoftEnergy(n, size_hw, tau=TAU, keep_prob=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(energy, "_BAND_PIXELS", band_pixels)  # bands of two rows, which cut cells
        labels = energy_label_map(
            embedding, points, size_hw=size_hw, radii_px=radii, whole_disc=whole, tau=TAU, lambda_geo=LAMBDA_GEO,
            blur_sigma=SIGMA, soft=soft,
        ).numpy()  # fmt: skip
    probs, owner = plain_probs(embedding, points, radii, size_hw, whole)
    np.testing.assert_array_equal(labels - 1, owner)
    boxes = np.zeros((n, 4), dtype=np.int64)
    quality = soft.mask_quality(np.bincount(labels.ravel(), minlength=n + 1)[1:])
    for k in range(n):
        y, x = np.nonzero(labels == k + 1)
        assert quality[k] == pytest.approx(probs[k][y, x].mean() if len(y) else 0.0, abs=1e-9)
        if len(y):
            boxes[k] = x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()
    for k, blob in enumerate(soft.soft_masks(boxes)):
        assert (blob is None) == (not boxes[k, 2])
        if blob is None:
            continue
        found = decode_soft(blob)
        x, y, width, height = boxes[k].tolist()
        assert (found.x0, found.y0) == (max(x // 4 - 1, 0), max(y // 4 - 1, 0))
        end = (min((y + height - 1) // 4 + 2, -(-size_hw[0] // 4)), min((x + width - 1) // 4 + 2, -(-size_hw[1] // 4)))
        assert (found.y0 + found.prob.shape[0], found.x0 + found.prob.shape[1]) == end
        expected = [
            [plain_cell(probs[k], i, j) for j in range(found.x0, end[1])] for i in range(found.y0, end[0])
        ]  # fmt: skip
        np.testing.assert_allclose(found.prob, expected, atol=0.5 / 255 + 1e-6)


def test_a_mask_is_where_its_own_probability_exceeds_a_half() -> None:
    embedding = random_embedding(3, 5, 6)
    points, radii = np.array([[5.0, 6.0], [13.0, 9.0]]), np.array([8.0, 9.0])
    probs, owner = plain_probs(embedding, points, radii, (20, 24), np.zeros(2, dtype=bool))
    for k in range(2):
        np.testing.assert_array_equal(probs[k] > 0.5, owner == k)
    assert ((probs > 0) & (probs < 0.5)).any()


def one_head(prob: float) -> tuple[Tensor, Tensor]:
    logits = torch.full((8, 8), -9.0)
    logits[3, 3] = math.log(prob / (1 - prob))
    return logits, torch.nn.functional.normalize(torch.ones(2, 8, 8), dim=0)


def test_without_a_difference_in_the_embedding_the_distance_alone_counts() -> None:
    rows = energy_instances(*one_head(0.95), size_hw=(32, 32))
    # Alone, radius 8: E = 0.6·(d/8)², below τ = 0.8 in the whole circle, but for the blur at the image's edge.
    y, x = np.mgrid[:32, :32]
    squared = (x - 13.5) ** 2 + (y - 13.5) ** 2
    expected = 2 ** (-0.6 * squared[squared <= 64] / 64 / 0.8)
    assert rows.mask_quality.tolist() == pytest.approx([expected.mean()], abs=1e-5)
    assert rows.class_score.tolist() == rows.score.tolist() == pytest.approx([0.95], abs=1e-6)
    assert rows.prob_q8 is None


def test_soft_masks_change_no_other_column() -> None:
    without = energy_instances(*one_head(0.6), size_hw=(31, 30))
    kept = energy_instances(*one_head(0.6), size_hw=(31, 30), keep_prob=True)
    assert kept.prob_q8 is not None
    assert replace(kept, prob_q8=None).equals(without)


def test_a_whole_disc_that_nothing_resembles_is_a_coins_toss() -> None:
    options = replace(TRAINING_ENERGY, tau=1e-6, density_gate=True)
    logits, _ = one_head(0.4)
    rows = energy_instances(
        logits, random_embedding(0, 8, 8).float(), options=options, size_hw=(32, 32), keep_prob=True
    )
    assert rows.mask_quality.tolist() == pytest.approx([0.5])
    assert rows.prob_q8 is not None
    soft = decode_soft(rows.prob_q8[0] or b"")
    assert soft.prob.max() == pytest.approx(0.5, abs=0.5 / 255 + 1e-6)
    empty = energy_instances(
        logits, random_embedding(0, 8, 8).float(), options=replace(options, density_gate=False), size_hw=(32, 32),
        keep_prob=True,
    )  # fmt: skip
    assert (empty.mask_quality.tolist(), empty.prob_q8) == ([0.0], None)


def test_an_image_without_candidates() -> None:
    rows = energy_instances(torch.full((4, 4), -9.0), torch.ones(2, 4, 4), size_hw=(16, 16), keep_prob=True)
    assert len(rows) == 0
    assert rows.prob_q8 is None
