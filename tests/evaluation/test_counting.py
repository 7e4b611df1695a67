import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.counting import CountingErrors, counting_errors

COUNTS = st.lists(st.tuples(st.integers(0, 30_000), st.integers(0, 30_000)), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        ([10, 20], [10, 20], CountingErrors(0, 0, 0, 0, 2)),
        ([12, 16], [10, 20], CountingErrors(3, math.sqrt(10), 0.2, -1, 2)),
        ([3, 5], [0, 10], CountingErrors(4, math.sqrt(17), 0.5, -1, 2)),
    ],
)
def test_known_errors(predicted: list[int], true: list[int], expected: CountingErrors) -> None:
    assert counting_errors(predicted, true) == expected


@settings(deadline=None)
@given(COUNTS)
def test_errors_equal_the_plain_form(pairs: list[tuple[int, int]]) -> None:
    errors = counting_errors([p for p, _ in pairs], [t for _, t in pairs])
    assert errors.mae == pytest.approx(sum(abs(p - t) for p, t in pairs) / len(pairs))
    assert errors.rmse == pytest.approx(math.sqrt(sum((p - t) ** 2 for p, t in pairs) / len(pairs)))
    headed = [abs(p - t) / t for p, t in pairs if t]
    assert errors.nae == pytest.approx(sum(headed) / len(headed) if headed else math.nan, nan_ok=True)
    assert errors.rmse >= errors.mae - 1e-9


def test_images_without_heads_have_no_nae() -> None:
    errors = counting_errors([2], [0])
    assert errors.mae == 2
    assert math.isnan(errors.nae)


def test_no_images_have_no_errors() -> None:
    errors = counting_errors([], [])
    assert errors.n_images == 0
    assert np.isnan([errors.mae, errors.rmse, errors.nae, errors.bias]).all()


def test_counts_of_unequal_number_are_refused() -> None:
    with pytest.raises(ValueError, match="two lists of one length"):
        counting_errors([1, 2], [1])
