"""XMask's two trainings: the teacher on labelled images, the student on all (arXiv 2603.16241, sections 3 and 4)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric

from pipeline.compute.files import digest_file, digest_json, fresh_folder, write_json
from pipeline.compute.progress import JsonLines
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.splits import Splits
from pipeline.errors import PipelineError
from pipeline.masks.store import MaskStore
from pipeline.models.crowd_net import CrowdNet, CrowdNetOptions, build_crowd_net
from pipeline.pseudo_labels.energy import EnergyOptions
from pipeline.training.checkpoint import LAST_FILE, MODEL_FILE, ModelRecord, ResumeFile, save_model
from pipeline.training.crops import CropSampler
from pipeline.training.crowd_batches import LABELED_STREAM, UNLABELED_STREAM, CrowdBatch, CrowdBatches
from pipeline.training.crowd_losses import CrowdLoss, PhaseLoss, constraint_loss, count_loss, mask_loss
from pipeline.training.curves import write_curves
from pipeline.training.gate import GateFigures, check_gate
from pipeline.training.held_out import HeldOut
from pipeline.training.inference import KIND, load_crowd_net
from pipeline.training.loop import Chosen, Phase, Trained, Training
from pipeline.training.options import PhaseOptions, RetrainOptions, StrongViewOptions, WarmupOptions, result_options
from pipeline.training.scenes import labeled_scenes, pseudo_labeled_scenes

ALGORITHM_VERSION = 2
"""Raised by hand when the same inputs train other weights; unfinished trainings of another version start anew."""

COUNTING_PATH = ("encoder", "fuse", "count_head")
FIGURES_FILE = "metrics.json"
CURVES_FOLDER = "dvclive"


@dataclass(frozen=True)
class RunPlace:
    """Where a training computes and writes.

    Args:
        out: Folder of the result; replaced when training ends, untouched before.
        resume: Folder of the resumable state.
        log: JSON lines.
        device: Where to compute.
    """

    out: Path
    resume: Path
    log: Path
    device: torch.device


def train_teacher(
    prepared: Prepared,
    splits: Splits,
    masks: MaskStore,
    *,
    model: CrowdNetOptions,
    options: WarmupOptions,
    seed: int,
    place: RunPlace,
) -> dict[str, float]:
    """Train the teacher on the labelled images: to count, then to tell instances apart.

    Args:
        prepared: The data set; only the labelled images' points are read.
        splits: Which images these are.
        masks: The annotator's masks; only those of the labelled images are read.
        model: Network.
        options: Phases.
        seed: Seed of the network's start and of the crops.
        place: Device and folders.

    Returns:
        The figures that also stand in ``metrics.json``.

    Raises:
        PipelineError: If inputs are missing or do not fit, or training diverges.
    """
    run = _CrowdRun(prepared, splits, masks, options, seed, place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_crowd_net(model)
    batches = run.batches(pseudo=None, strong=StrongViewOptions())
    phases = [
        run.phase("count", options.count, COUNTING_PATH, batches, CrowdLoss(count_loss, place.device)),
        run.phase(
            "mask", options.mask, ("mask_head",), batches, CrowdLoss(mask_loss(options.exclusivity), place.device)
        ),
    ]
    inputs = {"kind": "warmup", "model": asdict(model)}
    return run.train(net, phases, inputs=inputs, description="warmup", extra_figures={})


def train_student(
    prepared: Prepared,
    splits: Splits,
    masks: MaskStore,
    pseudo: MaskStore,
    teacher: Path,
    *,
    model: CrowdNetOptions,
    options: RetrainOptions,
    energy: EnergyOptions,
    seed: int,
    place: RunPlace,
) -> dict[str, float]:
    """Train the student, from the teacher's weights, on labelled images and on pseudo-labels.

    Args:
        prepared: The data set; only the labelled images' points are read.
        splits: Which images these are.
        masks: The annotator's masks; only those of the labelled images are read.
        pseudo: The teacher's masks of the unlabelled images.
        teacher: The teacher's checkpoint.
        model: Network, the same as the teacher's.
        options: Phases, gate, unlabelled branch.
        energy: How pseudo-labels are made.
        seed: Seed of the crops.
        place: Device and folders.

    Returns:
        The figures that also stand in ``metrics.json``.

    Raises:
        PipelineError: If inputs are missing or do not fit, the gate is not passed, or training diverges.
    """
    foreign = sorted(set(pseudo.image_ids) - set(splits.unlabeled))
    if foreign:
        raise PipelineError(
            f"{pseudo.path}: holds {len(foreign)} images that are not unlabelled training images "
            f"({', '.join(foreign[:5])} …): it belongs to another split; run the pseudo_label stage again"
        )
    run = _CrowdRun(prepared, splits, masks, options, seed, place)
    net, _ = load_crowd_net(teacher, device=place.device, expected=model)
    figures = run.gate_figures(net, pseudo, options)
    check_gate(figures, options.gate)
    batches = run.batches(pseudo=pseudo if options.unlabeled.weight_max else None, strong=options.unlabeled.strong)

    def loss(branch: PhaseLoss, weight_start: float = 0.0) -> CrowdLoss:
        from_ema = options.teacher == "ema"
        return CrowdLoss(branch, place.device, options.unlabeled, energy, from_ema, weight_start)

    phases = [
        run.phase("count", options.count, COUNTING_PATH, batches, loss(count_loss)),
        run.phase("mask", options.mask, ("mask_head",), batches, loss(mask_loss(options.exclusivity))),
        run.phase(
            "constraint",
            options.constraint,
            ("fuse", "count_head"),
            batches,
            loss(constraint_loss(w_fg=options.w_fg, w_bg=options.w_bg), options.unlabeled.weight_start),
        ),
    ]
    inputs = {
        "kind": "retrain",
        "model": asdict(model),
        "energy": asdict(energy),
        "teacher": digest_file(teacher),
        "pseudo": _digests([pseudo.path]),
    }
    return run.train(net, phases, inputs=inputs, description="retrain", extra_figures=figures.as_metrics())


@dataclass(frozen=True)
class _CrowdRun:
    """What both trainings share."""

    prepared: Prepared
    splits: Splits
    masks: MaskStore
    options: WarmupOptions | RetrainOptions
    seed: int
    place: RunPlace

    def __post_init__(self) -> None:
        for name in ("labeled_train", "labeled_val"):
            if not getattr(self.splits, name):
                raise PipelineError(f"splits: there is no image in {name}; label more images, or raise labeled_pct")

    def batches(self, *, pseudo: MaskStore | None, strong: StrongViewOptions) -> CrowdBatches:
        cache_mib = self.options.loop.cache_mib
        labeled = labeled_scenes(self.prepared, self.masks, self.splits.labeled_train, cache_mib=cache_mib)
        unlabeled = None
        if pseudo is not None and len(pseudo):
            scenes = pseudo_labeled_scenes(self.prepared, pseudo, cache_mib=cache_mib)
            unlabeled = CropSampler(scenes, self.options.crops, seed=self.seed, stream=UNLABELED_STREAM)
        sampler = CropSampler(labeled, self.options.crops, seed=self.seed, stream=LABELED_STREAM)
        return CrowdBatches(sampler, unlabeled, self.options.labeled_colors, strong, self.seed)

    def phase(
        self, name: str, options: PhaseOptions, trained: tuple[str, ...], batches: CrowdBatches, loss: CrowdLoss
    ) -> Phase[CrowdBatch]:
        return Phase(name, options, trained, batches, loss)

    def held_out(self) -> HeldOut:
        return HeldOut.open(
            self.prepared, self.masks, self.splits.labeled_val, options=self.options.loop, device=self.place.device
        )

    def gate_figures(self, teacher: CrowdNet, pseudo: MaskStore, options: RetrainOptions) -> GateFigures:
        labeled = self._true_counts(self.splits.labeled_train)
        sure = [
            int((pseudo.instances(image_id).score >= options.unlabeled.point_prob).sum())
            for image_id in pseudo.image_ids
        ]
        return GateFigures(
            teacher_mae=self.held_out().figures(teacher, with_masks=False)["mae"],
            mean_count_mae=self.mean_count_mae(),
            labeled_count=float(np.mean(labeled)),
            pseudo_count=float(np.mean(sure)) if sure else None,
        )

    def mean_count_mae(self) -> float:
        mean = np.mean(self._true_counts(self.splits.labeled_train))
        return float(np.mean(np.abs(np.array(self._true_counts(self.splits.labeled_val)) - mean)))

    def _true_counts(self, image_ids: Sequence[str]) -> list[int]:
        return [len(self.prepared.points(image_id)) for image_id in image_ids]

    def train(
        self,
        net: CrowdNet,
        phases: list[Phase[CrowdBatch]],
        *,
        inputs: dict[str, Any],
        description: str,
        extra_figures: dict[str, float],
    ) -> dict[str, float]:
        device, loop = self.place.device, self.options.loop
        fabric = Fabric(
            accelerator="cuda" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=loop.precision,
        )
        held_out = self.held_out()
        resume = ResumeFile(self.place.resume, digest=self._digest(inputs))
        with JsonLines(self.place.log, append=resume.path.is_file()) as log:
            training = Training(
                net.to(device).to(memory_format=torch.channels_last),  # convolutions are a fifth faster so
                phases,
                options=loop,
                fabric=fabric,
                evaluate=lambda teacher, phase: held_out.figures(teacher, with_masks=phase != "count"),
                error_name="mae",
                resume=resume,
                log=log,
            )
            trained = training.run(description)
        figures = self._write(net.options, trained, extra_figures)
        resume.clear()
        return figures

    def _write(self, model: CrowdNetOptions, trained: Trained, extra_figures: dict[str, float]) -> dict[str, float]:
        parameters = {**result_options(self.options), "seed": self.seed}
        figures = {
            "chosen_step": trained.chosen.step,
            **{f"held_out_{name}": value for name, value in trained.chosen.metrics.items()},
            "last_step": trained.last.step,
            **{f"last_held_out_{name}": value for name, value in trained.last.metrics.items()},
            "mean_count_mae": self.mean_count_mae(),
            **extra_figures,
        }

        def save(path: Path, kept: Chosen) -> None:
            record = ModelRecord(KIND, asdict(model), parameters, kept.step, kept.metrics)
            save_model(path, kept.weights, record)

        with fresh_folder(self.place.out) as folder:
            save(folder / MODEL_FILE, trained.chosen)
            save(folder / LAST_FILE, trained.last)
            write_curves(folder / CURVES_FOLDER, trained.curves)
            write_json(folder / FIGURES_FILE, figures)
        return figures

    def _digest(self, inputs: dict[str, Any]) -> str:
        """Digest all that the weights depend on."""
        return digest_json(
            {
                **inputs,
                "version": ALGORITHM_VERSION,
                "options": result_options(self.options),
                "seed": self.seed,
                "splits": asdict(self.splits),
                "data": _digests([self.prepared.folder, self.masks.path]),
            }
        )


def _digests(folders: list[Path]) -> list[str]:
    return [digest_file(path) for folder in folders for path in sorted(folder.glob("*.parquet"))]
