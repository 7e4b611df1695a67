"""Judging the segmenter's pseudo-labels: what is learnt from labelled images, and what is written (PL-DC)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.datasets.prepared import Prepared
from pipeline.datasets.splits import Splits
from pipeline.masks.store import MaskStore
from pipeline.pseudo_labels.judging import JudgeOptions, compare_held_out, learn_limits
from pipeline.pseudo_labels.second_opinion import SecondOpinions
from pipeline.training.judged_view import Yields, write_judged


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
) -> Yields:
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
        What became of the rows of each class.

    Raises:
        PipelineError: If rows lack what the options need, or a class has no labelled instance where one is needed.
    """
    names = prepared.class_names
    counts = label_counts(masks, (*splits.labeled_train, *splits.labeled_val), n_classes=len(names))
    known = None
    if held_out is not None:
        known = compare_held_out(held_out, masks, splits.labeled_val, options=options.quality)
    limits = learn_limits(options.quality, store, known, counts, names=names)
    opinions = SecondOpinions.open(second_opinion) if options.correct else None
    return write_judged(
        store, out, options=options, limits=limits, known=known, names=names, opinions=opinions,
        title=f"{prepared.folder.parent.name}: pseudo-labels, judged",
        facts={"classes corrected by": "nobody" if opinions is None else opinions.name},
    )  # fmt: skip


def label_counts(masks: MaskStore, image_ids: Sequence[str], *, n_classes: int) -> list[int]:
    """Count the labelled instances of each class: rows that are ``ok``."""
    counts = np.zeros(n_classes, dtype=np.int64)
    for image_id in image_ids:
        rows = masks.instances(image_id)
        counts += np.bincount(rows.class_id[rows.status == "ok"], minlength=n_classes)
    found: list[int] = counts.tolist()
    return found
