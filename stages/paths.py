"""Where each stage reads and writes: one place, so that stages, DVC and tests agree."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import PipelineError

ROUND_NAME = re.compile(r"round_([2-9]|[1-9][0-9]+)")
"""Names of further rounds of self-training; the first has none."""


@dataclass(frozen=True)
class DatasetPaths:
    """Files that depend on the data set alone.

    Args:
        dataset: Name of the data set, a folder below ``data/``.
        data_root: The folder that holds all data sets.
    """

    dataset: str
    data_root: Path = field(default=Path("data"))

    @property
    def root(self) -> Path:
        """Folder of this data set; ``images.parquet`` stores image paths relative to it."""
        return self.data_root / self.dataset

    @property
    def raw(self) -> Path:
        """What the user brought: a folder, a symlink, or ``scenes.yaml`` inside it. Never written to."""
        return self.root / "raw"

    @property
    def prepared(self) -> Path:
        """Tables of ``prepare``."""
        return self.root / "prepared"

    @property
    def nnec(self) -> Path:
        """Folder of ``nnec``; holds ``radii.parquet``."""
        return self.root / "nnec"

    @property
    def annotate(self) -> Path:
        """Mask store of ``annotate``."""
        return self.root / "annotate"

    @property
    def logs(self) -> Path:
        """JSON lines of long stages; outside DVC's outputs."""
        return Path("logs") / self.dataset


@dataclass(frozen=True)
class RunPaths(DatasetPaths):
    """Files that also depend on the labelled share and the seed, and on the round of self-training.

    Args:
        labeled_pct: Labelled share of the training images, in percent.
        seed: Seed of the split and of training.
        round: Name of a further round, ``round_2`` and so on; None for the first, which has no folder of its own.
        teacher: Folder of the teacher's checkpoint, below the run's; None for warmup's, or the round's before.

    Raises:
        PipelineError: If the round has another name.
    """

    labeled_pct: int = 10
    seed: int = 0
    round: str | None = None
    teacher: str | None = None

    def __post_init__(self) -> None:
        """Refuse names that are no round's."""
        if self.round is not None and not ROUND_NAME.fullmatch(self.round):
            raise PipelineError(f"round: expected round_2, round_3 and so on, got {self.round!r}; pass it as --round")

    @property
    def round_number(self) -> int:
        """Rounds before this one: 0 for the first, 1 for ``round_2``."""
        return 0 if self.round is None else int(self.round.removeprefix("round_")) - 1

    @property
    def run(self) -> Path:
        """Folder of one (data set, labelled share, seed)."""
        return self.root / self._place

    @property
    def warmup(self) -> Path:
        """Teacher of the first round: ``model.safetensors``, ``model.json``, ``dvclive/``."""
        return self.run / "warmup"

    @property
    def teacher_folder(self) -> Path:
        """The teacher of this round: ``warmup``, or the student of an earlier round."""
        before = {0: "warmup", 1: "retrain"}.get(self.round_number, f"round_{self.round_number}/retrain")
        return self.run / (self.teacher or before)

    @property
    def pseudo_label(self) -> Path:
        """Mask store of ``pseudo_label``."""
        return self.run / self._round_place / "pseudo_label"

    @property
    def held_out(self) -> Path:
        """Mask store of ``pseudo_label``, too: the same teacher's masks of the held-out labelled images."""
        return self.run / self._round_place / "held_out"

    @property
    def judged(self) -> Path:
        """Pseudo-labels after ``judge``: ``masks/``, ``thresholds.json``, ``corrections.parquet``."""
        return self.run / self._round_place / "judged"

    @property
    def rough(self) -> Path:
        """Mask stores ``early_1`` and so on: what the teacher's early weights make of the strong images."""
        return self.run / "rough"

    @property
    def refiner(self) -> Path:
        """The network that refines masks: the same files as the teacher's."""
        return self.run / "refiner"

    @property
    def refined(self) -> Path:
        """Mask store of ``refine``: the pseudo-labels, refined."""
        return self.run / "refined"

    @property
    def retrain(self) -> Path:
        """Student: the same files as the teacher's."""
        return self.run / self._round_place / "retrain"

    @property
    def evaluate(self) -> Path:
        """``metrics.json``, ``per_image.parquet``, ``plots/``, ``report.html``, ``overlays/``."""
        return self.run / self._round_place / "evaluate"

    @property
    def metrics(self) -> Path:
        """Test figures of the stage evaluate."""
        return self.evaluate / "metrics.json"

    @property
    def records(self) -> tuple[Path, Path]:
        """What teacher and student were built and trained with."""
        return self.warmup / "model.json", self.retrain / "model.json"

    @classmethod
    def evaluated(cls, data_root: Path = Path("data")) -> "list[RunPaths]":
        """Find all runs that have test figures, sorted by data set, share and seed."""
        found = []
        for path in data_root.glob("*/labeled_*/seed_*/evaluate/metrics.json"):
            dataset, labeled, seed = path.relative_to(data_root).parts[:3]
            numbers = re.fullmatch(r"labeled_([1-9]\d*)/seed_(0|[1-9]\d*)", f"{labeled}/{seed}")
            if numbers:
                found.append(cls(dataset, data_root, labeled_pct=int(numbers[1]), seed=int(numbers[2])))
        return sorted(found, key=lambda run: (run.dataset, run.labeled_pct, run.seed))

    @property
    def logs(self) -> Path:
        """JSON lines of long stages; outside DVC's outputs."""
        return Path("logs") / self.dataset / self._place / self._round_place

    @property
    def resume(self) -> Path:
        """Resumable training states, outside DVC's outputs: ``resume/<stage>/``."""
        return Path("resume") / self.dataset / self._place / self._round_place

    @property
    def _place(self) -> Path:
        return Path(f"labeled_{self.labeled_pct}") / f"seed_{self.seed}"

    @property
    def _round_place(self) -> Path:
        return Path(self.round or "")
