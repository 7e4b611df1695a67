import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geometry.circles import circle_pixels

H, W = 11, 14


def plain(points: list[tuple[float, float]], radii: list[float], rows: tuple[int, int]) -> list[tuple[int, int, int]]:
    return [
        (k, y, x)
        for k, ((cx, cy), r) in enumerate(zip(points, radii, strict=True))
        for y in range(*rows)
        for x in range(W)
        if (x - cx) ** 2 + (y - cy) ** 2 <= r * r
    ]


def fast(points: list[tuple[float, float]], radii: list[float], rows: tuple[int, int]) -> list[tuple[int, int, int]]:
    points_xy = torch.tensor(points, dtype=torch.float64).reshape(-1, 2)
    pairs = circle_pixels(points_xy, torch.tensor(radii, dtype=torch.float64), size_hw=(H, W), rows=rows)
    x, y = points_xy[pairs.circle].unbind(dim=1)
    np.testing.assert_allclose(pairs.squared_distance, (pairs.x_px - x) ** 2 + (pairs.y_px - y) ** 2)
    return list(zip(pairs.circle.tolist(), pairs.y_px.tolist(), pairs.x_px.tolist(), strict=True))


quarter = st.integers(-20, 80).map(lambda n: n / 4)


@settings(deadline=None, max_examples=60)
@given(
    circles=st.lists(st.tuples(quarter, quarter, st.integers(0, 60).map(lambda n: n / 4)), max_size=6),
    first=st.integers(0, H - 1),
    height=st.integers(1, H),
)
def test_equals_a_search_of_all_pixels(circles: list[tuple[float, float, float]], first: int, height: int) -> None:
    points, radii = [(x, y) for x, y, _ in circles], [r for _, _, r in circles]
    rows = (first, min(first + height, H))
    assert fast(points, radii, rows) == plain(points, radii, rows)


@pytest.mark.parametrize(("radius", "count"), [(0.0, 1), (0.99, 1), (1.0, 5), (2.0**0.5, 9), (5.0, 81)])
def test_disc_is_closed(radius: float, count: int) -> None:
    assert len(fast([(6.0, 5.0)], [radius], (0, H))) == count


def test_far_outside_and_empty() -> None:
    assert fast([(-50.0, 3.0), (3.0, 90.0)], [4.0, 4.0], (0, H)) == []
    assert fast([], [], (0, H)) == []
