import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.calibration import calibrate_threshold, matching_threshold

FEW_VALUES = np.array([-6, -5, -2.5, -1, -0.5, 0, 0.25, 1, 3, 5, 7], dtype=np.float32)


def plain_mae(logits: list[np.ndarray], counts: list[int], threshold: float) -> float:
    return float(np.mean([abs(sum(value > threshold for value in image.ravel().tolist()) - count)
                          for image, count in zip(logits, counts, strict=True)]))  # fmt: skip


def all_thresholds(logits: list[np.ndarray], limit: float) -> list[float]:
    """Every threshold that could count differently: each logit, and a point between any two neighbours."""
    values = sorted({-limit, 0.0, limit} | {v for image in logits for v in image.ravel().tolist() if abs(v) <= limit})
    return values + [(low + high) / 2 for low, high in itertools.pairwise(values)]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.booleans())
def test_no_threshold_is_better(seed: int, n_images: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    shapes = [tuple(rng.integers(0, 5, size=2)) for _ in range(n_images)]
    logits = [rng.choice(FEW_VALUES, shape) if ties else rng.normal(0, 3, shape).astype(np.float32) for shape in shapes]
    counts = [int(rng.integers(0, 12)) for _ in shapes]
    found = calibrate_threshold(logits, counts)
    errors = {threshold: plain_mae(logits, counts, threshold) for threshold in all_thresholds(logits, 5.0)}
    assert found.mae == pytest.approx(min(errors.values()))
    assert plain_mae(logits, counts, found.threshold) == pytest.approx(found.mae)
    assert found.mae_uncalibrated == pytest.approx(plain_mae(logits, counts, 0.0))
    assert -5 <= found.threshold <= 5
    assert float(np.float32(found.threshold)) == found.threshold, "float32 maps are compared with it"
    best = [threshold for threshold, error in errors.items() if math.isclose(error, found.mae)]
    assert (found.threshold == 0) == (0.0 in best), "the paper's threshold stays where nothing is better"


def test_it_is_the_middle_between_two_logits() -> None:
    found = calibrate_threshold([np.array([3.0, 2.0, 1.0, -4.0], dtype=np.float32)], [2])
    assert (found.threshold, found.mae, found.mae_uncalibrated, found.n_images) == (1.5, 0.0, 1.0, 1)
    found = calibrate_threshold([np.array([3.0, -1.0, -2.0], dtype=np.float32)], [2])
    assert found.threshold == -1.5


def test_of_equally_good_ones_the_nearest_to_zero() -> None:
    first, second = np.array([4.0, 2.0], dtype=np.float32), np.array([3.0, -1.0], dtype=np.float32)
    # counts by threshold: (1, 1) from 2 to 3, (2, 1) from -1 to 2, (2, 2) from -5 to -1
    assert calibrate_threshold([first, second], [1, 1]).threshold == 2.5
    assert calibrate_threshold([first, second], [1, 2]).threshold == 2.5, "its rival is -3"
    assert calibrate_threshold([first, second], [2, 2]).threshold == -3.0
    assert calibrate_threshold([first, second], [2, 1]).threshold == 0.0
    assert calibrate_threshold([np.zeros(0, dtype=np.float32)], [3]).threshold == 0.0


def test_the_middle_of_neighbouring_floats_still_counts_the_upper_one() -> None:
    one = np.float32(1.0)
    second = np.nextafter(one, np.float32(2.0))
    third = np.nextafter(second, np.float32(2.0))
    for low, high in ((one, second), (second, third)):  # the middle rounds down, and up
        found = calibrate_threshold([np.array([low, high])], [1])
        assert found.mae == 0
        assert low <= found.threshold < high


def test_logits_below_the_limit_change_nothing() -> None:
    image = np.array([3.0, 2.0, 1.0], dtype=np.float32)
    assert calibrate_threshold([np.append(image, np.float32(-5.0))], [2]) == calibrate_threshold([image], [2])


@pytest.mark.parametrize(
    ("mean_count", "threshold", "n_taken"), [(1.0, 0.6, 2), (2.0, 0.2, 4), (9.0, 0.1, 5), (0.0, 0.9, 1), (1.4, 0.4, 3)]
)
def test_the_threshold_takes_as_many_as_wanted(mean_count: float, threshold: float, n_taken: int) -> None:
    scores = [np.array([0.9, 0.2, 0.4]), np.array([0.6, 0.1])]
    assert matching_threshold(scores, mean_count=mean_count) == pytest.approx(threshold)
    assert sum(int((each >= threshold).sum()) for each in scores) == n_taken


def test_without_candidates_no_threshold_matches() -> None:
    assert matching_threshold([], mean_count=3.0) == matching_threshold([np.zeros(0)], mean_count=3.0) == 0.5
    assert 0 < matching_threshold([np.array([1.0, 0.0])], mean_count=2.0) < 0.001


@pytest.mark.parametrize(("n_images", "n_counts"), [(0, 0), (1, 2)])
def test_a_count_for_each_image(n_images: int, n_counts: int) -> None:
    with pytest.raises(ValueError, match=f"got {n_images} and {n_counts}"):
        calibrate_threshold([np.zeros(1, dtype=np.float32)] * n_images, [0] * n_counts)
