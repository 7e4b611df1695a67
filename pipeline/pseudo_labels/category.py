"""A second opinion on the class of pseudo-labels, blended in less and less (PL-DC, section 3).

With t from 0 to 1 over training, w = (cos(πt) + 1) / 4 falls from ½ to 0, and

    p_f = w · p_2 + (1 − w) · p̂,   class := argmax p_f,   class score := max p_f,

p_2 being the second opinion's probabilities, p̂ the teacher's, made to sum to 1. So the new score says which class it
is *if there is anything*: rows are judged by the teacher's own score (:mod:`~pipeline.pseudo_labels.quality`) first.

The second opinion here is :class:`Prototypes`, the mean backbone feature of each class's labelled instances;
:mod:`~pipeline.pseudo_labels.clip_opinion` is another.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances

Floats64 = npt.NDArray[np.float64]

TEMPERATURE = 0.1


class SecondOpinion(Protocol):
    """Something else than the teacher that tells classes apart."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def probabilities(self, pixels: npt.NDArray[np.uint8], rows: Instances) -> Floats64:
        """Say what the instances of an image are.

        Args:
            pixels: (H, W, 3) RGB.
            rows: N rows of that image.

        Returns:
            (N, C), each row summing to 1.
        """


def masked_mean_features(features: Tensor, masks: Tensor) -> Tensor:
    """Average features over masks.

    Args:
        features: (C, h, w) float.
        masks: (N, k·h, k·w), weights of at least 0 on a grid as fine or k times finer; their k × k blocks are averaged.

    Returns:
        (N, C) Σ m·f / Σ m; zeros for a mask without weight.

    Raises:
        ValueError: If the grids do not fit.
    """
    height, width = features.shape[-2:]
    factor = masks.shape[-2] // height
    if factor < 1 or masks.shape[-2:] != (factor * height, factor * width):
        raise ValueError(
            f"masks: expected a grid of {height} × {width} cells or a multiple of it, got {tuple(masks.shape[-2:])}"
        )
    weight = masks.to(features).reshape(len(masks), height, factor, width, factor).mean(dim=(2, 4))
    mass = weight.sum(dim=(1, 2))
    summed = weight.flatten(1) @ features.flatten(1).T
    return summed / mass.where(mass > 0, 1.0)[:, None]


@dataclass(frozen=True, eq=False)
class Prototypes:
    """The mean backbone feature of each class; a feature is likest to the class of the nearest direction.

    Args:
        backbone: Name of the network that the features come from.
        features: (C, D) float64.
        temperature: Probabilities are the softmax of the cosines divided by this; smaller is surer.

    Raises:
        ValueError: If a feature is not finite, or the temperature is not above 0.
    """

    backbone: str
    features: Floats64
    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        """Refuse what is no set of prototypes."""
        if self.features.ndim != 2 or not np.isfinite(self.features).all():
            raise ValueError(f"features: expected finite numbers (C, D), got shape {self.features.shape}")
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected a number above 0, got {self.temperature}")

    @classmethod
    def of(
        cls,
        features: npt.ArrayLike,
        class_id: npt.NDArray[np.int64],
        *,
        backbone: str,
        class_names: Sequence[str],
        temperature: float = TEMPERATURE,
    ) -> "Prototypes":
        """Average the features of labelled instances.

        Args:
            features: (N, D), of :func:`masked_mean_features`.
            class_id: (N,), 0 to C − 1.
            backbone: Name of their network.
            class_names: C names.
            temperature: See above.

        Raises:
            PipelineError: If a class has no labelled instance.
        """
        given = np.asarray(features, dtype=np.float64)
        sums, counts = _sums(given, class_id, len(class_names))
        absent = [class_names[k] for k in np.flatnonzero(counts == 0).tolist()]
        if absent:
            raise PipelineError(
                f"pseudo_label: {len(absent)} of {len(class_names)} classes have no labelled instance to make a "
                f"prototype of ({', '.join(absent[:5])}); raise labeled_pct or list images that show them, or turn the "
                "category correction off"
            )
        return cls(backbone, sums / counts[:, None], temperature)

    def updated(
        self, features: npt.ArrayLike, class_id: npt.NDArray[np.int64], *, backbone: str, momentum: float = 0.99
    ) -> "Prototypes":
        """Move the prototypes of the classes given: momentum · old + (1 − momentum) · mean of their features.

        Raises:
            PipelineError: If the features are of another network.
            ValueError: If the momentum is not in [0, 1].
        """
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum: expected a number from 0 to 1, got {momentum}")
        given = self._checked(features, backbone)
        sums, counts = _sums(given, class_id, len(self.features))
        mean = sums / np.maximum(counts, 1)[:, None]
        moved = momentum * self.features + (1 - momentum) * mean
        return replace(self, features=np.where(counts[:, None] > 0, moved, self.features))

    def probabilities(self, features: npt.ArrayLike, *, backbone: str) -> Floats64:
        """Compare features with the prototypes; zeros are like no class more than another.

        Args:
            features: (N, D).
            backbone: Name of their network.

        Returns:
            (N, C), rows summing to 1.

        Raises:
            PipelineError: If the features are of another network.
        """
        given = self._checked(features, backbone)
        logits = _unit(given) @ _unit(self.features).T / self.temperature
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: Floats64 = powers / powers.sum(axis=1, keepdims=True)
        return shares

    def _checked(self, features: npt.ArrayLike, backbone: str) -> Floats64:
        given = np.asarray(features, dtype=np.float64)
        width = self.features.shape[1]
        if backbone != self.backbone or given.ndim != 2 or given.shape[1] != width:
            raise PipelineError(
                f"prototypes: were made of {width} features of {self.backbone!r}, and {backbone!r} gave features of "
                f"shape {given.shape}; make them again with this network"
            )
        return given


def _sums(features: Floats64, class_id: npt.NDArray[np.int64], n_classes: int) -> tuple[Floats64, Floats64]:
    """Sum of the features of each class, (C, D), and how many they are, (C,)."""
    if features.ndim != 2 or class_id.shape != features.shape[:1]:
        raise ValueError(f"class_id: expected one for each row of features, got {class_id.shape}, {features.shape}")
    member = (class_id[:, None] == np.arange(n_classes)).astype(np.float64)
    return member.T @ features, member.sum(axis=0)


def _unit(vectors: Floats64) -> Floats64:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)


@dataclass(frozen=True)
class PrototypeOpinion:
    """Prototypes as a :class:`SecondOpinion`.

    Args:
        prototypes: One for each class.
        pooled: Gives the (N, D) mean features of the instances of an image.
        backbone: Name of the network that it uses.
    """

    prototypes: Prototypes
    pooled: Callable[[npt.NDArray[np.uint8], Instances], npt.ArrayLike]
    backbone: str
    name: str = "prototypes"

    def probabilities(self, pixels: npt.NDArray[np.uint8], rows: Instances) -> Floats64:
        """Say what the instances of an image are; see :class:`SecondOpinion`."""
        return self.prototypes.probabilities(self.pooled(pixels, rows), backbone=self.backbone)


class Corrected(NamedTuple):
    """Rows with their new classes, and what the teacher said.

    Args:
        rows: With new ``class_id`` and ``class_score``; ``class_probs`` and ``score`` stay the teacher's. Of rows that
            are of one mask and, now, of one class, all but the surest have status ``duplicate``.
        old_class_id: (N,) int64.
        old_class_score: (N,) float32.
    """

    rows: Instances
    old_class_id: npt.NDArray[np.int64]
    old_class_score: npt.NDArray[np.float32]

    @property
    def changed(self) -> npt.NDArray[np.bool_]:
        """(N,) bool, rows of another class than before."""
        differs: npt.NDArray[np.bool_] = self.rows.class_id != self.old_class_id
        return differs


def opinion_weight(t: float) -> float:
    """Give w = (cos(πt) + 1) / 4 of the second opinion.

    Raises:
        ValueError: If t is not in [0, 1].
    """
    if not 0 <= t <= 1:
        raise ValueError(f"t: expected a number from 0 to 1, got {t}")
    return (math.cos(math.pi * t) + 1) / 4


def correct_classes(rows: Instances, second_probs: Floats64, t: float, *, name: str = "second opinion") -> Corrected:
    """Blend a second opinion into the teacher's classes; nothing changes where there is one class alone.

    Of equally likely classes the row keeps its own, else takes the first. A row that no ``class_probs`` are known of
    stays as it is.

    SOLOv2 gives a row for each class that a cell of its grid may be of, with one mask: they become one class here, and
    so duplicates.

    Args:
        rows: N rows with ``class_probs``.
        second_probs: (N, C), each row summing to 1.
        t: Share of the training that is done, 0 to 1.
        name: Who gave ``second_probs``, for messages.

    Raises:
        PipelineError: If ``class_probs`` are missing, or ``second_probs`` are no probabilities of those classes.
        ValueError: If t is not in [0, 1], or there is not one row for each.
    """
    weight = opinion_weight(t)
    second = np.asarray(second_probs, dtype=np.float64)
    if second.ndim != 2 or len(second) != len(rows):
        raise ValueError(f"second_probs: expected shape ({len(rows)}, C), got {second.shape}")
    _require_probabilities(second, name)
    unchanged = Corrected(rows, rows.class_id.copy(), rows.class_score.copy())
    if second.shape[1] == 1 or not len(rows):
        return unchanged
    if rows.class_probs is None:
        raise PipelineError(
            "mask store: class_probs: no row has them, as the category correction needs; run the pseudo_label stage "
            "again with keep_prob: true, or turn it off"
        )
    if rows.class_probs.shape[1] != second.shape[1]:
        raise PipelineError(
            f"{name}: gave probabilities of {second.shape[1]} classes, the mask store has "
            f"{rows.class_probs.shape[1]}; make it again for the same classes"
        )
    teacher = rows.class_probs.astype(np.float64)
    total = teacher.sum(axis=1, keepdims=True)
    known = (total > 0)[:, 0]  # false for NaN
    blended = weight * second + (1 - weight) * teacher / np.where(total > 0, total, 1.0)
    row = np.arange(len(rows))
    own = np.clip(rows.class_id, 0, second.shape[1] - 1)
    best = np.where(blended[row, own] == blended.max(axis=1), own, blended.argmax(axis=1))
    class_id = np.where(known, best, rows.class_id)
    score = np.where(known, blended[row, best], rows.class_score).astype(np.float32)
    status = np.where(_repeats(rows, class_id, score), "duplicate", rows.status)
    return unchanged._replace(rows=replace(rows, class_id=class_id, class_score=score, status=status))


def _require_probabilities(second: Floats64, name: str) -> None:
    bad = np.isnan(second).any(axis=1)
    if bad.any():
        raise PipelineError(
            f"{name}: gave NaN for {int(bad.sum())} of {len(second)} instances, the first being row "
            f"{int(bad.argmax())}; check its weights and features, or turn the category correction off"
        )
    bad = (second < 0).any(axis=1) | (np.abs(second.sum(axis=1) - 1) > 1e-3)
    if bad.any():
        k = int(bad.argmax())
        raise PipelineError(
            f"{name}: expected probabilities that sum to 1 for each instance, got {second[k, :5].tolist()} in row {k}; "
            "apply a softmax"
        )


def _repeats(rows: Instances, class_id: npt.NDArray[np.int64], score: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Mark good rows that have the mask and the class of a surer one, of equal ones an earlier."""
    seen: set[tuple[bytes, int]] = set()
    repeats = np.zeros(len(rows), dtype=bool)
    surest = np.lexsort((np.arange(len(rows)), -rows.class_score, -score))
    for row in surest[(rows.status == "ok")[surest] & (rows.area_px > 0)[surest]].tolist():
        key = (rows.rle[row], int(class_id[row]))
        repeats[row] = key in seen
        seen.add(key)
    return repeats
