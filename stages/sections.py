"""The sections of params.yaml, composed of the options that stand beside the pieces they belong to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.annotators.edp_sam import EdpSamOptions
from pipeline.annotators.superpixel import SuperpixelOptions
from pipeline.datasets.base import DatasetReader
from pipeline.datasets.splits import SplitOptions
from pipeline.errors import raise_all
from pipeline.geometry.nnec import NnecOptions
from pipeline.models.crowd_net import CrowdNetOptions
from pipeline.training.evaluate_crowd import EvaluateOptions
from pipeline.training.options import PseudoLabelOptions, RetrainOptions, WarmupOptions
from stages.params import source_reader
from stages.paths import ROUND_NAME


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
        method: ``edp_sam``, ``superpixel``, ``disc`` (baseline), or ``truth`` where the data set has masks.
        weights: SAM weights of ``edp_sam``; ``python -m stages.weights list`` names them.
        edp_sam: Options of ``edp_sam``.
        superpixel: Options of ``superpixel``.
        disc: Options of ``disc``: none.
        truth: Options of ``truth``: none.
    """

    method: Literal["edp_sam", "superpixel", "disc", "truth"] = "edp_sam"
    weights: str = "compact"
    edp_sam: EdpSamOptions = field(default_factory=EdpSamOptions)
    superpixel: SuperpixelOptions = field(default_factory=SuperpixelOptions)
    disc: NoOptions = field(default_factory=NoOptions)
    truth: NoOptions = field(default_factory=NoOptions)

    @property
    def options(self) -> EdpSamOptions | SuperpixelOptions | NoOptions:
        """Options of the chosen method."""
        chosen: EdpSamOptions | SuperpixelOptions | NoOptions = getattr(self, self.method)
        return chosen


@dataclass(frozen=True)
class RoundParams:
    """A further round of self-training: pseudo_label and retrain once more, with a student as teacher.

    Args:
        name: ``round_2``, ``round_3`` and so on: its folder.
        teacher: Folder of its teacher beside ``warmup``: ``retrain``, or ``round_2/retrain``.
    """

    name: str
    teacher: str


@dataclass(frozen=True)
class Params:
    """The whole file.

    Args:
        datasets: Data sets that ``dvc repro`` runs: keys of ``prepare.sources``.
        labeled_pct: Labelled shares that ``dvc repro`` runs, in percent.
        seeds: Seeds that ``dvc repro`` runs.
        rounds: Rounds of self-training after the first.
        prepare: Where raw data come from.
        splits: How training images are divided.
        nnec: Exclusion circles.
        annotate: Points to masks.
        model: The crowd network.
        warmup: The teacher.
        pseudo_label: The teacher's masks.
        retrain: The student.
        evaluate: Test figures and report.
    """

    datasets: tuple[str, ...] = ("synthetic",)
    labeled_pct: tuple[int, ...] = (10,)
    seeds: tuple[int, ...] = (0,)
    rounds: tuple[RoundParams, ...] = ()
    prepare: PrepareParams = field(default_factory=PrepareParams)
    splits: SplitsParams = field(default_factory=SplitsParams)
    nnec: NnecOptions = field(default_factory=NnecOptions)
    annotate: AnnotateParams = field(default_factory=AnnotateParams)
    model: CrowdNetOptions = field(default_factory=CrowdNetOptions)
    warmup: WarmupOptions = field(default_factory=WarmupOptions)
    pseudo_label: PseudoLabelOptions = field(default_factory=PseudoLabelOptions)
    retrain: RetrainOptions = field(default_factory=RetrainOptions)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)

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
        return faults + self._round_faults()

    def _round_faults(self) -> list[str]:
        faults = []
        teachers = ["warmup", "retrain"]
        for one in self.rounds:
            if not ROUND_NAME.fullmatch(one.name) or f"{one.name}/retrain" in teachers:
                faults.append(f"rounds: expected the names round_2, round_3 and so on, each once, got {one.name!r}")
            if one.teacher not in teachers:
                faults.append(
                    f"rounds: {one.name}'s teacher: expected one of {', '.join(teachers)}, got {one.teacher!r}"
                )
            teachers.append(f"{one.name}/retrain")
        return faults
