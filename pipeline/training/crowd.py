"""XMask's two trainings: the teacher on labelled images, the student on all (arXiv 2603.16241, sections 3 and 4)."""

from dataclasses import asdict, replace
from pathlib import Path

import torch

from pipeline.compute.files import digest_file
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.splits import Splits
from pipeline.errors import PipelineError
from pipeline.masks.store import MaskStore
from pipeline.models.crowd_net import CrowdNetOptions, build_crowd_net
from pipeline.pseudo_labels.energy import EnergyOptions
from pipeline.training.crowd_batches import CrowdBatch
from pipeline.training.crowd_losses import CrowdLoss, PhaseLoss, constraint_loss, count_loss, mask_loss
from pipeline.training.crowd_run import CrowdRun
from pipeline.training.gate import check_gate
from pipeline.training.inference import load_crowd_net
from pipeline.training.options import PhaseOptions, RetrainOptions, StudentPhase, UnlabeledOptions, WarmupOptions
from pipeline.training.phases import Phase
from pipeline.training.pseudo_scenes import require_soft_masks
from pipeline.training.ranks import is_first_rank
from pipeline.training.run_place import RunPlace, digest_tables

COUNTING_PATH = ("encoder", "fuse", "count_head")


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
        prepared: The data set; only the labelled images' points are read, and the test images' for ``oracle_best``.
        splits: Which images these are.
        masks: The annotator's masks; only those of the labelled images are read.
        model: Network.
        options: Phases.
        seed: Seed of the network's start and of the crops.
        place: Device and folders.

    Returns:
        The figures that also stand in ``metrics.json``; nothing on other ranks than the first.

    Raises:
        PipelineError: If inputs are missing or do not fit, or training diverges.
    """
    run = CrowdRun(prepared, splits, masks, options, seed, place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_crowd_net(model)
    fabric = run.launch()
    batches = run.batches(fabric, pseudo=None, unlabeled=UnlabeledOptions())
    exclusivity = CrowdLoss(mask_loss(options.exclusivity), fabric.device)
    phases = [
        run.phase("count", options.count, COUNTING_PATH, batches, CrowdLoss(count_loss, fabric.device)),
        run.phase("mask", options.mask, ("mask_head",), batches, exclusivity),
    ]
    inputs = {"kind": "warmup", "model": asdict(model)}
    return run.train(net, phases, fabric=fabric, inputs=inputs, description="warmup", extra_figures={})


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
        prepared: The data set; only the labelled images' points are read, and the test images' for ``oracle_best``.
        splits: Which images these are.
        masks: The annotator's masks; only those of the labelled images are read.
        pseudo: The teacher's masks of the unlabelled images, judged or as they are.
        teacher: The teacher's checkpoint.
        model: Network, the same as the teacher's.
        options: Phases, gate, unlabelled branch.
        energy: How pseudo-labels are made.
        seed: Seed of the crops.
        place: Device and folders.

    Returns:
        The figures that also stand in ``metrics.json``; nothing on other ranks than the first.

    Raises:
        PipelineError: If inputs are missing or do not fit, the gate is not passed, or training diverges.
    """
    learns_unlabeled = options.unlabeled.weight_max > 0 and bool(options.unlabeled.phases)
    _check_pseudo_labels(pseudo, splits, teacher, learns_unlabeled=learns_unlabeled)
    if learns_unlabeled and options.unlabeled.pixel_weights != "off":
        require_soft_masks(pseudo)
    run = CrowdRun(prepared, splits, masks, options, seed, place)
    first = is_first_rank()  # the others are not started before the gate is passed
    net, _ = load_crowd_net(teacher, device=place.device if first else torch.device("cpu"), expected=model)
    figures = {}
    if first:
        gate = run.gate_figures(net, pseudo, options)
        check_gate(gate, options.gate)
        figures = gate.as_metrics()
    if options.unlabeled.match_count:
        matched = run.matching_prob(pseudo)
        options = replace(options, unlabeled=replace(options.unlabeled, point_prob=matched))
        figures |= {"point_prob": matched} if first else {}
    fabric = run.launch()
    batches = run.batches(fabric, pseudo=pseudo if learns_unlabeled else None, unlabeled=options.unlabeled)

    def phase(
        name: StudentPhase, length: PhaseOptions, trained: tuple[str, ...], branch: PhaseLoss, weight_start: float = 0.0
    ) -> Phase[CrowdBatch]:
        if name not in options.unlabeled.phases:
            return run.phase(name, length, trained, replace(batches, unlabeled=None), CrowdLoss(branch, fabric.device))
        from_ema = options.teacher == "ema"
        loss = CrowdLoss(branch, fabric.device, options.unlabeled, energy, from_ema, weight_start)
        return run.phase(name, length, trained, batches, loss)

    constrained = phase(
        "constraint",
        options.constraint,
        ("fuse", "count_head"),
        constraint_loss(w_fg=options.w_fg, w_bg=options.w_bg),
        options.unlabeled.weight_start,
    )
    phases = [
        phase("count", options.count, COUNTING_PATH, count_loss),
        phase("mask", options.mask, ("mask_head",), mask_loss(options.exclusivity)),
        replace(constrained, keeps_start=True),
    ]
    inputs = {
        "kind": "retrain",
        "model": asdict(model),
        "energy": asdict(energy),
        "teacher": digest_file(teacher),
        "pseudo": digest_tables([pseudo.path]),
    }
    return run.train(net, phases, fabric=fabric, inputs=inputs, description="retrain", extra_figures=figures)


def _check_pseudo_labels(pseudo: MaskStore, splits: Splits, teacher: Path, *, learns_unlabeled: bool) -> None:
    """Refuse a store that is not this teacher's word on this split's unlabelled images."""
    foreign = sorted(set(pseudo.image_ids) - set(splits.unlabeled))
    if foreign:
        raise PipelineError(
            f"{pseudo.path}: holds {len(foreign)} images that are not unlabelled training images "
            f"({', '.join(foreign[:5])} …): it belongs to another split; run the pseudo_label stage again"
        )
    if learns_unlabeled and not len(pseudo):
        raise PipelineError(
            f"{pseudo.path}: has no unlabelled image to learn from; lower labeled_pct, or set "
            "retrain.unlabeled.phases: [] to train on the labelled images alone"
        )
    made_with = pseudo.provenance.weights_sha256
    if len(pseudo) and teacher.is_file() and made_with != digest_file(teacher):
        raise PipelineError(
            f"{pseudo.path}: was made with another teacher than {teacher} (weights {str(made_with)[:12]} …, expected "
            f"{digest_file(teacher)[:12]} …); run the pseudo_label stage again"
        )
