"""The blob data set, made once, and trainings so small that they take a second."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pipeline.datasets.prepared import Prepared
from pipeline.datasets.splits import Splits, split_images
from pipeline.masks.store import MaskStore
from pipeline.models.crowd_net import CrowdNetOptions
from pipeline.training.crowd import train_student, train_teacher
from pipeline.training.options import (
    CropOptions,
    GateOptions,
    LoopOptions,
    PhaseOptions,
    PseudoLabelOptions,
    RetrainOptions,
    UnlabeledOptions,
    WarmupOptions,
)
from pipeline.training.pseudo_labels import write_pseudo_labels
from pipeline.training.run_place import RunPlace
from tests.training.blobs import write_blob_dataset
from tests.training.rough_scenes import RoughRun, write_rough_dataset

CPU = torch.device("cpu")
MODEL = CrowdNetOptions(width=8, mask_width=8, embed_dim=4, prior_prob=0.4)  # so that a few steps find something
CROPS = CropOptions(size_px=32, batch=2)
LOOP = LoopOptions(evaluate_every=3, log_every=2, checkpoint_every=2, tile_px=128, halo_px=16)
WARMUP = WarmupOptions(count=PhaseOptions(steps=4), mask=PhaseOptions(steps=3), crops=CROPS, loop=LOOP)
OPEN_GATE = GateOptions(max_error_ratio=1e6, min_count_ratio=0.0, max_count_ratio=1e6)
RETRAIN = RetrainOptions(
    count=PhaseOptions(steps=3),
    mask=PhaseOptions(steps=2),
    constraint=PhaseOptions(steps=2),
    crops=CROPS,
    loop=LOOP,
    unlabeled=UnlabeledOptions(ramp_steps=2, point_prob=0.25),
    gate=OPEN_GATE,
)
PSEUDO = PseudoLabelOptions(tile_px=128, halo_px=16)


@dataclass(frozen=True)
class BlobRun:
    """One run on a blob data set: where it reads and writes."""

    root: Path
    data: Path

    @property
    def prepared(self) -> Prepared:
        return Prepared.open(self.data / "prepared")

    @property
    def splits(self) -> Splits:
        return split_images(self.prepared.images, labeled_pct=50, seed=0, held_out_frac=0.3)

    @property
    def masks(self) -> MaskStore:
        return MaskStore.open(self.data / "annotate")

    @property
    def teacher(self) -> Path:
        return self.root / "warmup" / "model.safetensors"

    def place(self, stage: str) -> RunPlace:
        return RunPlace(self.root / stage, self.root / "resume" / stage, self.root / "logs" / f"{stage}.jsonl", CPU)

    def warmup(self, options: WarmupOptions = WARMUP, masks: MaskStore | None = None):
        return train_teacher(
            self.prepared,
            self.splits,
            masks or self.masks,
            model=MODEL,
            options=options,
            seed=0,
            place=self.place("warmup"),
        )

    def pseudo_label(self, options: PseudoLabelOptions = PSEUDO):
        return write_pseudo_labels(
            self.prepared,
            self.splits.unlabeled,
            self.teacher,
            model=MODEL,
            options=options,
            out=self.root / "pseudo_label",
            log=self.root / "logs" / "pseudo_label.jsonl",
            device=CPU,
        )

    def retrain(self, options: RetrainOptions = RETRAIN, model: CrowdNetOptions = MODEL):
        return train_student(
            self.prepared,
            self.splits,
            self.masks,
            MaskStore.open(self.root / "pseudo_label"),
            self.teacher,
            model=model,
            options=options,
            energy=PSEUDO.energy,
            seed=0,
            place=self.place("retrain"),
        )


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def blob_data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("blobs")
    write_blob_dataset(folder)
    return folder


@pytest.fixture(scope="session")
def rough_data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rough")
    write_rough_dataset(folder)
    return folder


@pytest.fixture
def rough_run(tmp_path, rough_data) -> RoughRun:
    return RoughRun(rough_data, tmp_path)


@pytest.fixture
def blob_run(tmp_path, blob_data) -> BlobRun:
    return BlobRun(root=tmp_path, data=blob_data)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Train in one thread: sums depend on the number of threads, and killed runs are those of other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, blob_data) -> BlobRun:
    """All three stages, done once; read only."""
    run = BlobRun(root=tmp_path_factory.mktemp("finished"), data=blob_data)
    run.warmup()
    run.pseudo_label()
    run.retrain()
    return run


@pytest.fixture
def ready_run(finished_run, blob_run):
    for folder in ("warmup", "pseudo_label"):
        (blob_run.root / folder).symlink_to(finished_run.root / folder)
    return blob_run
