"""What judging leaves in its folder: the judged rows, and plots of held-out rows and of the yield of each stratum."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compute.files import fresh_folder
from pipeline.masks.instances import Instances
from pipeline.masks.store import MaskStore
from pipeline.pseudo_labels.calibrated_thresholds import HeldOutRows
from pipeline.pseudo_labels.judging import JudgeOptions, StratumOf, by_class, judge_store
from pipeline.pseudo_labels.quality import Limits, QualityOptions, judge_scores
from pipeline.pseudo_labels.second_opinion import SecondOpinions
from pipeline.report.quality import QualityView, write_quality


class Yields(NamedTuple):
    """What became of a store's rows.

    Args:
        names: Of the K strata.
        rows: (K, 3) rows that were dropped, are ambiguous, are kept.
        limits: The thresholds, where there are two for each stratum.
    """

    names: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    limits: Limits | None


def write_judged(
    store: MaskStore,
    out: Path,
    *,
    options: JudgeOptions,
    limits: Limits | None,
    known: HeldOutRows | None,
    names: Sequence[str],
    title: str,
    facts: Mapping[str, str],
    stratum_of: StratumOf = by_class,
    opinions: SecondOpinions | None = None,
    rows_of: Callable[[str], Instances] | None = None,
) -> Yields:
    """Judge a store into a folder, with the plots.

    Args:
        store: The pseudo-labels.
        out: The folder: ``masks/``, ``thresholds.json``, ``corrections.parquet``, plots; replaced when all is done.
        options: How to judge.
        limits: Thresholds of K strata, where there are two for each.
        known: Rows on held-out images, for the plots; None where there are none.
        names: Of the strata.
        title: Headline of the plots.
        facts: Name → value of what was judged, beside the number of images and the kind of thresholds.
        stratum_of: Sorts rows.
        opinions: Second opinions, with ``correct``.
        rows_of: See :func:`~pipeline.pseudo_labels.judging.judge_store`.

    Raises:
        PipelineError: If rows lack what the options need.
    """
    with fresh_folder(out) as folder:
        rows = judge_store(
            store, folder, options=options, limits=limits, n_strata=len(names), opinions=opinions,
            stratum_of=stratum_of, names=names, rows_of=rows_of,
        )  # fmt: skip
        told = {"pseudo-labelled images": f"{len(store):,}", "thresholds": options.quality.thresholds, **facts}
        write_quality(folder, judged_view(known, rows, limits, options.quality, title=title, names=names, facts=told))
    return Yields(tuple(names), rows, limits)


def judged_view(
    known: HeldOutRows | None,
    yields: npt.NDArray[np.int64],
    limits: Limits | None,
    options: QualityOptions,
    *,
    title: str,
    names: Sequence[str],
    facts: Mapping[str, str],
) -> QualityView:
    """Put together what the plots of judging show.

    Held-out rows are sorted by the same thresholds; copies and how large a mask is are left out of account there.

    Args:
        known: Rows on held-out images; None where there are none.
        yields: (K, 3) rows of the pseudo-labels: dropped, ambiguous, kept.
        limits: Thresholds of K strata, where there are two for each.
        options: How rows were judged.
        title: Headline.
        names: Of the strata.
        facts: Name → value of what was judged.
    """
    rows = known if known is not None else no_rows()
    always = np.full(len(rows), options.min_area_px + 1)
    tiers = judge_scores(
        rows.class_score, rows.mask_quality, always, rows.stratum, options=options, limits=limits
    )  # fmt: skip
    single = options.thresholds == "single"
    two = {} if limits is None else {name: np.array(each) for name, each in asdict(limits).items()}
    return QualityView(
        title=title, facts=facts, names=tuple(names), class_score=rows.class_score, mask_quality=rows.mask_quality,
        stratum=rows.stratum, iou=rows.iou, class_right=rows.class_right, class_counts=rows.class_counts, tier=tiers,
        yields=yields, class_thr=two.get("class_thr"), mask_thr=two.get("mask_thr"),
        class_floor=two.get("class_floor"), mask_floor=two.get("mask_floor"),
        score_thr=options.score_thr if single else None,
        score_floor=max(options.score_thr - options.margin, 0.0) if single else None,
    )  # fmt: skip


def no_rows() -> HeldOutRows:
    """Give the rows of no image."""
    numbers, whole, flags = np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    return HeldOutRows(numbers, numbers, whole, np.zeros(0), flags, flags)
