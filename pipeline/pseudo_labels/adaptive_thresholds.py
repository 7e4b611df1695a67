"""Thresholds that follow the scores of each class, between bounds (PL-DC, section 2).

T_k starts at T_min + (T_max − T_min) · n_k / max n: strict for common classes, lax for rare ones. Each image then moves
it to α·T_k + (1 − α) · (mean score of the image's foreground rows of class k), within [T_min, T_max]; class and mask
quality apart, but over the same rows. Offline, images go in the order of their ids, once, and all are judged by what
comes out, so that every image is judged alike.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.pseudo_labels.quality import (
    Columns,
    Limits,
    QualityOptions,
    is_copy,
    require_scores,
    require_strata,
)

Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AdaptiveState:
    """Where the thresholds of K strata stand.

    Args:
        class_thr: Per stratum T_c, 0 to 1.
        mask_thr: T_m, likewise.
        n_images: Images seen.

    Raises:
        ValueError: If they are not so.
    """

    class_thr: tuple[float, ...]
    mask_thr: tuple[float, ...]
    n_images: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no such state."""
        Limits.of(self.class_thr, self.mask_thr, margin=0.0)
        if self.n_images < 0:
            raise ValueError(f"n_images: expected at least 0, got {self.n_images}")

    def limits(self, *, margin: float) -> Limits:
        """Give the thresholds that rows are judged by."""
        return Limits.of(self.class_thr, self.mask_thr, margin=margin)

    def to_json(self) -> str:
        """Write the state down; :meth:`from_json` gives the same numbers, bit for bit."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, *, where: str) -> "AdaptiveState":
        """Read a state.

        Args:
            text: Of :meth:`to_json`.
            where: Its file, for the message.

        Raises:
            PipelineError: If it is something else.
        """
        try:
            found = json.loads(text)
            return cls(
                tuple(map(float, found["class_thr"])), tuple(map(float, found["mask_thr"])), int(found["n_images"])
            )
        except (ValueError, KeyError, TypeError) as error:
            raise PipelineError(
                f"{where}: expected the state of adaptive thresholds ({type(error).__name__}: {error}); delete it and "
                "run the stage again, which starts from the labels"
            ) from error


def require_labels(label_counts: Sequence[int], *, names: Sequence[str] | None, thresholds: str) -> None:
    """Make sure that every stratum has a labelled instance.

    Args:
        label_counts: Labelled instances of each stratum.
        names: Of the classes, for the message.
        thresholds: The option's value, likewise.

    Raises:
        PipelineError: If one has none.
    """
    absent = [k for k, count in enumerate(label_counts) if count < 1]
    if absent or not label_counts:
        shown = ", ".join(str(k) if names is None else names[k] for k in absent[:5]) or "there is no class at all"
        raise PipelineError(
            f"quality.thresholds: {thresholds} learns from labelled instances, and {len(absent)} of "
            f"{len(label_counts)} classes have none ({shown}); raise labeled_pct or list images that show them, or set "
            "it to fixed"
        )


def start_state(
    label_counts: Sequence[int], *, options: QualityOptions, names: Sequence[str] | None = None
) -> AdaptiveState:
    """Begin from how often each class is labelled.

    Args:
        label_counts: Labelled instances of each stratum.
        options: Bounds of the thresholds.
        names: Of the classes, for messages.

    Raises:
        PipelineError: If a class has no labelled instance.
    """
    counts = [int(count) for count in label_counts]
    require_labels(counts, names=names, thresholds="adaptive")
    share = np.array(counts, dtype=np.float64) / max(counts)
    return AdaptiveState(
        class_thr=_between(options.class_thr_min, options.class_thr_max, share),
        mask_thr=_between(options.mask_thr_min, options.mask_thr_max, share),
    )


def _between(low: float, high: float, share: Floats64) -> tuple[float, ...]:
    # The bound again: low + (high − low) can pass high by a last bit.
    return tuple(np.minimum(low + (high - low) * share, high).tolist())


def adapt(
    state: AdaptiveState,
    class_score: Columns,
    mask_quality: Columns,
    stratum: npt.NDArray[np.integer[Any]],
    *,
    options: QualityOptions,
    nms_decay: Columns | None = None,
) -> AdaptiveState:
    """Move the thresholds by the rows of one image; those of strata without a foreground row stay.

    Args:
        state: Before.
        class_score: (N,) c.
        mask_quality: (N,) m.
        stratum: (N,), 0 to K − 1.
        options: α, bounds, and which rows are foreground; copies (see ``min_decay``) are none.
        nms_decay: (N,), NaN where unknown.

    Raises:
        PipelineError: If a row lacks a score, or its stratum thresholds.
    """
    require_scores(class_score, mask_quality)
    n_strata = len(state.class_thr)
    require_strata(stratum, n_strata)
    least = np.asarray(options.foreground_thr, dtype=class_score.dtype)
    rows = (class_score >= least) & ~is_copy(nms_decay, options.min_decay, len(class_score))
    count = np.bincount(stratum[rows], minlength=n_strata)

    def moved(thr: tuple[float, ...], scores: Columns, low: float, high: float) -> tuple[float, ...]:
        before = np.array(thr, dtype=np.float64)
        mean = np.bincount(stratum[rows], scores[rows].astype(np.float64), n_strata) / np.maximum(count, 1)
        after = options.alpha * before + (1 - options.alpha) * mean
        return tuple(np.clip(np.where(count > 0, after, before), low, high).tolist())

    return AdaptiveState(
        class_thr=moved(state.class_thr, class_score, options.class_thr_min, options.class_thr_max),
        mask_thr=moved(state.mask_thr, mask_quality, options.mask_thr_min, options.mask_thr_max),
        n_images=state.n_images + 1,
    )


def adapt_over(
    state: AdaptiveState,
    images: Iterable[tuple[str, Instances]],
    *,
    options: QualityOptions,
    stratum_of: Callable[[Instances], npt.NDArray[np.int64]] = lambda rows: rows.class_id,
) -> AdaptiveState:
    """Move the thresholds by many images.

    Args:
        state: Before.
        images: ``image_id`` and rows, ids ascending; those of a mask store are.
        options: See :func:`adapt`.
        stratum_of: Gives the (N,) stratum of the rows of an image; their classes by default.

    Raises:
        PipelineError: As in :func:`adapt`.
        ValueError: If the ids do not ascend.
    """
    last: str | None = None
    for image_id, rows in images:
        if last is not None and image_id <= last:
            raise ValueError(f"images: expected ascending ids, got {image_id} after {last}")
        last = image_id
        state = adapt(
            state, rows.class_score, rows.mask_quality, stratum_of(rows), options=options, nms_decay=rows.nms_decay
        )
    return state
