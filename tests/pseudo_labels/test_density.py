import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pseudo_labels.density import density_names, density_strata

places = st.tuples(st.integers(0, 20), st.integers(0, 20))


@given(st.lists(places, max_size=8, unique=True), st.sampled_from([(), (4.0,), (3.0, 5.0, 8.0)]))
def test_strata_are_sorted_by_the_nearest_other_point(points: list[tuple[int, int]], edges: tuple[float, ...]) -> None:
    expected = []
    for k, (x, y) in enumerate(points):
        others = [((x - a) ** 2 + (y - b) ** 2) ** 0.5 for j, (a, b) in enumerate(points) if j != k]
        expected.append(sum(min(others, default=float("inf")) >= edge for edge in edges))
    found = density_strata(np.array(points, dtype=np.float64).reshape(-1, 2), (24, 24), edges)
    assert found.tolist() == expected
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("edges", "names"),
    [
        ((), ("all",)),
        ((8.0,), ("dense < 8 px", "sparse ≥ 8 px")),
        ((8.0, 12.5, 20.0), ("dense < 8 px", "8 to 12.5 px", "12.5 to 20 px", "sparse ≥ 20 px")),
    ],
)
def test_names(edges: tuple[float, ...], names: tuple[str, ...]) -> None:
    assert density_names(edges) == names
