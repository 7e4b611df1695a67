"""Pixels to points against loops over pixels and points."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geometry import point_owners
from pipeline.geometry.point_owners import UNKNOWN, assign_pixels, component_offsets, nearest_of_group


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_owners, "CHUNK", 7)


def plain_owners(offsets, classes, points_yx, point_class):
    owners = np.zeros(classes.shape, np.int64)
    for y in range(classes.shape[0]):
        for x in range(classes.shape[1]):
            best = np.inf
            for k, (point, class_id) in enumerate(zip(points_yx, point_class, strict=True)):
                apart = float(((np.array([y, x]) + offsets[:, y, x] - point) ** 2).sum())
                if classes[y, x] == class_id + 1 and apart < best:
                    best, owners[y, x] = apart, k + 1
    return owners


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.integers(0, 6))
def test_each_pixel_goes_to_the_nearest_point_of_its_class(seed: int, height: int, width: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.choice([0, 1, 2, 3, UNKNOWN], (height, width))
    offsets = rng.integers(-3, 4, (2, height, width)).astype(np.float64)  # whole numbers: ties happen
    points_yx, point_class = rng.integers(-2, 9, (n, 2)).astype(np.float64), rng.integers(0, 3, n)
    found = assign_pixels(*(torch.from_numpy(one) for one in (offsets, classes, points_yx, point_class)))
    np.testing.assert_array_equal(found.numpy(), plain_owners(offsets, classes, points_yx, point_class))


def test_without_offsets_each_class_is_divided_as_voronoi() -> None:
    rng = np.random.default_rng(0)
    classes, points_yx = rng.integers(0, 3, (20, 30)), rng.uniform(0, 20, (8, 2))
    point_class = rng.integers(0, 2, 8)
    zero = np.zeros((2, 20, 30))
    found = assign_pixels(
        None, torch.from_numpy(classes), torch.from_numpy(points_yx), torch.from_numpy(point_class)
    ).numpy()
    np.testing.assert_array_equal(found, plain_owners(zero, classes, points_yx, point_class))


def test_true_offsets_split_touching_discs_exactly() -> None:
    """A small disc before a large one: half way between the points is the wrong border, the true offsets know it."""
    y, x = np.mgrid[:60, :80]
    small, large = np.hypot(y - 30, x - 20) <= 8, np.hypot(y - 30, x - 48) <= 22
    truth = np.where(small, 1, np.where(large, 2, 0))
    points_yx = np.array([[30.0, 20.0], [30.0, 48.0]])
    offsets = np.zeros((2, 60, 80))
    for k, point in enumerate(points_yx, start=1):
        offsets[:, truth == k] = (point[:, None] - np.stack([y, x])[:, truth == k]) * 0.8  # nearly there is enough
    args = torch.from_numpy((truth > 0).astype(np.int64)), torch.from_numpy(points_yx), torch.zeros(2, dtype=torch.long)
    np.testing.assert_array_equal(assign_pixels(torch.from_numpy(offsets), *args).numpy(), truth)
    assert (assign_pixels(None, *args).numpy() != truth).any()


def test_no_points() -> None:
    classes = torch.ones(2, 2, dtype=torch.long)
    none = torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
    assert assign_pixels(None, classes, *none).tolist() == [[0, 0], [0, 0]]
    assert nearest_of_group(torch.zeros(1, 2), torch.ones(1, dtype=torch.long), *none).tolist() == [-1]


def map_of(text: str) -> np.ndarray:
    return np.array([[UNKNOWN if cell == "?" else int(cell) for cell in row] for row in text.split()], np.uint8)


@pytest.fixture
def small_components(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_owners, "MIN_COMPONENT_PX", 3)


def test_the_static_target_of_each_kind_of_component(small_components: None) -> None:
    classes = map_of("1110022 1110022 0002000 0000000 ?11?022")
    points_yx = np.array([[0.0, 0.0], [1.2, 5.8], [0.0, 6.0], [9.0, 9.0], [4.0, 5.0]])
    point_class = np.array([0, 1, 1, 0, 0])  # the last one lies on class 2 and is of class 1
    target = component_offsets(classes, points_yx, point_class)
    wanted = np.zeros((5, 7), bool)
    wanted[:2, :3] = True  # one point: the centroid, (0.5, 1)
    wanted[:2, 5:] = True  # two points
    np.testing.assert_array_equal(target.weight, wanted)
    np.testing.assert_allclose(target.offsets[:, 0, 0], [0.5, 1.0])
    np.testing.assert_allclose(target.offsets[:, 1, 2], [-0.5, -1.0])
    np.testing.assert_allclose(target.offsets[:, 0, 5], [0.0, 1.0])  # nearer to (0, 6) than to (1.2, 5.8)
    np.testing.assert_allclose(target.offsets[:, 1, 5], [0.2, 0.8], rtol=1e-6)
    assert not target.offsets[:, ~wanted].any()


def test_diagonal_neighbours_are_one_component(small_components: None) -> None:
    target = component_offsets(map_of("100 010 001"), np.array([[0.0, 0.0]]), np.array([0]))
    np.testing.assert_array_equal(target.weight, np.eye(3, dtype=bool))
    np.testing.assert_allclose(target.offsets[:, 2, 2], [-1.0, -1.0])


def test_small_components_say_nothing() -> None:
    assert point_owners.MIN_COMPONENT_PX == 50
    classes = np.ones((7, 7), np.uint8)
    assert not component_offsets(classes, np.array([[3.0, 3.0]]), np.array([0])).weight.any()
    classes = np.ones((10, 5), np.uint8)
    assert component_offsets(classes, np.array([[0.0, 0.0]]), np.array([0])).weight.all()


def test_no_points_say_nothing() -> None:
    target = component_offsets(np.ones((9, 9), np.uint8), np.zeros((0, 2)), np.zeros(0, np.int64))
    assert not target.weight.any()
