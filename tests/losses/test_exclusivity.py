import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.losses.exclusivity import exclusivity_loss, heads_on_instances, misplaced_share

Point = tuple[float, float]
H, W = 16, 20


def smooth_operator(cells: int, pixels: int, sigma: float) -> np.ndarray:
    """One axis of "upsample bilinearly, blur with 7 taps, zero beyond": (pixels, cells)."""
    stride = pixels / cells
    up = np.zeros((pixels, cells))
    for x in range(pixels):
        u = min(max((x + 0.5) / stride - 0.5, 0), cells - 1)
        j = int(u)
        up[x, j] += 1 - (u - j)
        up[x, min(j + 1, cells - 1)] += u - j
    taps = np.array([math.exp(-(k * k) / (2 * sigma * sigma)) for k in range(-3, 4)])
    blur = np.zeros((pixels, pixels))
    for x in range(pixels):
        for k in range(-3, 4):
            if 0 <= x + k < pixels:
                blur[x, x + k] = taps[k + 3] / taps.sum()
    return blur @ up


def oracle(
    embedding: Tensor,
    points: list[list[Point]],
    labels: np.ndarray,
    cut_out: np.ndarray | None = None,
    invalid: list[list[Point]] | None = None,
    tau: float = 0.6,
    m: float = 0.1,
    sigma: float = 1.5,
) -> float:
    """The loss as the spec says it, one head and one full frame at a time, in float64."""
    images = []
    for b in range(len(embedding)):
        height, width = labels[b].shape
        e = embedding[b].detach().double().numpy()
        rows, columns = smooth_operator(e.shape[1], height, sigma), smooth_operator(e.shape[2], width, sigma)
        field = np.einsum("yi,cij,xj->yxc", rows, e, columns)
        y, x = np.mgrid[:height, :width]
        excluded = np.zeros((height, width), bool) if cut_out is None else cut_out[b].copy()
        for qx, qy in invalid[b] if invalid else []:
            excluded |= (x - qx) ** 2 + (y - qy) ** 2 <= 16**2
        heads = np.array(points[b], dtype=np.float64).reshape(-1, 2)
        losses = []
        for px, py in points[b]:
            gx, gy = math.floor(px + 0.5), math.floor(py + 0.5)
            if not (0 <= gx < width and 0 <= gy < height) or labels[b][gy, gx] == 0:
                continue
            far = 0.5 * min(height, width)
            distances = np.sqrt((heads[:, 0] - px) ** 2 + (heads[:, 1] - py) ** 2)
            r = min(max(min(distances[distances > 0], default=far), 3.0), far)
            cx, cy = min(max(px, 0), width - 1), min(max(py, 0), height - 1)
            x0, y0 = int(cx), int(cy)
            x1, y1, a, c = min(x0 + 1, width - 1), min(y0 + 1, height - 1), cx - x0, cy - y0
            f = (field[y0, x0] * (1 - a) + field[y0, x1] * a) * (1 - c)
            f = f + (field[y1, x0] * (1 - a) + field[y1, x1] * a) * c
            disc = ((x - px) ** 2 + (y - py) ** 2 <= r * r) & ~excluded
            d = np.linalg.norm(field - f, axis=2)
            own = labels[b] == labels[b][gy, gx]
            pull = np.maximum(d - (tau - m), 0.0)[disc & own]
            push = np.maximum((tau + 4 * m) - d, 0.0)[disc & ~own]
            if len(pull):
                losses.append(pull.mean() + (push.mean() if len(push) else 0.0))
        images.append(sum(losses) / len(losses) if losses else 0.0)
    return sum(images) / len(images)


def random_embedding(b: int, seed: int, h: int = H // 4, w: int = W // 4) -> Tensor:
    values = torch.randn(b, 3, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=1)


def random_labels(b: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 4, (b, H // 4, W // 4))
    return coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.int32)


def tensors(points: list[list[Point]]) -> list[Tensor]:
    return [torch.tensor(heads, dtype=torch.float64).reshape(-1, 2) for heads in points]


def fast(embedding: Tensor, points: list[list[Point]], labels: np.ndarray, **options: object) -> float:
    return float(exclusivity_loss(embedding, tensors(points), torch.from_numpy(labels), **options))  # type: ignore[arg-type]


cell = st.tuples(st.integers(0, W // 4 - 1), st.integers(0, H // 4 - 1)).map(lambda c: (4 * c[0] + 1.5, 4 * c[1] + 1.5))
anywhere = st.tuples(st.integers(-4, 2 * W + 4), st.integers(-4, 2 * H + 4)).map(lambda p: (p[0] / 2, p[1] / 2))
heads = st.lists(cell, max_size=8) | st.lists(anywhere, max_size=8)


@settings(deadline=None, max_examples=40)
@given(
    points=st.tuples(heads, heads), seed=st.integers(0, 99), cut=st.booleans(), invalid=st.lists(anywhere, max_size=1)
)
def test_equals_the_plain_form(
    points: tuple[list[Point], list[Point]], seed: int, cut: bool, invalid: list[Point]
) -> None:
    embedding, labels = random_embedding(2, seed), random_labels(2, seed)
    cut_out = np.zeros((2, H, W), bool)
    cut_out[:, 3:9, 5:12] = cut
    bad: list[list[Point]] = [invalid, []]
    got = fast(embedding, list(points), labels, cut_out=torch.from_numpy(cut_out), invalid_points_xy=tensors(bad))
    assert got == pytest.approx(oracle(embedding, list(points), labels, cut_out, bad), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    "points",
    [
        pytest.param([], id="none"),
        pytest.param([(9.5, 9.5)], id="one: a disc of half the image"),
        pytest.param([(9.5, 5.5)] * 3, id="duplicates alone"),
        pytest.param([(9.5, 5.5)] * 2 + [(13.5, 5.5)], id="duplicates"),
        pytest.param([(-0.5, 0.0), (19.4, 15.4), (0.0, 15.0)], id="on the border"),
        pytest.param([(9.0 + 0.2 * k, 9.5) for k in range(6)], id="all in one cell"),
        pytest.param([(4 * i + 1.5, 4 * j + 1.5) for j in range(4) for i in range(5)], id="every cell"),
    ],
)
def test_special_places(points: list[Point]) -> None:
    embedding, labels = random_embedding(1, 7), random_labels(1, 7)
    labels[labels == 0] = 9
    assert fast(embedding, [points], labels) == pytest.approx(oracle(embedding, [points], labels), rel=1e-9)


def test_many_heads_on_a_large_image_in_single_precision() -> None:
    rng = np.random.default_rng(3)
    picked = rng.choice(16 * 16, 60, replace=False)
    points = [(4.0 * (k % 16) + 1.5, 4.0 * (k // 16) + 1.5) for k in picked.tolist()]
    labels = rng.integers(0, 6, (1, 16, 16)).repeat(4, axis=1).repeat(4, axis=2)
    embedding = random_embedding(1, 3, 16, 16).float()
    assert fast(embedding, [points], labels) == pytest.approx(oracle(embedding, [points], labels), rel=1e-5)


def test_three_thousand_heads() -> None:
    points = [(float(x), float(y)) for x, y in np.random.default_rng(5).uniform(-1, 64, (3000, 2))]
    labels = np.random.default_rng(6).integers(0, 3000, (1, 64, 64)).astype(np.int32)
    labels[:, :20, :20] = 7
    embedding = random_embedding(1, 5, 16, 16)
    assert fast(embedding, [points], labels) == pytest.approx(oracle(embedding, [points], labels), rel=1e-9)


def test_other_settings() -> None:
    embedding, labels, points = random_embedding(1, 5), random_labels(1, 5) + 1, [(5.5, 5.5), (13.5, 9.5)]
    got = fast(embedding, [points], labels, tau=0.4, margin=0.05, blur_sigma=3.0)
    assert got == pytest.approx(oracle(embedding, [points], labels, tau=0.4, m=0.05, sigma=3.0), rel=1e-9)


def test_literal_values() -> None:
    # One embedding everywhere: inside, d = 0, so pull is 0 and push is τ + 4m; the blur shows at borders only.
    embedding = torch.zeros(1, 2, 16, 16, dtype=torch.float64)
    embedding[:, 0] = 1.0
    labels = np.ones((1, 64, 64), np.int32)
    points = [(29.5, 29.5), (33.5, 29.5)]
    assert fast(embedding, [points], labels) == pytest.approx(0.0)
    labels[:, :, 32:] = 2
    assert fast(embedding, [points], labels) == pytest.approx(1.0)
    # Opposite embeddings, far apart: d = 2 for the other half beyond the blur.
    embedding[:, 0, :, 8:] = -1.0
    assert fast(embedding, [[(1.5, 29.5), (1.5, 41.5)]], np.ones((1, 64, 64), np.int32)) == pytest.approx(
        oracle(embedding, [[(1.5, 29.5), (1.5, 41.5)]], np.ones((1, 64, 64), np.int32))
    )


def test_nothing_to_learn_from_gives_zero_with_a_gradient() -> None:
    embedding = random_embedding(2, 0).requires_grad_()
    loss = exclusivity_loss(embedding, tensors([[], [(5.5, 5.5)]]), torch.zeros(2, H, W, dtype=torch.int32))
    loss.backward()
    assert loss.item() == 0.0
    assert embedding.grad is not None
    assert float(embedding.grad.abs().sum()) == 0.0


def test_gradient() -> None:
    # Central differences move the centre's feature too: they tell if its sampling were cut off from the gradient.
    labels = torch.from_numpy(random_labels(2, 4)) + 1
    heads = tensors([[(5.5, 5.5), (13.5, 9.5), (9.5, 1.5)], [(1.5, 13.5), (6.0, 9.0)]])
    cut_out = torch.zeros(2, H, W, dtype=torch.bool)
    cut_out[:, 4:8, 8:12] = True
    embedding = random_embedding(2, 4).requires_grad_()
    exclusivity_loss(embedding, heads, labels, cut_out=cut_out).backward()
    assert embedding.grad is not None
    assert all(float(each.abs().max()) > 0.01 for each in embedding.grad)
    assert torch.autograd.gradcheck(lambda e: exclusivity_loss(e, heads, labels, cut_out=cut_out), (embedding,))


def test_gradient_is_finite_where_a_pixel_is_the_centre() -> None:
    embedding = random_embedding(1, 4).requires_grad_()
    exclusivity_loss(embedding, tensors([[(8.0, 8.0)]]), torch.ones(1, H, W, dtype=torch.int64), tau=-1.0).backward()
    assert embedding.grad is not None
    assert bool(torch.isfinite(embedding.grad).all())


def test_radii_are_taken_among_all_heads() -> None:
    labels = torch.zeros(H, W, dtype=torch.int32)
    labels[:, :8] = 3
    heads_xy, radius_px, label = heads_on_instances(torch.tensor([[5.5, 5.5], [9.5, 5.5], [40.0, 5.5]]), labels)
    assert heads_xy.tolist() == [[5.5, 5.5]]
    assert radius_px.tolist() == [4.0]
    assert label.tolist() == [3]


def test_order_of_heads_does_not_matter() -> None:
    embedding, labels = random_embedding(1, 9), random_labels(1, 9)
    points = [(1.5, 1.5), (13.5, 9.5), (9.5, 1.5), (5.5, 13.5)]
    assert fast(embedding, [points], labels) == pytest.approx(fast(embedding, [points[::-1]], labels), rel=1e-12)


def test_label_is_read_at_the_rounded_head_and_the_embedding_between_pixels() -> None:
    labels = torch.zeros(H, W, dtype=torch.int32)
    labels[6, 6] = 3
    near = torch.tensor([[5.5, 5.5], [6.49, 6.49], [6.5, 6.0], [5.49, 6.0]], dtype=torch.float64)
    assert heads_on_instances(near, labels)[0].tolist() == near[:2].tolist()


def test_misplaced_share_counts_decisions() -> None:
    labels = torch.zeros(2, H, W, dtype=torch.int32)
    labels[0, :8, :8], labels[0, 8:, 8:] = 1, 2
    heads = tensors([[(1.5, 1.5), (17.5, 1.5)], [(1.5, 1.5)]])
    share = misplaced_share([each.requires_grad_() for each in heads], labels)
    assert float(share) == pytest.approx((1 + 1 + 1) / (3 + 2))
    assert not share.requires_grad
    assert float(misplaced_share([torch.zeros(0, 2)], labels[1:])) == 1.0


@pytest.mark.parametrize("wrong", [{"points_xy": []}, {"invalid_points_xy": []}])
def test_misuse(wrong: dict[str, list[Tensor]]) -> None:
    inputs = {"points_xy": tensors([[(5.5, 5.5)]]), "label_maps": torch.ones(1, H, W, dtype=torch.int32)} | wrong
    with pytest.raises(ValueError, match="expected one array for each of the 1 images, got 0"):
        exclusivity_loss(random_embedding(1, 0), **inputs)  # type: ignore[arg-type]
