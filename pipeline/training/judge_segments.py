"""Judging the segmenter's pseudo-labels: what is learnt from labelled images, and what is written (PL-DC)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.compute.files import fresh_folder
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.splits import Splits
from pipeline.masks.store import MaskStore
from pipeline.pseudo_labels.calibrated_thresholds import HeldOutRows, compare_with_truth
from pipeline.pseudo_labels.judging import JudgeOptions, judge_store, learn_limits
from pipeline.pseudo_labels.quality import QualityOptions
from pipeline.pseudo_labels.second_opinion import SecondOpinions
from pipeline.report.quality import write_quality
from pipeline.training.judged_view import judged_view


def judge_segments(
    prepared: Prepared,
    splits: Splits,
    masks: MaskStore,
    store: MaskStore,
    held_out: MaskStore | None,
    second_opinion: Path,
    *,
    options: JudgeOptions,
    out: Path,
) -> npt.NDArray[np.int64]:
    """Judge the pseudo-labels of the weak images, without a network.

    Args:
        prepared: The data set; no points are read.
        splits: ``labeled_train`` and ``labeled_val`` say how often each class is labelled.
        masks: True masks, or an annotator's; only those of the strong images are read.
        store: The pseudo-labels.
        held_out: What the teacher makes of ``labeled_val``; None if that was not written.
        second_opinion: File of second opinions; read with ``correct``.
        options: How to judge.
        out: Folder of ``masks/``, ``thresholds.json``, ``corrections.parquet`` and plots; replaced when all is done.

    Returns:
        (C, 3) rows of each class that were dropped, are ambiguous, are kept.

    Raises:
        PipelineError: If rows lack what the options need, or a class has no labelled instance where one is needed.
    """
    names = prepared.class_names
    counts = label_counts(masks, (*splits.labeled_train, *splits.labeled_val), n_classes=len(names))
    known = held_out_rows(held_out, masks, splits.labeled_val, options=options.quality)
    limits = learn_limits(options.quality, store, known, counts, names=names)
    opinions = SecondOpinions.open(second_opinion) if options.correct else None
    with fresh_folder(out) as folder:
        yields = judge_store(
            store, folder, options=options, limits=limits, n_strata=len(names), opinions=opinions, names=names
        )
        facts = {
            "images": f"{len(store):,} pseudo-labelled, {len(splits.labeled_val):,} held out",
            "thresholds": options.quality.thresholds,
            "classes corrected by": "nobody" if opinions is None else opinions.name,
        }
        view = judged_view(
            known, yields, limits, options.quality, title=f"{prepared.folder.parent.name}: pseudo-labels, judged",
            names=names, facts=facts,
        )  # fmt: skip
        write_quality(folder, view)
    return yields


def label_counts(masks: MaskStore, image_ids: Sequence[str], *, n_classes: int) -> list[int]:
    """Count the labelled instances of each class: rows that are ``ok``."""
    counts = np.zeros(n_classes, dtype=np.int64)
    for image_id in image_ids:
        rows = masks.instances(image_id)
        counts += np.bincount(rows.class_id[rows.status == "ok"], minlength=n_classes)
    found: list[int] = counts.tolist()
    return found


def held_out_rows(
    store: MaskStore | None, masks: MaskStore, image_ids: Sequence[str], *, options: QualityOptions
) -> HeldOutRows | None:
    """Compare the teacher's rows on held-out images with their masks; None where there are no such images."""
    if store is None or not image_ids:
        return None
    return HeldOutRows.join(
        [
            compare_with_truth(store.instances(image_id), masks.instances(image_id), options=options)
            for image_id in sorted(image_ids)
        ]
    )
