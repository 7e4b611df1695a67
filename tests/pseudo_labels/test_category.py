import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.pseudo_labels.category import (
    PrototypeOpinion,
    Prototypes,
    SecondOpinion,
    correct_classes,
    masked_mean_features,
    opinion_weight,
)
from tests.pseudo_labels.rows_by_hand import boxes

NAMES = ["disc", "ring", "star"]


def rows_of(probs: Any, **columns: Any) -> Instances:
    """Rows side by side, each of the teacher's likeliest class."""
    given = np.array(probs, np.float32)
    n = len(given)
    values = {"class_id": given.argmax(axis=1), "class_score": given.max(axis=1)} | columns
    return boxes([(2 * k, 0, 2 * k + 2, 4) for k in range(n)], class_probs=given, **values)


def random_probs(seed: int, n: int, n_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    second = rng.random((n, n_classes))
    return rng.random((n, n_classes)).astype(np.float32), second / second.sum(axis=1, keepdims=True)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.floats(0, 1))
def test_classes_are_those_of_the_formula(seed: int, n: int, t: float) -> None:
    teacher, second = random_probs(seed, n)
    rows = rows_of(teacher.reshape(n, 3))
    found = correct_classes(rows, second, t)
    w = 0.25 * (math.cos(math.pi * t) + 1)
    for k in range(n):
        own = [float(p) for p in teacher[k]]
        blended = [w * float(q) + (1 - w) * p / sum(own) for p, q in zip(own, second[k], strict=True)]
        assert found.rows.class_id[k] == blended.index(max(blended))
        assert found.rows.class_score[k] == pytest.approx(max(blended), rel=1e-5)
    np.testing.assert_array_equal(found.old_class_id, rows.class_id)
    np.testing.assert_array_equal(found.old_class_score, rows.class_score)
    np.testing.assert_array_equal(found.changed, found.rows.class_id != rows.class_id)
    np.testing.assert_array_equal(found.rows.class_probs if n else [], rows.class_probs if n else [])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_at_the_end_the_teacher_decides(seed: int) -> None:
    teacher, second = random_probs(seed, 8)
    found = correct_classes(rows_of(teacher), second, 1.0)
    assert opinion_weight(1.0) == 0
    assert found.rows.class_id.tolist() == teacher.argmax(axis=1).tolist()
    assert not found.changed.any()


def test_weights() -> None:
    assert [opinion_weight(t) for t in (0, 0.5, 1)] == [0.5, 0.25, 0.0]
    for t in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=f"t: expected a number from 0 to 1, got {t}"):
            correct_classes(rows_of([[1, 0, 0]]), np.array([[1.0, 0, 0]]), t)


def test_a_literal_correction() -> None:
    """½ · (0.1, 0.8, 0.1) + ½ · (0.6, 0.2, 0.2) = (0.35, 0.5, 0.15)."""
    rows = rows_of([[0.3, 0.1, 0.1]], score=[0.2])
    found = correct_classes(rows, np.array([[0.1, 0.8, 0.1]]), 0.0)
    assert found.rows.class_id.tolist() == [1]
    np.testing.assert_allclose(found.rows.class_score, [0.5])
    assert (found.old_class_id.tolist(), found.changed.tolist()) == ([0], [True])
    np.testing.assert_allclose([found.old_class_score[0], found.rows.score[0]], [0.3, 0.2])
    assert rows.class_id.tolist() == [0]


def test_one_class_stays_as_it_is() -> None:
    rows = boxes([(0, 0, 4, 4)], class_score=[0.4])
    found = correct_classes(rows, np.ones((1, 1)), 0.0)
    assert found.rows.equals(rows)
    assert not found.changed.any()


def test_a_row_keeps_its_class_among_equal_ones() -> None:
    rows = rows_of([[0.4, 0.4, 0.1]] * 2, class_id=[0, 1])
    assert correct_classes(rows, np.full((2, 3), 1 / 3), 0.3).rows.class_id.tolist() == [0, 1]


def test_rows_that_the_teacher_says_nothing_of_stay() -> None:
    """The first becomes ½ · (0, 1, 0) + ½ · (4, 1, 1) / 6, of which the second is 7/12."""
    rows = rows_of([[0.4, 0.1, 0.1], [np.nan] * 3, [0, 0, 0]], class_id=[0, 2, 1], class_score=[0.4, 0.3, 0.2])
    found = correct_classes(rows, np.array([[0, 1.0, 0]] * 3), 0.0)
    assert found.rows.class_id.tolist() == [1, 2, 1]
    np.testing.assert_allclose(found.rows.class_score, [7 / 12, 0.3, 0.2], rtol=1e-6)


def test_two_rows_of_one_mask_that_become_one_class() -> None:
    """SOLOv2's second guess of a cell; a third row has the class, but another mask."""
    probs = np.array([[0.5, 0.4, 0.0]] * 3, np.float32)
    rows = boxes(
        [(0, 0, 4, 4), (0, 0, 4, 4), (4, 0, 8, 4)], class_probs=probs, class_id=[1, 0, 0], class_score=[0.4, 0.5, 0.5]
    )  # fmt: skip
    found = correct_classes(rows, np.full((3, 3), 1 / 3), 1.0)
    assert found.rows.class_id.tolist() == [0, 0, 0]
    assert found.rows.status.tolist() == ["duplicate", "ok", "ok"]


def test_bad_opinions_are_refused() -> None:
    rows = rows_of([[0.4, 0.1, 0.1]] * 2)
    fine = np.full((2, 3), 1 / 3)
    nan = fine.copy()
    nan[1, 2] = np.nan
    with pytest.raises(PipelineError, match="CLIP: gave NaN for 1 of 2 instances, the first being row 1; check"):
        correct_classes(rows, nan, 0.5, name="CLIP")
    with pytest.raises(PipelineError, match="sum to 1 for each instance, got .* in row 0; apply a softmax"):
        correct_classes(rows, 3 * fine, 0.5)
    with pytest.raises(PipelineError, match="in row 1; apply"):
        correct_classes(rows, np.array([[1.0, 0, 0], [1.5, -0.5, 0]]), 0.5)
    with pytest.raises(PipelineError, match="gave probabilities of 2 classes, the mask store has 3"):
        correct_classes(rows, np.full((2, 2), 0.5), 0.5)
    with pytest.raises(PipelineError, match="class_probs: no row has them.*keep_prob: true"):
        correct_classes(boxes([(0, 0, 4, 4)]), fine[:1], 0.5)
    with pytest.raises(ValueError, match=r"second_probs: expected shape \(2, C\), got \(1, 3\)"):
        correct_classes(rows, fine[:1], 0.5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(0, 4), st.sampled_from([1, 2, 4]))
def test_features_are_averaged_over_masks(seed: int, n: int, factor: int) -> None:
    rng = np.random.default_rng(seed)
    features, masks = rng.normal(size=(3, 4, 5)), rng.random((n, 4 * factor, 5 * factor))
    masks *= rng.random((n, 1, 1)) < 0.8
    found = masked_mean_features(torch.from_numpy(features), torch.from_numpy(masks))
    for k in range(n):
        total, mass = np.zeros(3), 0.0
        for i in range(4 * factor):
            for j in range(5 * factor):
                total += masks[k, i, j] * features[:, i // factor, j // factor]
                mass += masks[k, i, j]
        np.testing.assert_allclose(found[k], total / mass if mass else np.zeros(3), atol=1e-9)
    assert found.shape == (n, 3)


@pytest.mark.parametrize("shape", [(2, 5), (6, 5), (8, 5), (4, 10), (12, 10)])
def test_masks_of_another_grid_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="masks: expected a grid of 4 × 5 cells or a multiple of it"):
        masked_mean_features(torch.zeros(3, 4, 5), torch.zeros(1, *shape))


FEATURES = np.array([[2.0, 0, 0], [4.0, 2, 0], [0, 0, 3.0], [0, 5.0, 0]])
PROTOTYPES = Prototypes.of(FEATURES, np.array([0, 0, 2, 1]), backbone="resnet10t", class_names=NAMES)


def test_prototypes_are_means() -> None:
    np.testing.assert_allclose(PROTOTYPES.features, [[3, 1, 0], [0, 5, 0], [0, 0, 3]])
    moved = PROTOTYPES.updated(
        np.array([[0, 0, 1.0], [0, 0, 3.0]]), np.array([2, 2]), backbone="resnet10t", momentum=0.9
    )  # fmt: skip
    np.testing.assert_allclose(moved.features, [[3, 1, 0], [0, 5, 0], [0, 0, 2.9]])


def test_probabilities_are_the_softmax_of_cosines() -> None:
    given = np.array([[1.0, 2, 2], [-1, 0, 0], [0, 0, 0]])
    found = Prototypes("net", PROTOTYPES.features, 0.5).probabilities(given, backbone="net")
    for feature, row in zip(given, found, strict=True):
        powers = []
        for prototype in PROTOTYPES.features:
            length = math.sqrt(sum(feature**2)) * math.sqrt(sum(prototype**2))
            powers.append(math.exp(float(feature @ prototype) / length / 0.5) if length else 1.0)
        np.testing.assert_allclose(row, np.array(powers) / sum(powers))
    np.testing.assert_allclose(found[2], 1 / 3)
    assert PROTOTYPES.probabilities(np.zeros((0, 3)), backbone="resnet10t").shape == (0, 3)


def test_prototypes_are_a_second_opinion() -> None:
    opinion: SecondOpinion = PrototypeOpinion(PROTOTYPES, lambda pixels, rows: FEATURES[: len(rows)], "resnet10t")
    rows = rows_of([[0.1, 0.2, 0.1], [0.9, 0.0, 0.0]])
    probs = opinion.probabilities(np.zeros((24, 32, 3), np.uint8), rows)
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    assert correct_classes(rows, probs, 0.0, name=opinion.name).rows.class_id.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("backbone", "width", "message"),
    [
        ("resnet18", 3, "were made of 3 features of 'resnet10t', and 'resnet18' gave"),
        ("resnet10t", 4, r"shape \(1, 4\)"),
    ],
)
def test_features_of_another_network_are_refused(backbone: str, width: int, message: str) -> None:
    with pytest.raises(PipelineError, match=f"{message}.*make them again with this network"):
        PROTOTYPES.probabilities(np.zeros((1, width)), backbone=backbone)
    with pytest.raises(PipelineError, match=message):
        PROTOTYPES.updated(np.zeros((1, width)), np.array([0]), backbone=backbone)


def test_a_class_without_labels_is_refused() -> None:
    with pytest.raises(PipelineError, match="1 of 3 classes have no labelled instance .*.ring.; raise labeled_pct"):
        Prototypes.of(FEATURES, np.array([0, 0, 2, 2]), backbone="resnet10t", class_names=NAMES)


def test_prototypes_that_do_not_fit_are_refused() -> None:
    for features in (np.zeros(3), np.full((2, 3), np.nan)):
        with pytest.raises(ValueError, match="features: expected finite numbers"):
            Prototypes("net", features)
    with pytest.raises(ValueError, match="temperature: expected a number above 0, got 0"):
        Prototypes("net", np.ones((2, 3)), 0.0)
    with pytest.raises(ValueError, match="momentum: expected a number from 0 to 1, got 2"):
        PROTOTYPES.updated(FEATURES, np.array([0, 0, 2, 1]), backbone="resnet10t", momentum=2)
    with pytest.raises(ValueError, match="class_id: expected one for each row"):
        Prototypes.of(FEATURES, np.array([0]), backbone="resnet10t", class_names=NAMES)
