"""Judging a store of pseudo-labels: which rows are kept, what class they are of (PL-DC, sections 2, 3 and 6).

No network is needed, so that a threshold can be changed in seconds. What it is made of: thresholds are fixed or learnt
(:func:`learn_limits`), rows are sorted by them (:mod:`~pipeline.pseudo_labels.quality`), and then their classes are
corrected (:mod:`~pipeline.pseudo_labels.category`), since the blended score says no more whether there is anything.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.compute.files import write_json, write_table
from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from pipeline.pseudo_labels.adaptive_thresholds import adapt_over, start_state
from pipeline.pseudo_labels.calibrated_thresholds import HeldOutRows, calibrate, compare_with_truth
from pipeline.pseudo_labels.category import Corrected, correct_classes
from pipeline.pseudo_labels.quality import Limits, QualityOptions, Tier, Tiers, judge_rows, with_tiers
from pipeline.pseudo_labels.second_opinion import SecondOpinions

ALGORITHM = "judged"
ALGORITHM_VERSION = 1
"""Raised by hand when the same rows are judged in another way."""
MASKS_FOLDER = "masks"
THRESHOLDS_FILE = "thresholds.json"
CORRECTIONS_FILE = "corrections.parquet"

Strata = npt.NDArray[np.int64]
StratumOf = Callable[[Instances], Strata]
"""Gives the (N,) stratum of the rows of an image, 0 to K − 1."""


def by_class(rows: Instances) -> Strata:
    """Sort rows by their class."""
    return rows.class_id


def _all_kept() -> QualityOptions:
    return QualityOptions(thresholds="off")


@dataclass(frozen=True)
class JudgeOptions:
    """How a store of pseudo-labels is judged.

    Args:
        quality: Which rows are kept.
        correct: Blend the second opinion that ``pseudo_label`` wrote into the classes.
        progress: t of that blend, the share of training that is done: the second opinion weighs (cos(πt) + 1) / 4.
        promote_prob: With ``correct``, an ambiguous row of sufficient mask quality is kept if the blended probability
            of its class is at least this; 1 promotes none. This project's own.
        dropped: ``remove`` takes dropped rows for background; ``ignore`` leaves their pixels out of training, which is
            right where something is known to be: at points, in crowds.
    """

    quality: QualityOptions = field(default_factory=_all_kept)
    correct: bool = False
    progress: float = 0.0
    promote_prob: float = 1.0
    dropped: Literal["remove", "ignore"] = "remove"

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("progress", "promote_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1, got {getattr(self, name)!r}")


def learn_limits(
    options: QualityOptions,
    store: MaskStore,
    held_out: HeldOutRows | None,
    label_counts: Sequence[int],
    *,
    names: Sequence[str],
    stratum_of: StratumOf = by_class,
) -> Limits | None:
    """Find the thresholds of K strata.

    Args:
        options: Where they come from.
        store: The rows to judge, which ``adaptive`` learns from.
        held_out: Rows of images whose truth is known, which ``calibrated`` learns from.
        label_counts: Labelled instances of each stratum.
        names: Of the strata, for messages.
        stratum_of: Sorts rows.

    Returns:
        The thresholds; None for ``off`` and ``single``, which have none for two scores.

    Raises:
        PipelineError: If a stratum has no labelled instance where that is needed, or rows lack a score.
    """
    if options.thresholds == "fixed":
        return Limits.fixed(options, len(names))
    if options.thresholds == "adaptive":
        state = start_state(label_counts, options=options, names=names)
        images = ((image_id, store.instances(image_id)) for image_id in sorted(store.image_ids))
        return adapt_over(state, images, options=options, stratum_of=stratum_of).limits(margin=options.margin)
    if options.thresholds == "calibrated":
        if held_out is None:
            raise PipelineError(
                "quality.thresholds: calibrated learns from held-out labelled images, and there is none; raise "
                "splits.held_out_frac, or set it to fixed"
            )
        return calibrate(held_out, label_counts, options=options, names=names).limits
    return None


def compare_held_out(
    store: MaskStore,
    truth: MaskStore,
    image_ids: Sequence[str],
    *,
    options: QualityOptions,
    stratum_of: StratumOf = by_class,
    background_is_wrong: bool = False,
) -> HeldOutRows | None:
    """Compare a teacher's rows on images whose truth is known with it.

    Args:
        store: What the teacher makes of them.
        truth: Their masks, true or an annotator's.
        image_ids: The images.
        options: How rows are judged.
        stratum_of: Sorts rows.
        background_is_wrong: See :func:`~pipeline.pseudo_labels.calibrated_thresholds.compare_with_truth`.

    Returns:
        None without images, or where a row lacks a score and thresholds, being off, ask for none.

    Raises:
        PipelineError: If a row lacks a score that is asked for.
    """
    parts = []
    for image_id in sorted(image_ids):
        rows = store.instances(image_id)
        if options.thresholds == "off" and np.isnan(np.concatenate([rows.class_score, rows.mask_quality])).any():
            return None
        parts.append(
            compare_with_truth(
                rows, truth.instances(image_id), options=options, stratum=stratum_of(rows),
                background_is_wrong=background_is_wrong,
            )
        )  # fmt: skip
    return HeldOutRows.join(parts) if parts else None


class Judged(NamedTuple):
    """The rows of an image after judging.

    Args:
        rows: What is left of them; those not to be learnt are ``ambiguous``.
        tiers: (N,) tier of each row before.
        corrected: With what the teacher said; None without correction.
    """

    rows: Instances
    tiers: Tiers
    corrected: Corrected | None


def judge_image(
    rows: Instances,
    *,
    options: JudgeOptions,
    limits: Limits | None,
    second_probs: npt.NDArray[np.float64] | None = None,
    stratum_of: StratumOf = by_class,
    name: str = "second opinion",
) -> Judged:
    """Judge the rows of an image.

    Args:
        rows: N rows.
        options: See :class:`JudgeOptions`.
        limits: Of :func:`learn_limits`.
        second_probs: (N, C), with ``correct``.
        stratum_of: Sorts rows.
        name: Who gave ``second_probs``, for messages.

    Raises:
        PipelineError: If rows lack what is needed.
    """
    strata = stratum_of(rows)
    tiers = judge_rows(rows, options=options.quality, limits=limits, stratum=strata)
    corrected = None
    if options.correct:
        assert second_probs is not None
        corrected = correct_classes(rows, second_probs, options.progress, name=name)
        if limits is not None and options.promote_prob < 1:
            thr = np.asarray(limits.mask_thr, dtype=rows.mask_quality.dtype)[strata]
            sure = (corrected.rows.class_score >= np.float32(options.promote_prob)) & (rows.mask_quality >= thr)
            sure &= rows.area_px > options.quality.min_area_px
            tiers = np.where((tiers == Tier.AMBIGUOUS) & sure, np.int8(Tier.KEEP), tiers)
        rows = corrected.rows
    return Judged(with_tiers(rows, tiers, dropped=options.dropped), tiers, corrected)


def judge_store(
    store: MaskStore,
    folder: Path,
    *,
    options: JudgeOptions,
    limits: Limits | None,
    n_strata: int,
    opinions: SecondOpinions | None = None,
    stratum_of: StratumOf = by_class,
    names: Sequence[str] = (),
    rows_of: Callable[[str], Instances] | None = None,
) -> npt.NDArray[np.int64]:
    """Judge a store; write ``masks/``, ``thresholds.json`` and ``corrections.parquet`` into a folder that is there.

    Args:
        store: The pseudo-labels.
        folder: Where to write.
        options: See :class:`JudgeOptions`.
        limits: Of :func:`learn_limits`.
        n_strata: K.
        opinions: Second opinions, with ``correct``.
        stratum_of: Sorts rows.
        names: Of the strata, for ``thresholds.json``.
        rows_of: Gives the rows of an image where they are not taken as they stand in the store.

    Returns:
        (K, 3) rows that were dropped, are ambiguous, are kept.

    Raises:
        PipelineError: If rows lack what is needed.
    """
    yields = np.zeros((n_strata, len(Tier)), dtype=np.int64)
    params = {**asdict(options), "limits": None if limits is None else asdict(limits), "of": asdict(store.provenance)}
    provenance = Provenance(ALGORITHM, ALGORITHM_VERSION, params, store.provenance.weights_sha256)
    changes: dict[str, list[Any]] = {"image_id": [], "point_id": [], "old_class_id": [], "old_class_score": []}
    with MaskStore.create(folder / MASKS_FOLDER, provenance) as writer:
        for image_id in sorted(store.image_ids):
            rows = (rows_of or store.instances)(image_id)
            second = opinions.of(image_id, rows) if opinions is not None and options.correct else None
            found = judge_image(
                rows, options=options, limits=limits, second_probs=second, stratum_of=stratum_of,
                name="second opinion" if opinions is None else opinions.name,
            )  # fmt: skip
            writer.add(image_id, found.rows)
            np.add.at(yields, (stratum_of(rows), found.tiers.astype(np.int64)), 1)
            if found.corrected is not None:
                changed = np.flatnonzero(found.corrected.changed)
                changes["image_id"] += [image_id] * len(changed)
                changes["point_id"] += rows.point_id[changed].tolist()
                changes["old_class_id"] += found.corrected.old_class_id[changed].tolist()
                changes["old_class_score"] += found.corrected.old_class_score[changed].tolist()
    thresholds = {"strata": list(names), "quality": asdict(options.quality), "limits": params["limits"]}
    write_json(folder / THRESHOLDS_FILE, thresholds)
    schema = pa.schema(
        [("image_id", pa.string()), ("point_id", pa.int64()), ("old_class_id", pa.int64()),
         ("old_class_score", pa.float32())]
    )  # fmt: skip
    write_table(pa.table(changes, schema=schema), folder / CORRECTIONS_FILE)
    return yields


def read_thresholds(path: Path) -> tuple[QualityOptions, Limits | None]:
    """Read how :func:`judge_store` judged: the options, and the thresholds where there are two for each stratum.

    Raises:
        PipelineError: If the file is missing or something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        quality: dict[str, Any] = {
            name: tuple(each) if isinstance(each, list) else each for name, each in found["quality"].items()
        }
        limits = found["limits"]
        lists = None if limits is None else {name: tuple(map(float, each)) for name, each in limits.items()}
        return QualityOptions(**quality), None if lists is None else Limits(**lists)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PipelineError(
            f"{path}: expected the thresholds that judging writes ({type(error).__name__}: {error}); run the stage "
            "judge first"
        ) from error
