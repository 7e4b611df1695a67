"""SOLOv2's trainings: the teacher on strong images, the student on those and on pseudo-labels of the weak ones."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.compute.files import digest_file
from pipeline.compute.progress import warn_user
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.splits import Splits
from pipeline.errors import PipelineError
from pipeline.evaluation.average_precision import average_precision_of
from pipeline.masks.store import MaskStore
from pipeline.models.solo_inference import DetectOptions
from pipeline.models.solov2 import Solov2, build_solov2
from pipeline.training.checkpoint import read_record, read_weights
from pipeline.training.online_teacher import OnlineTeacher
from pipeline.training.options import result_options
from pipeline.training.phases import Phase
from pipeline.training.ranks import launch
from pipeline.training.run_place import RunPlace, digest_tables
from pipeline.training.segment_batches import PairedBatches, SegmentBatch, SegmentBatches
from pipeline.training.segment_inference import KIND, InputSize, Segmenter
from pipeline.training.segment_losses import SegmentLoss
from pipeline.training.segment_options import SegmentPhaseOptions
from pipeline.training.segment_scenes import SegmentScenes, segment_scenes, unseen_classes
from pipeline.training.segmenter_options import SegmenterOptions, StudentOptions, UnlabeledImagesOptions
from pipeline.training.training_run import TrainingRun

ALGORITHM_VERSION = 1
"""Raised by hand when the same inputs train other weights; unfinished trainings of another version start anew."""
NO_STEPS = SegmentPhaseOptions(steps=0)
ALIKE = UnlabeledImagesOptions()
LEARNING = ("encoder", "fpn", "class_tower", "kernel_tower", "class_head", "kernel_head", "mask_branch")


def early_files(options: SegmenterOptions) -> dict[int, str]:
    """Step → file name of the weights that are kept beside the final ones."""
    return {step: f"early_{number}.safetensors" for number, step in enumerate(options.early_steps, start=1)}


@dataclass(frozen=True)
class HeldOutScenes:
    """The held-out strong images, by which the checkpoint is chosen.

    Args:
        scenes: Images with their true masks.
        options: The training's; images are shown as in inference.
        class_names: Names of the classes.
        device: Where to compute.
    """

    scenes: SegmentScenes
    options: SegmenterOptions
    class_names: tuple[str, ...]
    device: torch.device

    def figures(self, net: nn.Module) -> dict[str, float]:
        """Detect there: ``ap`` and ``ap_50``, 0 where they are undefined, and ``error``, 1 − ``ap``."""
        assert isinstance(net, Solov2)
        views = self.options.views
        size = InputSize(views.test_short_side_px, views.long_side_px)
        segmenter = Segmenter(net, size, self.options.ranges_px, self.device)
        looks = DetectOptions(min_area=(0,) * len(self.options.network.grids), max_detections=100)
        scenes = (self.scenes[position] for position in range(len(self.scenes)))
        pairs = ((segmenter.detect(scene.pixels, looks), scene.rows) for scene in scenes)
        found = average_precision_of(pairs, class_names=self.class_names)
        ap, ap_50 = (float(np.nan_to_num(value)) for value in (found.ap, found.ap_50))
        return {"error": 1 - ap, "ap": ap, "ap_50": ap_50}


def train_segmenter_teacher(
    prepared: Prepared,
    splits: Splits,
    masks: MaskStore,
    *,
    options: SegmenterOptions,
    seed: int,
    place: RunPlace,
) -> dict[str, float]:
    """Train the teacher on the strong images.

    Args:
        prepared: The data set; no points are read.
        splits: ``labeled_train`` are learnt from, ``labeled_val`` choose the checkpoint.
        masks: True masks, or an annotator's; only those of the strong images are read.
        options: Network, lengths, views.
        seed: Seed of the network's start and of the views.
        place: Device and folders.

    Returns:
        The figures that also stand in ``metrics.json``; nothing on other ranks than the first.

    Raises:
        PipelineError: If inputs are missing or do not fit, or training diverges.
    """
    net = _fresh(options, len(_class_names(prepared)), seed)
    return _train(prepared, splits, masks, None, net, options=options, seed=seed, place=place, kind="warmup", inputs={})


def train_segmenter_student(
    prepared: Prepared,
    splits: Splits,
    masks: MaskStore,
    pseudo: MaskStore | None,
    teacher: Path,
    *,
    options: StudentOptions,
    seed: int,
    place: RunPlace,
    online: OnlineTeacher | None = None,
) -> dict[str, float]:
    """Train the student on the strong images and on the pseudo-labels of the weak ones.

    Args:
        prepared: The data set; no points are read.
        splits: As for the teacher; pseudo-labels must be of ``unlabeled``.
        masks: True masks, or an annotator's; only those of the strong images are read.
        pseudo: Masks of the weak images; those that are not ``ok`` are ignored where they lie. None to train on the
            strong images alone.
        teacher: The teacher's checkpoint, for ``start: teacher``.
        options: Network, lengths, views.
        seed: Seed of the network's start and of the views.
        place: Device and folders.
        online: Labels the weak images at each step, in place of the rows of ``pseudo``.

    Returns:
        The figures that also stand in ``metrics.json``; nothing on other ranks than the first.

    Raises:
        PipelineError: If inputs are missing or do not fit, or training diverges.
    """
    foreign = sorted(set(pseudo.image_ids) - set(splits.unlabeled)) if pseudo is not None else []
    if pseudo is not None and foreign:
        raise PipelineError(
            f"{pseudo.path}: holds {len(foreign)} images that are not weak training images "
            f"({', '.join(foreign[:5])} …): it belongs to another split; run the pseudo_label stage again"
        )
    if pseudo is not None and not len(pseudo):
        raise PipelineError(
            f"{pseudo.path}: has no weak image to learn from; lower labeled_pct, or set retrain.weak: false to train "
            "on the strong images alone"
        )
    n_classes = len(_class_names(prepared))
    net = _fresh(options.learn, n_classes, seed)
    if options.start == "teacher":
        record = read_record(teacher, kind=KIND)
        sizes = {**record.architecture["network"], "grids": None, "pretrained": None, "prior_prob": None}
        own = {**asdict(options.learn.network), "grids": None, "pretrained": None, "prior_prob": None}
        if sizes != own or record.architecture["n_classes"] != n_classes:
            raise PipelineError(
                f"{teacher}: has another network than retrain.learn.network, so that retrain.start: teacher is not "
                "possible; give both the same sizes, or set it to fresh"
            )
        net.load_state_dict(read_weights(teacher))
    inputs = {
        "pseudo": digest_tables([pseudo.path]) if pseudo is not None else None,
        "teacher": digest_file(teacher) if options.start == "teacher" else None,
        "burn_in": asdict(options.burn_in),
        "unlabeled": asdict(options.unlabeled),
        "online": None if online is None else asdict(online),
    }
    return _train(
        prepared, splits, masks, pseudo, net, options=options.learn, seed=seed, place=place, kind="retrain",
        inputs=inputs, burn_in=options.burn_in, unlabeled=options.unlabeled, online=online,
    )  # fmt: skip


def _class_names(prepared: Prepared) -> tuple[str, ...]:
    if not prepared.class_names:
        raise PipelineError(
            f"{prepared.folder}: names no classes, which SOLOv2 tells apart; use a data set that has them, and run "
            "prepare again"
        )
    return prepared.class_names


def _fresh(options: SegmenterOptions, n_classes: int, seed: int) -> Solov2:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_solov2(options.network, n_classes)


def _train(
    prepared: Prepared,
    splits: Splits,
    masks: MaskStore,
    pseudo: MaskStore | None,
    net: Solov2,
    *,
    options: SegmenterOptions,
    seed: int,
    place: RunPlace,
    kind: str,
    inputs: Mapping[str, object],
    burn_in: SegmentPhaseOptions = NO_STEPS,
    unlabeled: UnlabeledImagesOptions = ALIKE,
    online: OnlineTeacher | None = None,
) -> dict[str, float]:
    for name in ("labeled_train", "labeled_val"):
        if not getattr(splits, name):
            raise PipelineError(f"splits: there is no image in {name}; label more images, or raise labeled_pct")
    names, n_strong = _class_names(prepared), len(splits.labeled_train)
    cache_mib, n_classes = options.loop.cache_mib, len(names)

    def scenes_of(image_ids: Sequence[str], store: MaskStore | None = None) -> SegmentScenes:
        return segment_scenes(prepared, masks, image_ids, store, n_classes=n_classes, cache_mib=cache_mib)

    held_out, strong = scenes_of(splits.labeled_val), scenes_of(splits.labeled_train)
    fabric = launch(place.device, place.ranks, precision=options.loop.precision, batch=options.views.batch)
    unseen = unseen_classes(masks, splits.labeled_train, pseudo, class_names=names)
    if unseen and fabric.is_global_zero:
        warn_user(f"{kind}: {_unseen_text(unseen, names, weak=pseudo is not None)}")
    labeled = SegmentBatches(strong, options.views, seed, fabric.global_rank, fabric.world_size)
    batches: SegmentBatches | PairedBatches = labeled
    if pseudo is not None and unlabeled.batch:
        views = replace(options.views, batch=unlabeled.batch)
        pool = replace(
            labeled, scenes=scenes_of((), pseudo), options=views, strong=unlabeled.strong,
            weigh="off" if online else unlabeled.pixel_weights, stream=1,
        )  # fmt: skip
        batches = PairedBatches(labeled, pool)
    elif pseudo is not None:
        alike = scenes_of(splits.labeled_train, pseudo)
        batches = replace(labeled, scenes=alike, weigh=unlabeled.pixel_weights)
    loss = SegmentLoss(options.network.grids, options.ranges_px, options.dice_weight, fabric, unlabeled.weight, online)
    phases: list[Phase[SegmentBatch]] = [
        Phase("burn_in", burn_in, LEARNING, labeled, loss, labeled.describe),
        Phase("train", options.train, LEARNING, batches, loss, batches.describe),
    ]
    looks = HeldOutScenes(held_out, options, names, fabric.device)
    run = TrainingRun(
        kind=KIND,
        architecture={"network": asdict(options.network), "n_classes": n_classes},
        parameters={**result_options(options), "seed": seed},
        inputs={
            **inputs,
            "stage": kind,
            "version": ALGORITHM_VERSION,
            "splits": asdict(splits),
            "data": digest_tables([prepared.folder, masks.path]),
        },
        options=options.loop,
        place=place,
        description=kind,
    )
    return run.train(
        net,
        phases,
        fabric=fabric,
        evaluate=lambda teacher, _: looks.figures(teacher),
        error_name="error",
        early=early_files(options),
        extra_figures=lambda: {
            "n_strong": n_strong,
            "n_weak": 0 if pseudo is None else len(pseudo),
            "classes_unseen": len(unseen),
        },
    )


def _unseen_text(unseen: tuple[str, ...], names: tuple[str, ...], *, weak: bool) -> str:
    """Say which classes a training cannot learn, and what to do; the names of the first ten."""
    listed = ", ".join(unseen[:10]) + (" …" if len(unseen) > 10 else "")
    return (
        f"no strong image {'or pseudo-label ' if weak else ''}shows {listed} ({len(unseen)} of {len(names)} classes): "
        "the network cannot learn them; raise labeled_pct, take another seed, or name images that show them in "
        "splits.lists"
    )
