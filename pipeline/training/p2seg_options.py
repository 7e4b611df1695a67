"""Options of P2Seg: where class maps come from, the losses, the training, and how masks are read from the network."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pipeline.annotators.p2seg import P2SegMaskOptions
from pipeline.annotators.seed_marks import SeedMarkOptions
from pipeline.models.mutual_distillation import SIZE_MULTIPLE, MutualDistillationOptions
from pipeline.training.bounds import require
from pipeline.training.options import CropOptions, Precision
from pipeline.training.segment_options import SegmentPhaseOptions
from pipeline.training.view_options import ColorOptions


@dataclass(frozen=True)
class P2SegLoopOptions:
    """How the training runs: it has no held-out truth to choose a checkpoint by, so that the last weights count.

    Args:
        ema_decay: Share of the old average of weights kept at each step; 0 keeps the weights themselves, as published.
        clip_norm: Greatest norm of the gradient.
        frozen_norm: Batch norm takes its running statistics, and leaves them.
        precision: Precision of Lightning Fabric: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
    """

    ema_decay: float = 0.99
    clip_norm: float = 10.0
    frozen_norm: bool = False
    precision: Precision = "32-true"
    ema_buffers: ClassVar[bool] = False
    evaluate_every: ClassVar[int] = 10**9
    choose_from_frac: ClassVar[float] = 1.0
    patience: ClassVar[int] = 0
    checkpoint_every: ClassVar[int] = 50
    log_every: ClassVar[int] = 10
    load_workers: ClassVar[int] = 2
    cache_mib: ClassVar[int] = 1024

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require("ema_decay", self.ema_decay, "at least 0 and below 1", 0 <= self.ema_decay < 1)
        require("clip_norm", self.clip_norm, "above 0", self.clip_norm > 0)


def _muon(steps: int) -> SegmentPhaseOptions:
    return SegmentPhaseOptions(steps=steps, optimizer="muon", learning_rate=2e-3, weight_decay=1e-4)


@dataclass(frozen=True)
class P2SegSeedOptions:
    """Where the class map of each image comes from; its quality bounds everything.

    Args:
        source: ``network``: a small network learns from the marks and fills in what is unknown. ``marks``: the marks
            themselves, the rest stays unknown. ``folder``: maps of your own, from any weakly supervised method.
        folder: Folder of these, ``<image_id>.png``: 0 background, k + 1 class_id k, 255 unknown.
        marks: What is sure from points alone.
        train: Training of the small network.
        min_prob: Where it is less sure than this, the map stays unknown.
    """

    source: Literal["network", "marks", "folder"] = "network"
    folder: str = ""
    marks: SeedMarkOptions = field(default_factory=SeedMarkOptions)
    train: SegmentPhaseOptions = field(default_factory=lambda: _muon(300))
    min_prob: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that do not fit together."""
        if (self.source == "folder") != bool(self.folder):
            raise ValueError(
                f"folder: expected the folder of your maps with source: folder, and nothing else without, got "
                f"{self.folder!r} with source: {self.source}"
            )
        require("min_prob", self.min_prob, "at least 0 and below 1", 0 <= self.min_prob < 1)


@dataclass(frozen=True)
class DistillOptions:
    """The losses (specification P2Seg §3 to §5).

    Args:
        online: Learn offsets from the network's own instances, too; without them from components alone.
        offset_weight: Weight of the offsets' loss. Published: 0.01.
        affinity_weight: Weight of the affinity's loss; 0 leaves it out. Published: 1.
        propagated_frac: Share of the propagated log-probabilities in those that the class loss sees; 0 leaves the
            propagation out. Published: 1.
        beta: Power of the affinities in propagation. Published: not told; 1 smears.
        hard_frac: Share of the pixels, the hardest, that the class loss is averaged over. Published: 0.2; where class
            maps are wrong, their errors are the hardest pixels.
    """

    online: bool = True
    offset_weight: float = 0.01
    affinity_weight: float = 1.0
    propagated_frac: float = 0.5
    beta: float = 4.0
    hard_frac: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require("offset_weight", self.offset_weight, "at least 0", self.offset_weight >= 0)
        require("affinity_weight", self.affinity_weight, "at least 0", self.affinity_weight >= 0)
        require("propagated_frac", self.propagated_frac, "from 0 to 1", 0 <= self.propagated_frac <= 1)
        require("beta", self.beta, "above 0", self.beta > 0)
        require("hard_frac", self.hard_frac, "above 0 and at most 1", 0 < self.hard_frac <= 1)


def _mild_colors() -> ColorOptions:
    return ColorOptions(jitter_prob=0.5, jitter=0.2, jitter_hue=0.02, gray_prob=0.0, blur_prob=0.0, noise_max=0.0)


@dataclass(frozen=True)
class P2SegOptions:
    """All of P2Seg.

    Args:
        images: Images to train on: those of the split ``train``, or ``all`` with points, whose test images' points
            then have a part in the masks of the others.
        seeds: Class maps.
        network: Size of the network; the one that fills seeds in has the same.
        crops: Random crops. Published: 416 px, 8, scales 0.7 to 1.3.
        colors: Changes of colour.
        train: The only phase. Published: Adam at 5e-5 with a polynomial decay, 50,000 steps (VOC) or 200,000 (COCO).
        loop: How it runs.
        distill: Losses.
        masks: How masks are read from the network.
        seed: Seed of the networks' start and of the crops.
    """

    images: Literal["train", "all"] = "train"
    seeds: P2SegSeedOptions = field(default_factory=P2SegSeedOptions)
    network: MutualDistillationOptions = field(default_factory=MutualDistillationOptions)
    crops: CropOptions = field(default_factory=lambda: CropOptions(size_px=96, batch=8))
    colors: ColorOptions = field(default_factory=_mild_colors)
    train: SegmentPhaseOptions = field(default_factory=lambda: _muon(600))
    loop: P2SegLoopOptions = field(default_factory=P2SegLoopOptions)
    distill: DistillOptions = field(default_factory=DistillOptions)
    masks: P2SegMaskOptions = field(default_factory=P2SegMaskOptions)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that do not fit together."""
        side = self.crops.size_px
        require("crops.size_px", side, f"a multiple of {SIZE_MULTIPLE}", side % SIZE_MULTIPLE == 0)
        require("train.steps", self.train.steps, "at least 1", self.train.steps >= 1)
        require("seeds.train.steps", self.seeds.train.steps, "at least 1", self.seeds.train.steps >= 1)
        require("seed", self.seed, "at least 0", self.seed >= 0)
