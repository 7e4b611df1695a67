"""P2Seg fitted to the points of a data set: class maps, then the network, then its weights for the annotator.

The weights are a cached result, under the digest of all that they depend on; an unfinished training goes on where it
stopped.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from pipeline.annotators.p2seg import FittedP2Seg, look
from pipeline.compute.cache import ResultCache
from pipeline.compute.files import atomic_write_bytes, digest_file, digest_json, fresh_folder
from pipeline.compute.progress import warn_user
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.radii import Radii
from pipeline.errors import PipelineError
from pipeline.geometry.point_owners import UNKNOWN
from pipeline.models.mutual_distillation import MutualDistillation, build_mutual_distillation
from pipeline.training.checkpoint import MODEL_FILE, read_weights
from pipeline.training.kept import Kept
from pipeline.training.p2seg_batches import SeedBatches, SeedScene
from pipeline.training.p2seg_losses import DistillLoss, SeedLoss
from pipeline.training.p2seg_options import P2SegOptions, P2SegSeedOptions
from pipeline.training.p2seg_seeds import (
    PointImages,
    check_class_maps,
    map_path,
    seed_quality,
    write_filled,
    write_marks,
)
from pipeline.training.phases import Loss, Phase
from pipeline.training.ranks import Ranks, launch
from pipeline.training.run_place import RunPlace, digest_tables
from pipeline.training.segment_options import SegmentPhaseOptions
from pipeline.training.training_run import TrainingRun

ALGORITHM_VERSION = 1
"""Raised by hand when the same inputs train other weights; those of another version are trained anew."""
KIND = "p2seg"
"""Name of this model in checkpoints, and of its entries in the cache."""
SEED_PARTS = ("encoder", "fpn", "class_head")
ALL_PARTS = (*SEED_PARTS, "offset_head", "affinity_head")
KEY_FILE = "key"
FIGURES_FILE = "seeds.json"
LOOKED_AT = 20
"""Images on which the network is compared with its class maps at the end."""


@dataclass(frozen=True)
class FitPlace:
    """Where a fit computes and keeps what it makes.

    Args:
        folder: Its own: class maps, unfinished trainings, the weights.
        log: JSON lines of the network's training; those of the small network stand beside, under ``…_seeds``.
        device: Where to compute.
        cache: Where finished weights are kept.
    """

    folder: Path
    log: Path
    device: torch.device
    cache: ResultCache

    @property
    def checkpoint(self) -> Path:
        """The weights."""
        return self.folder / "model" / MODEL_FILE

    def run(self, name: str) -> RunPlace:
        """Places of one of the two trainings."""
        log = self.log if name == "model" else self.log.with_stem(f"{self.log.stem}_{name}")
        return RunPlace(self.folder / name, self.folder / f"{name}_state", log, self.device)


@dataclass(frozen=True)
class Fit:
    """A fitted network.

    Args:
        plan: What the annotator is built from.
        checkpoint: Its weights.
        figures: Quality of the class maps, where the truth is known.
    """

    plan: FittedP2Seg
    checkpoint: Path
    figures: Mapping[str, float]


def fit_p2seg(prepared: Prepared, radii: Radii, options: P2SegOptions, place: FitPlace) -> Fit:
    """Train P2Seg on the points of a data set, unless that has been done.

    Args:
        prepared: Images and points; the truth is read for figures alone.
        radii: Exclusion circles.
        options: All of them.
        place: Device and folders.

    Raises:
        PipelineError: If there is no image to learn from, class maps do not fit, or training diverges.
    """
    images = _images(prepared, radii, options)
    plan = FittedP2Seg(options.masks, options.network, images.n_classes)
    key = _key(images, _depends_on(options), options.seeds, place.device)
    if not _is_here(place, key):
        entry = place.cache.get(KIND, key)
        if entry is None:
            _train(images, options, place)
            place.cache.put(KIND, key, _pack(place))
        else:
            _unpack(place, entry)
        atomic_write_bytes(place.checkpoint.with_name(KEY_FILE), key.encode())
    figures = json.loads(place.checkpoint.with_name(FIGURES_FILE).read_text(encoding="utf-8"))
    return Fit(plan, place.checkpoint, figures)


def _images(prepared: Prepared, radii: Radii, options: P2SegOptions) -> PointImages:
    shown = [row for row in prepared.images if row.split != "hidden"]
    chosen = [row.image_id for row in shown if options.images == "all" or row.split == "train"]
    if not any(prepared.image(image_id).n_points for image_id in chosen):
        raise PipelineError(
            f"{prepared.folder}: has no image with points to learn from (annotate.p2seg.images: {options.images}); "
            "give the data set a split train, or set it to all"
        )
    classes = [prepared.points(image_id).class_id.max(initial=0) for image_id in (row.image_id for row in shown)]
    n_classes = len(prepared.class_names) or int(max(classes)) + 1
    if not prepared.class_names and n_classes == 1:
        warn_user("annotate: the points have no classes; P2Seg takes all of them for one class")
    if n_classes >= UNKNOWN:
        raise PipelineError(f"{prepared.folder}: has {n_classes} classes, P2Seg's maps hold {UNKNOWN - 1} at most")
    return PointImages(prepared, radii, tuple(chosen), n_classes)


def _depends_on(options: P2SegOptions) -> dict[str, Any]:
    """All options on which the weights depend: of those for masks the working size alone."""
    return {**asdict(options), "masks": {"long_side_px": options.masks.long_side_px}}


def _seeds_depend_on(options: P2SegOptions) -> dict[str, Any]:
    """All options on which the class maps that are made here depend."""
    return {name: value for name, value in _depends_on(options).items() if name not in ("train", "distill")}


def _key(images: PointImages, plain: Mapping[str, Any], seeds: P2SegSeedOptions, device: torch.device) -> str:
    """Digest options with all else that the weights, or the class maps, depend on."""
    folder = Path(seeds.folder)
    given = seeds.source == "folder"
    paths = [map_path(folder, image_id) for image_id in images.image_ids] if given else []
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise PipelineError(
            f"annotate.p2seg.seeds.folder: {len(missing)} of {len(paths)} class maps are not there "
            f"({', '.join(map(str, missing[:3]))} …); every image that is learnt from needs one, or set source: network"
        )
    return digest_json(
        {
            "version": ALGORITHM_VERSION,
            "options": dict(plain),
            "n_classes": images.n_classes,
            "images": list(images.image_ids),
            "data": digest_tables([images.prepared.folder]),
            "radii": digest_file(images.radii.path),
            "maps": [digest_file(path) for path in paths],
            "device": device.type,
        }
    )


def _is_here(place: FitPlace, key: str) -> bool:
    return place.checkpoint.is_file() and _is_of(place.checkpoint.parent, key)


def _is_of(folder: Path, key: str) -> bool:
    """Whether a folder was finished for this key."""
    beside = folder / KEY_FILE
    return beside.is_file() and beside.read_text(encoding="utf-8") == key


def _pack(place: FitPlace) -> bytes:
    """Join figures and weights."""
    figures = place.checkpoint.with_name(FIGURES_FILE).read_bytes()
    return len(figures).to_bytes(8, "little") + figures + place.checkpoint.read_bytes()


def _unpack(place: FitPlace, entry: bytes) -> None:
    end = 8 + int.from_bytes(entry[:8], "little")
    with fresh_folder(place.checkpoint.parent) as folder:  # curves and figures of another fit go
        (folder / FIGURES_FILE).write_bytes(entry[8:end])
        (folder / MODEL_FILE).write_bytes(entry[end:])


def _train(images: PointImages, options: P2SegOptions, place: FitPlace) -> None:
    """Make class maps, train the network on them, and write figures beside its weights."""
    fabric = launch(place.device, Ranks(), precision=options.loop.precision, batch=options.crops.batch)
    maps = _class_maps(images, options, place, fabric)
    quality = seed_quality(images, maps)
    figures = {} if quality is None else {f"seed_{name}": value for name, value in asdict(quality).items()}
    figures = {name: round(value, 6) for name, value in figures.items() if math.isfinite(value)}
    _train_network(images, maps, options, place, fabric, name="model")
    atomic_write_bytes(place.checkpoint.with_name(FIGURES_FILE), json.dumps(figures, sort_keys=True).encode())


def _class_maps(images: PointImages, options: P2SegOptions, place: FitPlace, fabric: Fabric) -> Path:
    """Give the folder of the class maps; those that can be made are made, unless an earlier run has made them."""
    seeds, filled = options.seeds, place.folder / "maps"
    if seeds.source == "folder":
        check_class_maps(images, Path(seeds.folder), images.prepared.class_names)
        return Path(seeds.folder)
    marks = place.folder / "marks"
    key = _key(images, _seeds_depend_on(options), seeds, place.device)
    if seeds.source == "network" and _is_of(filled, key):
        return filled
    write_marks(images, marks, seeds.marks)
    if seeds.source == "marks":
        return marks
    trained = place.run("seeds").out
    if not _is_of(trained, key):
        _train_network(images, marks, options, place, fabric, name="seeds")
        atomic_write_bytes(trained / KEY_FILE, key.encode())
    net = build_mutual_distillation(replace(options.network, pretrained=False), images.n_classes)
    net.load_state_dict(read_weights(trained / MODEL_FILE))
    (filled / KEY_FILE).unlink(missing_ok=True)  # of maps that are written over now
    write_filled(
        images, marks, filled, net.eval().to(place.device),
        min_prob=seeds.min_prob, long_side_px=options.masks.long_side_px, device=place.device,
    )  # fmt: skip
    atomic_write_bytes(filled / KEY_FILE, key.encode())
    return filled


def _train_network(
    images: PointImages, maps: Path, options: P2SegOptions, place: FitPlace, fabric: Fabric, *, name: str
) -> None:
    """Train the network on class maps: with all its losses as ``model``, or as ``seeds`` on the classes alone."""
    where, is_seeds = place.run(name), name == "seeds"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        net = build_mutual_distillation(options.network, images.n_classes)
    scenes: Kept[str, SeedScene] = Kept(
        lambda image_id: images.scene(image_id, maps, options.masks.long_side_px), cache_mib=options.loop.cache_mib
    )
    batches = SeedBatches(images.image_ids, scenes, options.crops, options.colors, options.seed)
    length: SegmentPhaseOptions = options.seeds.train if is_seeds else options.train
    loss: Loss[Any] = SeedLoss(fabric.device) if is_seeds else DistillLoss(options.distill, fabric.device)
    parts = SEED_PARTS if is_seeds else ALL_PARTS
    run = TrainingRun(
        kind=f"{KIND}_{name}" if is_seeds else KIND,
        architecture={"network": asdict(options.network), "n_classes": images.n_classes},
        parameters=_seeds_depend_on(options) if is_seeds else _depends_on(options),
        inputs={
            "version": ALGORITHM_VERSION,
            "data": digest_tables([images.prepared.folder]),
            "maps": digest_json([digest_file(map_path(maps, image_id)) for image_id in images.image_ids]),
        },
        options=options.loop,
        place=where,
        description=f"annotate.{KIND}.seeds" if is_seeds else f"annotate.{KIND}",
    )
    run.train(
        net,
        [Phase("train", length, parts, batches, loss, batches.describe)],
        fabric=fabric,
        evaluate=_disagreement(batches, fabric.device),
        error_name="disagreement",
    )


def _disagreement(batches: SeedBatches, device: torch.device) -> Callable[[nn.Module, str], dict[str, float]]:
    """Give what tells of a network without the truth: the share of known pixels where it and its maps differ."""

    def figures(net: nn.Module, _: str) -> dict[str, float]:
        assert isinstance(net, MutualDistillation)
        differ = known = 0
        for image_id in batches.image_ids[:LOOKED_AT]:
            scene = batches.scene(image_id)
            said = look(net, scene.pixels, scene.point_class, device).classes.cpu().numpy()
            sure = scene.classes != UNKNOWN
            differ, known = differ + int((said != scene.classes)[sure].sum()), known + int(sure.sum())
        return {"disagreement": differ / max(1, known)}

    return figures
