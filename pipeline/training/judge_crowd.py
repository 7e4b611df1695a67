"""Judging a crowd's pseudo-labels: one class, thresholds by density, nobody becomes background (PL-DC, section 6).

What differs from :mod:`~pipeline.pseudo_labels.judging`, which does the work:

- A softmax over one class is 1, so there is no correction of classes; strata are densities.
- A candidate's class score is its probability. Whether it is confident for the energy mask (``ambiguous`` or not) is
  forgotten where thresholds judge: they take the place of that one limit.
- Dropped rows stay and are ignored: at a candidate there may be a head.
- Energy masks share no pixel, so that no two rows can have nearly the same mask, and no duplicates are looked for.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.datasets.prepared import Prepared
from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.store import MaskStore
from pipeline.pseudo_labels.calibrated_thresholds import HeldOutRows
from pipeline.pseudo_labels.density import density_names, density_strata
from pipeline.pseudo_labels.judging import JudgeOptions, Strata, compare_held_out, learn_limits
from pipeline.pseudo_labels.quality import Limits, QualityOptions
from pipeline.training.judged_view import Yields, write_judged


def crowd_quality() -> QualityOptions:
    """Give the defaults for energy masks; at tau 0.8 and lambda_geo 0.6 the best mask quality is 0.78, the least ½."""
    return QualityOptions(
        thresholds="off", class_thr=0.5, mask_thr=0.6, margin=0.1, min_decay=0.0, class_thr_min=0.3, class_thr_max=0.8,
        mask_thr_min=0.55, mask_thr_max=0.65, class_wanted=0.2, mask_wanted=0.2,
    )  # fmt: skip


@dataclass(frozen=True)
class CrowdJudgeOptions:
    """How a crowd's pseudo-labels are judged.

    Args:
        quality: Thresholds; ``off`` leaves the rows as they are.
        dropped: ``ignore`` keeps dropped people out of training; ``remove`` takes them for background.
        density_edges_px: Distances to the nearest other row that part the strata, ascending; none for one stratum.
    """

    quality: QualityOptions = field(default_factory=crowd_quality)
    dropped: Literal["remove", "ignore"] = "ignore"
    density_edges_px: tuple[float, ...] = (12.0, 24.0)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        edges = (0.0, *self.density_edges_px)
        if not all(low < high for low, high in itertools.pairwise(edges)):
            raise ValueError(
                f"density_edges_px: expected ascending numbers above 0, got {list(self.density_edges_px)}; [] makes "
                "one stratum of all rows"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Name the strata."""
        return density_names(self.density_edges_px)

    def strata(self, rows: Instances) -> Strata:
        """Sort the rows of an image."""
        return density_strata(rows.points_xy, rows.size_hw, self.density_edges_px)


def judge_crowd(
    prepared: Prepared,
    pseudo: MaskStore,
    held_out: MaskStore,
    truth: MaskStore,
    *,
    labeled: Sequence[str],
    options: CrowdJudgeOptions,
    out: Path,
) -> Yields:
    """Judge a store of energy masks into ``out/masks``; no network and no picture is needed.

    Args:
        prepared: The data set; only the labelled images' points are read.
        pseudo: The teacher's masks of the unlabelled images.
        held_out: Its masks of the held-out labelled images, which ``calibrated`` learns from.
        truth: The annotator's masks; only those of the held-out images are read.
        labeled: The labelled images; their heads are counted by density.
        options: See :class:`CrowdJudgeOptions`.
        out: Folder to make or replace.

    Raises:
        PipelineError: If rows lack a score, or what thresholds are learnt from is missing.
    """
    judges = options.quality.thresholds != "off"
    known = None
    if len(held_out):
        _require_one_teacher(pseudo, held_out)
        known = compare_held_out(
            held_out, truth, held_out.image_ids, options=options.quality, stratum_of=options.strata,
            background_is_wrong=True,
        )  # fmt: skip
    limits = _learn(prepared, pseudo, known, labeled, options) if judges else None
    return write_judged(
        pseudo, out, options=JudgeOptions(quality=options.quality, dropped=options.dropped), limits=limits,
        known=known, names=options.names, stratum_of=options.strata,
        rows_of=(lambda image_id: _undecided(pseudo.instances(image_id))) if judges else None,
        title=f"{prepared.folder.parent.name}: pseudo-labels, judged", facts={},
    )  # fmt: skip


def _undecided(rows: Instances) -> Instances:
    """Forget which rows were not confident."""
    return replace(rows, status=np.where(rows.status == "ambiguous", "ok", rows.status))


def _learn(
    prepared: Prepared,
    pseudo: MaskStore,
    compared: HeldOutRows | None,
    labeled: Sequence[str],
    options: CrowdJudgeOptions,
) -> Limits | None:
    how = options.quality.thresholds
    counts = np.zeros(len(options.names), dtype=np.int64)
    if how in ("adaptive", "calibrated"):
        for image_id in labeled:
            points_xy = np.asarray(prepared.points(image_id).points_xy, dtype=np.float64)
            strata = density_strata(points_xy, prepared.image(image_id).size_hw, options.density_edges_px)
            counts += np.bincount(strata, minlength=len(counts))
        absent = [name for name, count in zip(options.names, counts.tolist(), strict=True) if not count]
        if absent:
            raise PipelineError(
                f"judge.quality.thresholds: {how} learns from labelled heads, and none of {int(counts.sum())} is in "
                f"{', '.join(repr(name) for name in absent)}; change judge.density_edges_px, raise labeled_pct, or set "
                "it to fixed"
            )
    return learn_limits(
        options.quality, pseudo, compared, counts.tolist(), names=options.names, stratum_of=options.strata
    )


def _require_one_teacher(pseudo: MaskStore, held_out: MaskStore) -> None:
    if pseudo.provenance.weights_sha256 != held_out.provenance.weights_sha256:
        raise PipelineError(
            f"{held_out.path}: was made with another teacher than {pseudo.path}; run the pseudo_label stage again"
        )
