"""The sections of a parameter file that every system has: data sets, splits, circles, masks from points."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.annotators.edp_sam import EdpSamOptions
from pipeline.annotators.superpixel import SuperpixelOptions
from pipeline.annotators.truth import TruthOptions
from pipeline.datasets.base import DatasetReader
from pipeline.datasets.splits import SplitOptions
from pipeline.errors import raise_all
from pipeline.geometry.nnec import NnecOptions
from pipeline.training.p2seg_options import P2SegOptions
from stages.params import source_reader


@dataclass(frozen=True)
class PrepareParams:
    """Where raw data come from.

    Args:
        max_broken_frac: Share of the images that may be broken; they then stand in ``broken.parquet``.
        sources: Data set → ``{reader: name, …}`` with the options of that reader.
    """

    max_broken_frac: float = 0.0
    sources: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a share out of range."""
        if not 0 <= self.max_broken_frac < 1:
            raise ValueError(f"max_broken_frac must be at least 0 and below 1, got {self.max_broken_frac}")

    def reader(self, dataset: str) -> DatasetReader:
        """Build the reader of one data set.

        Raises:
            PipelineError: If the data set has no sound entry in ``sources``.
        """
        if dataset not in self.sources:
            known = ", ".join(self.sources) or "none"
            raise_all([f"data set '{dataset}' has no entry; known: {known}"], "prepare.sources: add its reader")
        reader, faults = source_reader(dataset, self.sources[dataset])
        raise_all(faults, "prepare.sources: mend these values")
        assert reader is not None
        return reader


@dataclass(frozen=True, kw_only=True)
class SplitsParams(SplitOptions):
    """How the training images are divided.

    Args:
        held_out_frac: See :class:`SplitOptions`.
        lists: Data set → percentage → file with the names of the labelled images.
    """

    lists: Mapping[str, Mapping[int, Path]] = field(default_factory=dict)

    def list_file(self, dataset: str, labeled_pct: int) -> Path | None:
        """Return the list file of one share, if the user gave one."""
        return self.lists.get(dataset, {}).get(labeled_pct)


@dataclass(frozen=True)
class NoOptions:
    """A method without options: ``{}``, so that every method has a section that DVC can watch."""


@dataclass(frozen=True)
class AnnotateParams:
    """How points become masks; DVC watches the section of the chosen method only.

    Args:
        method: ``edp_sam``, ``superpixel``, ``disc`` (baseline), ``truth`` where the data set has masks, or ``p2seg``,
            which trains on the data set's points first.
        weights: SAM weights of ``edp_sam``; ``python -m stages.weights list`` names them.
        edp_sam: Options of ``edp_sam``.
        superpixel: Options of ``superpixel``.
        disc: Options of ``disc``: none.
        truth: Options of ``truth``.
        p2seg: Options of ``p2seg``.
    """

    method: Literal["edp_sam", "superpixel", "disc", "truth", "p2seg"] = "edp_sam"
    weights: str = "compact"
    edp_sam: EdpSamOptions = field(default_factory=EdpSamOptions)
    superpixel: SuperpixelOptions = field(default_factory=SuperpixelOptions)
    disc: NoOptions = field(default_factory=NoOptions)
    truth: TruthOptions = field(default_factory=TruthOptions)
    p2seg: P2SegOptions = field(default_factory=P2SegOptions)

    @property
    def options(self) -> EdpSamOptions | SuperpixelOptions | TruthOptions | NoOptions | P2SegOptions:
        """Options of the chosen method."""
        chosen: EdpSamOptions | SuperpixelOptions | TruthOptions | NoOptions | P2SegOptions = getattr(self, self.method)
        return chosen


@dataclass(frozen=True)
class DataParams:
    """What the stages prepare, nnec and annotate read, and every system's matrix.

    Args:
        datasets: Data sets that ``dvc repro`` runs: keys of ``prepare.sources``.
        labeled_pct: Labelled shares that ``dvc repro`` runs, in percent.
        seeds: Seeds that ``dvc repro`` runs.
        prepare: Where raw data come from.
        splits: How training images are divided.
        nnec: Exclusion circles.
        annotate: Points to masks.
    """

    datasets: tuple[str, ...] = ("synthetic",)
    labeled_pct: tuple[int, ...] = (10,)
    seeds: tuple[int, ...] = (0,)
    prepare: PrepareParams = field(default_factory=PrepareParams)
    splits: SplitsParams = field(default_factory=SplitsParams)
    nnec: NnecOptions = field(default_factory=NnecOptions)
    annotate: AnnotateParams = field(default_factory=AnnotateParams)

    def disagreements(self) -> list[str]:
        """Say what is wrong between sections, one line each."""
        faults = [
            f"datasets: '{dataset}' has no entry in prepare.sources; add {dataset}: {{reader: …}} there"
            for dataset in self.datasets
            if dataset not in self.prepare.sources
        ]
        faults += [
            f"labeled_pct: expected 1 to 100 percent, got {pct}" for pct in self.labeled_pct if not 1 <= pct <= 100
        ]
        faults += [f"seeds: expected at least 0, got {seed}" for seed in self.seeds if seed < 0]
        for name in ("datasets", "labeled_pct", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                faults.append(f"{name}: expected at least one value and each once, got {list(values)}")
        return faults
