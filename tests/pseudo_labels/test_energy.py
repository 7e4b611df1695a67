import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.models.embedding import smooth_embedding
from pipeline.pseudo_labels import energy
from pipeline.pseudo_labels.energy import (
    EVALUATION_ENERGY,
    TRAINING_ENERGY,
    EnergyOptions,
    candidates,
    energy_instances,
    energy_label_map,
    energy_masks,
)

Point = tuple[float, float]
H, W = 20, 24


def random_embedding(seed: int, h: int = H // 4, w: int = W // 4, channels: int = 3) -> Tensor:
    values = torch.randn(channels, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=0)


def logit(prob: float) -> float:
    return math.log(prob / (1 - prob))


def oracle_radii(points: list[Point], size_hw: tuple[int, int]) -> list[float]:
    radii = []
    for px, py in points:
        others = [math.sqrt((px - qx) ** 2 + (py - qy) ** 2) for qx, qy in points if (qx, qy) != (px, py)]
        largest = 0.5 * min(size_hw)
        radii.append(max(min(min(others), largest), 3.0) if others else max(0.25 * min(size_hw), 3.0))
    return radii


def oracle(
    embedding: Tensor,
    points: list[Point],
    *,
    size_hw: tuple[int, int] = (H, W),
    radii: list[float] | None = None,
    whole_disc: list[bool] | None = None,
    tau: float = 0.8,
    lambda_geo: float = 0.6,
    sigma: float = 1.5,
) -> tuple[np.ndarray, np.ndarray]:
    """The label map as the spec says it, one point and one frame at a time, and where rounding could decide otherwise.

    The upsampled, blurred embedding has its own plain form in ``tests/models/test_embedding.py``.
    """
    height, width = size_hw
    fine_hw = (4 * embedding.shape[1], 4 * embedding.shape[2])
    smooth = smooth_embedding(embedding[None].double(), size_hw=fine_hw, blur_sigma=sigma)[0].numpy()
    radii = radii or oracle_radii(points, size_hw)
    label_map, doubtful = np.zeros(size_hw, np.int32), np.zeros(size_hw, bool)
    centers = []
    for px, py in points:
        cx, cy = min(max(px, 0), width - 1), min(max(py, 0), height - 1)
        x0, y0 = int(cx), int(cy)
        x1, y1, a, b = min(x0 + 1, width - 1), min(y0 + 1, height - 1), cx - x0, cy - y0
        top = smooth[:, y0, x0] * (1 - a) + smooth[:, y0, x1] * a
        centers.append(top * (1 - b) + (smooth[:, y1, x0] * (1 - a) + smooth[:, y1, x1] * a) * b)
    y, x = np.mgrid[:height, :width]

    def claim(k: int) -> tuple[np.ndarray, np.ndarray]:
        """Energy of point k in the whole frame, and where it is close to the limit."""
        squared = (x - points[k][0]) ** 2 + (y - points[k][1]) ** 2
        value = np.linalg.norm(smooth[:, :height, :width] - centers[k][:, None, None], axis=0)
        value += lambda_geo * squared / radii[k] ** 2
        limit = math.inf if whole_disc and whole_disc[k] else tau
        inside = squared <= radii[k] * radii[k]
        return np.where(inside & (value < limit), value, math.inf), inside & (np.abs(value - limit) < 1e-6)

    least = np.full(size_hw, math.inf)
    for k in sorted(range(len(points)), key=lambda k: (points[k][1], points[k][0], k)):
        value, close = claim(k)
        doubtful |= close
        wins = value < least
        least[wins], label_map[wins] = value[wins], k + 1
    place = np.array([(math.nan, math.nan), *points])[label_map]
    for k in range(len(points)):
        rival = (place != points[k]).any(axis=2)
        doubtful |= rival & (claim(k)[0] - np.where(label_map > 0, least, -math.inf) < 1e-6)
    return label_map, doubtful


def assert_same(got: Tensor, expected: tuple[np.ndarray, np.ndarray]) -> None:
    assert got.dtype == torch.int32
    label_map, doubtful = expected
    np.testing.assert_array_equal(np.where(doubtful, -1, got.numpy()), np.where(doubtful, -1, label_map))


def array(points: list[Point]) -> np.ndarray:
    return np.array(points, dtype=np.float64).reshape(-1, 2)


cell = st.tuples(st.integers(0, W // 4 - 1), st.integers(0, H // 4 - 1)).map(lambda c: (4 * c[0] + 1.5, 4 * c[1] + 1.5))
anywhere = st.tuples(st.integers(-4, 2 * W + 4), st.integers(-4, 2 * H + 4)).map(lambda p: (p[0] / 2, p[1] / 2))


@settings(deadline=None, max_examples=50)
@given(
    points=st.lists(cell, max_size=8) | st.lists(anywhere, max_size=8),
    seed=st.integers(0, 99),
    tau=st.sampled_from([0.4, 0.8, 1.1]),
    band=st.sampled_from([W, 3 * W, 2**18]),
)
def test_equals_the_plain_form(points: list[Point], seed: int, tau: float, band: int) -> None:
    embedding = random_embedding(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(energy, "_BAND_PIXELS", band)
        got = energy_label_map(embedding, array(points), tau=tau)
    assert_same(got, oracle(embedding, points, tau=tau))


@pytest.mark.parametrize(
    "points",
    [
        pytest.param([], id="none"),
        pytest.param([(9.5, 9.5)], id="one: a quarter of the image"),
        pytest.param([(9.5, 5.5)] * 3, id="duplicates alone"),
        pytest.param([(9.5, 5.5), (17.5, 9.5), (9.5, 5.5)], id="duplicates"),
        pytest.param([(-0.5, 0.0), (23.4, 19.4), (0.0, 19.0)], id="on the border"),
        pytest.param([(9.0 + 0.2 * k, 9.5) for k in range(6)], id="all in one cell"),
        pytest.param([(4 * i + 1.5, 4 * j + 1.5) for j in range(5) for i in range(6)], id="every cell"),
    ],
)
def test_special_places(points: list[Point]) -> None:
    embedding = random_embedding(3)
    assert_same(energy_label_map(embedding, array(points)), oracle(embedding, points))


def test_many_points_in_single_precision_with_the_values_of_evaluation() -> None:
    rng = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in rng.uniform(0, [63, 47], (60, 2))]
    embedding = torch.nn.functional.normalize(random_embedding(1, 12, 16) + 0.7, dim=0)
    options = EVALUATION_ENERGY
    got = energy_label_map(
        embedding.float(), array(points), tau=options.tau, lambda_geo=options.lambda_geo, blur_sigma=options.blur_sigma
    )
    assert_same(got, oracle(embedding, points, size_hw=(48, 64), tau=1.1, lambda_geo=0.8, sigma=3.0))
    assert len(np.unique(got.numpy())) > 50


def test_three_thousand_points() -> None:
    points = [(float(x), float(y)) for x, y in np.random.default_rng(4).uniform(-1, 64, (3000, 2))]
    embedding = random_embedding(4, 16, 16)
    expected = oracle(embedding, points, size_hw=(64, 64))
    assert_same(energy_label_map(embedding, array(points)), expected)
    assert expected[1].mean() < 0.01
    assert len(np.unique(expected[0])) > 1000


@settings(deadline=None, max_examples=30)
@given(points=st.lists(cell, min_size=2, max_size=10, unique=True), seed=st.integers(0, 9), shuffle=st.randoms())
def test_order_of_points_does_not_matter(points: list[Point], seed: int, shuffle: object) -> None:
    embedding = random_embedding(seed).float()
    order = list(range(len(points)))
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    before = energy_label_map(embedding, array(points)).numpy()
    after = energy_label_map(embedding, array([points[k] for k in order])).numpy()
    np.testing.assert_array_equal(before, np.concatenate([[0], np.array(order) + 1])[after])


def test_literal_masks_and_ties() -> None:
    # One embedding everywhere: far from the border the energy is geometry alone, 0.6·(distance / 8)² < tau.
    embedding = torch.zeros(2, 12, 12)
    embedding[0] = 1.0
    points = array([(27.0, 24.0), (19.0, 24.0)])
    wide = energy_label_map(embedding, points, tau=0.8).numpy()
    assert wide[24, 19 - 8] == 2  # the disc is closed
    assert wide[24, 19 - 9] == 0
    assert wide[24, 22] == 2
    assert wide[24, 24] == 1
    assert (wide[18:31, 23] == 2).all()  # the middle column is a tie: to the smaller x
    # (distance / 8)² < 0.25: a disc of radius below 4.
    narrow = energy_label_map(embedding, points, tau=0.15).numpy()
    for k, x0 in ((1, 27), (2, 19)):
        rows, columns = np.nonzero(narrow == k)
        assert ((rows - 24) ** 2 + (columns - x0) ** 2).max() == 13
        assert len(rows) == sum(y * y + x * x < 16 for y in range(-4, 5) for x in range(-4, 5))


def test_pixels_that_resemble_another_are_left_out() -> None:
    embedding = torch.zeros(2, 12, 12)
    embedding[0, :, :6], embedding[1, :, 6:] = 1.0, 1.0  # distance √2 between the halves
    point, radius = array([(20.0, 24.0)]), np.array([12.0])
    labels = energy_label_map(embedding, point, radii_px=radius).numpy()
    assert labels[24, 20] == 1
    assert not labels[:, 28:].any()
    whole = energy_label_map(embedding, point, radii_px=radius, whole_disc=np.array([True])).numpy()
    assert whole[24, 32] == 1
    assert int(whole.sum()) == sum(y * y + x * x <= 144 for y in range(-12, 13) for x in range(-12, 13))


def test_image_smaller_than_the_padded_map() -> None:
    embedding = random_embedding(5)
    points = [(5.5, 5.5), (13.5, 9.5), (17.0, 16.0)]
    got = energy_label_map(embedding, array(points), size_hw=(17, 18))
    assert got.shape == (17, 18)
    assert_same(got, oracle(embedding, points, size_hw=(17, 18)))
    with pytest.raises(ValueError, match="expected at most"):
        energy_label_map(embedding, array(points), size_hw=(21, 20))


def test_candidates_keep_peaks_and_their_radii() -> None:
    logits = torch.full((6, 8), -9.0)
    logits[1, 1], logits[1, 2], logits[1, 5], logits[4, 5] = logit(0.95), logit(0.6), logit(0.5), logit(0.11)
    logits[5, 0] = logit(0.09)
    found = candidates(logits)
    np.testing.assert_allclose(found.points_xy, [[5.5, 5.5], [21.5, 5.5], [21.5, 17.5]])
    np.testing.assert_allclose(found.prob, [0.95, 0.5, 0.11], rtol=1e-6)
    np.testing.assert_allclose(found.radius_px, [12.0, 12.0, 12.0])
    assert found.confident.tolist() == [True, False, False]
    reference = candidates(logits, options=replace(TRAINING_ENERGY, suppress="none"))
    np.testing.assert_allclose(reference.radius_px, [4.0, 4.0, 12.0, 12.0])


def test_candidates_alone_none_and_in_the_padding() -> None:
    logits = torch.full((6, 8), -9.0)
    assert len(candidates(logits)) == 0
    logits[5, 7] = 3.0
    np.testing.assert_allclose(candidates(logits).radius_px, [6.0])
    assert len(candidates(logits, size_hw=(24, 29))) == 0
    logits[0, 0] = 3.0
    np.testing.assert_allclose(candidates(logits).radius_px, [12.0, 12.0])


def test_density_gate_gives_whole_discs_to_the_unsure() -> None:
    logits = torch.full((12, 12), -9.0)
    logits[5, 2], logits[5, 9] = logit(0.4), logit(0.6)
    embedding = random_embedding(0, 12, 12)
    closed = replace(TRAINING_ENERGY, tau=1e-6)
    assert int(energy_masks(logits, embedding, options=closed)[0].sum()) == 0
    labels, found = energy_masks(logits, embedding, options=replace(closed, density_gate=True))
    np.testing.assert_allclose(found.radius_px, [24.0, 24.0])
    assert labels.unique().tolist() == [0, 1]


def test_instances_one_row_per_candidate() -> None:
    logits = torch.full((12, 12), -9.0)
    logits[5, 2], logits[5, 9], logits[10, 6] = logit(0.95), logit(0.6), logit(0.2)
    embedding = torch.zeros(2, 12, 12)
    embedding[0] = 1.0
    embedding[:, 10, 6] = torch.tensor([0.0, 1.0])
    embedding[1, 9:, 5:8] += torch.tensor([[3.0, -3.0, 3.0]])  # nothing around the third resembles it
    options = replace(TRAINING_ENERGY, tau=0.05)
    rows = energy_instances(logits, embedding, options=options, size_hw=(47, 45), round=2)
    labels, found = energy_masks(logits, embedding, options=options, size_hw=(47, 45))
    assert rows.point_id.tolist() == [0, 1, 2]
    assert rows.status.tolist()[:2] == ["ok", "ambiguous"]
    assert set(rows.source.tolist()) == {"energy"}
    assert set(rows.round.tolist()) == {2}
    np.testing.assert_allclose(rows.score, found.prob, rtol=1e-6)
    np.testing.assert_array_equal(rows.label_map(), labels.numpy())
    assert rows.size_hw == (47, 45)


def test_instances_without_pixels_are_empty_rows() -> None:
    logits = torch.full((4, 4), -9.0)
    logits[1, 1] = 3.0
    options = replace(TRAINING_ENERGY, tau=1e-9)
    rows = energy_instances(logits, random_embedding(0, 4, 4), options=options, size_hw=(16, 16))
    assert rows.status.tolist() == ["empty"]
    assert rows.area_px.tolist() == [0]
    assert len(energy_instances(logits - 9.0, random_embedding(0, 4, 4), size_hw=(16, 16))) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": 0.0}, "tau"),
        ({"lambda_geo": -0.1}, "lambda_geo"),
        ({"blur_sigma": 0.0}, "blur_sigma"),
        ({"candidate_prob": 1.2}, "candidate_prob"),
        ({"candidate_prob": 0.95}, "at most confident_prob"),
        ({"suppress": "all"}, "local_max_3x3 or none"),
        ({"min_radius_px": math.nan}, "min_radius_px"),
    ],
)
def test_options_out_of_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnergyOptions(**change)  # type: ignore[arg-type]
