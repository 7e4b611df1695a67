import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.losses.point_to_region import nearest_heads, point_to_region_loss, positive_cells

Point = tuple[float, float]


def oracle(
    logits: Tensor,
    heads: Sequence[Sequence[Point]],
    stride: int = 4,
    cut_out: Tensor | None = None,
    cell_weights: Tensor | None = None,
) -> float:
    """The loss as the spec says it, one cell and one head at a time, in float64."""
    total, cells = 0.0, 0
    for b in range(len(logits)):
        height, width = logits[b].shape
        z = {(i, j): float(logits[b, i, j]) for i in range(height) for j in range(width)}
        ordered = np.array(sorted(heads[b], key=lambda head: (head[1], head[0]))).reshape(-1, 2)
        region: dict[int, dict[tuple[int, int], float]] = {}
        for i, j in z:
            ax, ay = stride * j + (stride - 1) / 2, stride * i + (stride - 1) / 2
            distances = np.sqrt((ordered[:, 0] - ax) ** 2 + (ordered[:, 1] - ay) ** 2)
            if len(distances) and distances.min() < 96:
                region.setdefault(int(distances.argmin()), {})[i, j] = float(distances.min())
        positive = set()
        for members in region.values():
            sigma = min(max(max(members.values()), 8.0), 96.0)
            positive.add(min(members, key=lambda cell: (8 * members[cell] / sigma - z[cell], cell)))
        for cell, value in z.items():
            t = 1.0 if cell in positive else 0.0
            bce = max(value, 0.0) - value * t + math.log1p(math.exp(-abs(value)))
            weight = (1.0 + t) if len(heads[b]) else 0.5
            if cut_out is not None and cut_out[b][cell]:
                weight = 0.0
            if cell_weights is not None:
                weight *= float(cell_weights[b][cell])
            total += weight * bce
            cells += 1
    return total / cells


def tensors(heads: Sequence[Sequence[Point]]) -> list[Tensor]:
    return [torch.tensor(list(points), dtype=torch.float64).reshape(-1, 2) for points in heads]


def random_logits(b: int, h: int, w: int, seed: int = 0) -> Tensor:
    return torch.randn(b, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Half pixels make ties between heads, tied costs need tied logits: both are in the reach of these strategies.
coordinate = st.integers(-10, 70).map(lambda n: n / 2)
points = st.lists(st.tuples(coordinate, coordinate), max_size=12)


@settings(deadline=None, max_examples=80)
@given(heads=st.tuples(points, points), seed=st.integers(0, 99), step=st.sampled_from([0.0, 1.0]), cut=st.booleans())
def test_equals_the_plain_form(heads: tuple[list[Point], list[Point]], seed: int, step: float, cut: bool) -> None:
    logits = random_logits(2, 7, 8, seed)
    logits = torch.round(logits) if step else logits
    cut_out = torch.zeros(2, 7, 8, dtype=torch.bool)
    cut_out[:, 2:5, 1:4] = cut
    loss = point_to_region_loss(logits, tensors(heads), cut_out=cut_out)
    assert float(loss) == pytest.approx(oracle(logits, heads, cut_out=cut_out), rel=1e-9)


@pytest.mark.parametrize(
    "heads",
    [
        pytest.param([], id="none"),
        pytest.param([(13.2, 8.9)], id="one"),
        pytest.param([(5.0, 5.0)] * 3 + [(20.0, 9.0)] * 2, id="duplicates"),
        pytest.param([(0.0, 0.0), (31.0, 27.0), (-0.5, 10.0), (31.49, 0.0)], id="on the border"),
        pytest.param([(9.0 + 0.1 * k, 9.5 - 0.07 * k) for k in range(12)], id="all in one cell"),
        pytest.param([(400.0, 400.0)], id="out of reach"),
    ],
)
def test_special_places(heads: list[Point]) -> None:
    logits = random_logits(1, 7, 8)
    assert float(point_to_region_loss(logits, tensors([heads]))) == pytest.approx(oracle(logits, [heads]), rel=1e-12)


@pytest.mark.parametrize(("n_heads", "h", "w"), [(150, 10, 40), (3000, 32, 32)])
def test_many_heads(n_heads: int, h: int, w: int) -> None:
    rng = np.random.default_rng(0)
    heads = [(float(x), float(y)) for x, y in rng.uniform(-2, [4 * w + 2, 4 * h + 2], (n_heads, 2))]
    logits = random_logits(1, h, w)
    assert float(point_to_region_loss(logits, tensors([heads]))) == pytest.approx(oracle(logits, [heads]), rel=1e-12)


def test_limit_of_96_px() -> None:
    logits = torch.zeros(1, 1, 40, dtype=torch.float64)
    regions = nearest_heads((1, 40), np.array([[1.5, 1.5]]))
    assert np.flatnonzero(regions.head < 0).tolist() == list(range(24, 40))  # cell 24 is just 96 px away
    assert float(point_to_region_loss(logits, tensors([[(1.5, 1.5)]]))) == pytest.approx(oracle(logits, [[(1.5, 1.5)]]))


def test_literal_values() -> None:
    log2 = math.log(2.0)
    zero = torch.zeros(1, 2, 2, dtype=torch.float64)
    assert float(point_to_region_loss(zero, tensors([[]]))) == pytest.approx(0.5 * log2)
    assert float(point_to_region_loss(zero, tensors([[(1.5, 1.5)]]))) == pytest.approx(5 / 4 * log2)
    cut_out = torch.tensor([[[True, False], [False, False]]])
    assert float(point_to_region_loss(zero, tensors([[(1.5, 1.5)]]), cut_out=cut_out)) == pytest.approx(3 / 4 * log2)
    both = torch.zeros(2, 2, 2, dtype=torch.float64)
    assert float(point_to_region_loss(both, tensors([[], [(1.5, 1.5)]]))) == pytest.approx((2 + 5) / 8 * log2)


def test_a_confident_cell_beats_a_near_one_by_the_scaled_distance() -> None:
    logits = torch.zeros(1, 3)
    # Distances 0, 4, 8 px; scale 8: the third cell costs 8 − z.
    assert positive_cells(logits[0:1], torch.tensor([[1.5, 1.5]])).tolist() == [0]
    logits[0, 2] = 8.5
    assert positive_cells(logits, torch.tensor([[1.5, 1.5]])).tolist() == [2]
    logits[0, 2] = 8.0  # a tie goes to the first cell
    assert positive_cells(logits, torch.tensor([[1.5, 1.5]])).tolist() == [0]


def test_result_does_not_depend_on_the_order_of_heads() -> None:
    rng = np.random.default_rng(1)
    heads = torch.from_numpy(rng.integers(0, 32, (25, 2)) / 1.0)
    logits = torch.round(random_logits(1, 8, 8))
    losses = {float(point_to_region_loss(logits, [heads[rng.permutation(25)]])) for _ in range(10)}
    assert len(losses) == 1


def test_gradient() -> None:
    logits = random_logits(2, 4, 5).requires_grad_()
    heads = tensors([[(3.0, 4.0), (14.0, 9.0)], []])
    cut_out = torch.zeros(2, 4, 5, dtype=torch.bool)
    cut_out[:, 1:3, 1:2] = True
    point_to_region_loss(logits, heads, cut_out=cut_out).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad == 0, cut_out)
    assert torch.autograd.gradcheck(lambda z: point_to_region_loss(z, heads, cut_out=cut_out), (logits,))


def test_half_precision_and_single_precision() -> None:
    heads = tensors([[(3.0, 4.0), (14.0, 9.0)]])
    logits = random_logits(1, 4, 5).bfloat16()
    expected = oracle(logits.double(), [[(3.0, 4.0), (14.0, 9.0)]])
    for z in (logits, logits.float()):
        loss = point_to_region_loss(z, heads)
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("heads", "message"), [([], "one array for each of the 1 images"), ([[(math.nan, 1.0)]], "finite coordinates")]
)
def test_misuse(heads: list[list[Point]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        point_to_region_loss(torch.zeros(1, 2, 2), tensors(heads))


@settings(deadline=None, max_examples=30)
@given(heads=st.tuples(points, points), seed=st.integers(0, 99), cut=st.booleans())
def test_cell_weights_multiply_and_are_not_renormalised(
    heads: tuple[list[Point], list[Point]], seed: int, cut: bool
) -> None:
    logits, weights = random_logits(2, 7, 8, seed), random_logits(2, 7, 8, seed + 1).sigmoid()
    cut_out = random_logits(2, 7, 8, seed + 2) > 0.5 if cut else None
    got = point_to_region_loss(logits, tensors(heads), cut_out=cut_out, cell_weights=weights)
    assert float(got) == pytest.approx(oracle(logits, heads, cut_out=cut_out, cell_weights=weights), abs=1e-9)
    half = point_to_region_loss(logits, tensors(heads), cell_weights=torch.full_like(logits, 0.5))
    torch.testing.assert_close(half, 0.5 * point_to_region_loss(logits, tensors(heads)))
