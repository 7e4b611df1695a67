"""Options of the training stages; ``stages/params.py`` composes the sections of params.yaml from them.

Lengths are optimiser steps, not epochs, so that a length means the same on ten images as on a thousand. The defaults
suit the synthetic demo on two CPU cores; the docstrings give the published schedule (arXiv 2603.16241) beside.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from pipeline.pseudo_labels.energy import EnergyOptions
from pipeline.training.bounds import require
from pipeline.training.view_options import ColorOptions, StrongViewOptions, few_labels_colors

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Precision of Lightning Fabric."""

StudentPhase = Literal["count", "mask", "constraint"]
"""Phases of retrain."""

RESULT_FREE_OPTIONS = ("checkpoint_every", "load_workers", "cache_mib")
"""Options of the loop that change no result; they are left out of recorded parameters and digests."""


@dataclass(frozen=True)
class CropOptions:
    """Random training crops.

    Args:
        size_px: Side of the square crop; a multiple of 16. Smaller images are padded. Published: 256.
        batch: Crops in a batch; retrain draws as many unlabelled ones beside. Published: 16 + 16.
        scale_min: Least random scale. Published: 0.7.
        scale_max: Greatest random scale. Published: 1.3.
        flip_prob: Probability of a left-right flip. Published: 0.5.
    """

    size_px: int = 128
    batch: int = 4
    scale_min: float = 0.7
    scale_max: float = 1.3
    flip_prob: float = 0.5

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require("size_px", self.size_px, "a positive multiple of 16", self.size_px > 0 and self.size_px % 16 == 0)
        require("batch", self.batch, "at least 1", self.batch >= 1)
        require("scale_min", self.scale_min, "above 0", self.scale_min > 0)
        require("scale_max", self.scale_max, f"at least scale_min ({self.scale_min})", self.scale_max >= self.scale_min)
        require("flip_prob", self.flip_prob, "from 0 to 1", 0 <= self.flip_prob <= 1)


@dataclass(frozen=True)
class PhaseOptions:
    """One phase of training: its length, its optimiser and its learning rates.

    Args:
        steps: Optimiser steps; 0 leaves the phase out.
        optimizer: ``adam`` as published, or ``muon``: Adam but for the kernels between hidden layers, whose momentum is
            orthogonalised; a network that starts from nothing then learns more in less time.
        learning_rate: Learning rate of all but the encoder. Published: 5e-5 (phase 1), 5e-6 (phase 2) and
            5e-6 to 5e-5 by data set (phase 3).
        encoder_learning_rate: Learning rate of the encoder; only phase 1 trains it. Published: 1e-5, with ImageNet
            weights; without them it must learn as fast as the rest.
        weight_decay: L2 penalty of Adam. Published: 1e-4.
        decay: ``cosine`` lowers the rate to 1 % of itself by the end of the phase; ``constant`` is the published form.
        ramp_steps: Steps over which the rate rises from 0 at the start of the phase. Published: 0.
    """

    steps: int = 100
    optimizer: Literal["adam", "muon"] = "muon"
    learning_rate: float = 1e-3
    encoder_learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    decay: Literal["cosine", "constant"] = "cosine"
    ramp_steps: int = 10
    momentum: ClassVar[float] = 0.0
    drop_at_frac: ClassVar[tuple[float, ...]] = ()

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require("steps", self.steps, "at least 0", self.steps >= 0)
        require("learning_rate", self.learning_rate, "above 0", self.learning_rate > 0)
        require("encoder_learning_rate", self.encoder_learning_rate, "at least 0", self.encoder_learning_rate >= 0)
        require("weight_decay", self.weight_decay, "at least 0", self.weight_decay >= 0)
        require("ramp_steps", self.ramp_steps, "at least 0", self.ramp_steps >= 0)


@dataclass(frozen=True)
class SharedLoopOptions:
    """What every phase of every training shares: average of weights, clipping, how often to look, save and log.

    Args:
        ema_decay: Share of the old average of weights kept at each step; it starts lower, (1 + t) / (10 + t). 0
            evaluates and keeps the weights themselves.
        clip_norm: Greatest norm of the gradient.
        evaluate_every: Steps between two looks at the held-out images; each phase also ends with one.
        choose_from_frac: Looks before this share of a phase do not compete for the chosen checkpoint.
        patience: Looks in a row without a better one, among those that compete, after which a phase ends early; 0
            trains every phase to its end, as published.
        ema_buffers: Average the buffers too (batch norm's running statistics) instead of copying them. Published: no.
        frozen_norm: Batch norm takes its running statistics, and leaves them, also where it learns; for encoders that
            start from ImageNet weights and for small batches.
        checkpoint_every: Steps between two resumable states; does not change results.
        log_every: Steps between two points of the curves and lines of the log.
        precision: Precision of Lightning Fabric: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        load_workers: Threads that prepare batches ahead; does not change results.
        cache_mib: Memory for decoded images, in MiB; does not change results.
    """

    ema_decay: float
    clip_norm: float
    evaluate_every: int
    choose_from_frac: float = 0.5
    patience: int = 0
    ema_buffers: bool = False
    frozen_norm: bool = False
    checkpoint_every: int = 50
    log_every: int = 5
    precision: Precision = "32-true"
    load_workers: int = 2
    cache_mib: int = 1024

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require("ema_decay", self.ema_decay, "at least 0 and below 1", 0 <= self.ema_decay < 1)
        require("clip_norm", self.clip_norm, "above 0", self.clip_norm > 0)
        require("choose_from_frac", self.choose_from_frac, "from 0 to 1", 0 <= self.choose_from_frac <= 1)
        require("patience", self.patience, "at least 0", self.patience >= 0)
        for name in ("evaluate_every", "checkpoint_every", "log_every", "load_workers", "cache_mib"):
            require(name, getattr(self, name), "at least 1", getattr(self, name) >= 1)


@dataclass(frozen=True)
class LoopOptions(SharedLoopOptions):
    """What the crowd network's phases share.

    Args:
        ema_decay: Share of the old teacher kept at each step. Published: 0.998.
        clip_norm: Published: 5.
        choose_from_frac: Without it the counting error alone would choose a mask head that has hardly been trained.
        frozen_norm: Published: in phase 2 for the encoder, which stands still there in any case.
        oracle_best: Also count on the test images at each look, and report the least error ever seen there, as the
            reference does, under this name only; it chooses nothing.
        tile_px: Side of the square tiles in which whole images are predicted, halo included; a multiple of 16.
        halo_px: Context around a tile that is predicted and thrown away; a multiple of 16.
    """

    ema_decay: float = 0.99
    clip_norm: float = 5.0
    evaluate_every: int = 60
    oracle_best: bool = False
    tile_px: int = 1024
    halo_px: int = 192

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        require_tile(self.tile_px, self.halo_px)


def require_tile(tile_px: int, halo_px: int) -> None:
    """Raise a ValueError unless tiles of this side and halo can cover an image."""
    require("halo_px", halo_px, "a multiple of 16, at least 0", halo_px >= 0 and halo_px % 16 == 0)
    require(
        "tile_px",
        tile_px,
        f"a multiple of 16 above 2 * halo_px ({2 * halo_px})",
        tile_px % 16 == 0 and tile_px > 2 * halo_px,
    )


@dataclass(frozen=True)
class ExclusivityOptions:
    """Exclusivity loss (arXiv 2603.16241, §3.2).

    Args:
        tau: Radius of an instance in embedding space. Published: 0.6.
        margin: Margin around ``tau``. Published: 0.1.
        blur_sigma: Sigma of the 7 x 7 blur of the upsampled embedding, in pixels. Published: 1.5.
    """

    tau: float = 0.6
    margin: float = 0.1
    blur_sigma: float = 1.5


@dataclass(frozen=True)
class WarmupOptions:
    """The teacher, trained on the labelled images only.

    Args:
        count: Phase 1, point-to-region loss, the counting path with its encoder. Published: 1500 epochs.
        mask: Phase 2, exclusivity loss on the annotator's masks; the encoder stands still. Published: 500 epochs.
        crops: Random crops.
        loop: What the phases share.
        exclusivity: Exclusivity loss.
        labeled_colors: Changes of colour of the labelled crops. Published: none.
    """

    count: PhaseOptions = field(default_factory=lambda: PhaseOptions(steps=900))
    mask: PhaseOptions = field(default_factory=lambda: PhaseOptions(steps=120))
    crops: CropOptions = field(default_factory=lambda: CropOptions(batch=3))
    loop: LoopOptions = field(default_factory=lambda: LoopOptions(evaluate_every=100))
    exclusivity: ExclusivityOptions = field(default_factory=ExclusivityOptions)
    labeled_colors: ColorOptions = field(default_factory=few_labels_colors)


@dataclass(frozen=True)
class PseudoLabelOptions:
    """Energy masks of the teacher on the unlabelled training images (arXiv 2603.16241, §3.3).

    Args:
        energy: Candidates and energy.
        keep_prob: Also store soft masks, which ``retrain.unlabeled.pixel_weights`` reads.
        tile_px: Side of the square tiles in which images are predicted, halo included; a multiple of 16.
        halo_px: Context around a tile that is predicted and thrown away; a multiple of 16.
    """

    energy: EnergyOptions = field(default_factory=EnergyOptions)
    keep_prob: bool = False
    tile_px: int = 1024
    halo_px: int = 192

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require_tile(self.tile_px, self.halo_px)


@dataclass(frozen=True)
class GateOptions:
    """What the teacher and its pseudo-labels must reach before retrain starts.

    Args:
        max_error_ratio: Greatest MAE of the teacher on the held-out labelled images, as a multiple of the MAE of
            predicting the mean count of the labelled training images.
        min_count_ratio: Least number of pseudo-labels per unlabelled image (of score 0.5 and more), as a multiple of
            the mean count of the labelled training images.
        max_count_ratio: Greatest such number.
    """

    max_error_ratio: float = 1.0
    min_count_ratio: float = 0.2
    max_count_ratio: float = 5.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require("max_error_ratio", self.max_error_ratio, "above 0", self.max_error_ratio > 0)
        require("min_count_ratio", self.min_count_ratio, "at least 0", self.min_count_ratio >= 0)
        require(
            "max_count_ratio",
            self.max_count_ratio,
            f"above min_count_ratio ({self.min_count_ratio})",
            self.max_count_ratio > self.min_count_ratio,
        )


@dataclass(frozen=True)
class UnlabeledOptions:
    """The unlabelled branch: L = (L_labelled + w L_unlabelled) / (1 + w), w rising from ``weight_start``.

    Args:
        phases: Phases that it takes part in; in the others, and with none, only labelled images are learnt from.
            Published: all three.
        weight_max: Greatest w. Published: 2.
        weight_start: w at the first step of the last phase. Published: 0.1; phases 1 and 2 start at 0.
        ramp_steps: Steps of a phase over which w rises by ``weight_max``. Published: 200 epochs (0.01 an epoch).
        delay_steps: Steps of phases 1 and 2 before the branch joins. Published: 50 epochs.
        point_prob: Least probability of a pseudo point that point-to-region takes for a head. Published: 0.5.
        match_count: Take instead of ``point_prob`` the probability at which the pseudo points are, on average over the
            images, as many as the heads on the labelled images. A teacher of few labels is unsure and so counts too
            few; its student would inherit that. Published: no.
        pixel_weights: ``uncertainty`` weighs the cells of the point-to-region loss by |2p − 1| of the stored soft
            masks, so that nothing is learnt where a mask may or may not reach (PL-DC, section 4); the other losses are
            means of distances and sums over masks, not of cross-entropies, and stay as they are.
        strong: The student's view.
    """

    phases: tuple[StudentPhase, ...] = ("count", "mask", "constraint")
    weight_max: float = 1.0
    weight_start: float = 0.1
    ramp_steps: int = 100
    delay_steps: int = 0
    point_prob: float = 0.5
    match_count: bool = False
    pixel_weights: Literal["off", "uncertainty"] = "off"
    strong: StrongViewOptions = field(default_factory=StrongViewOptions)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require("weight_max", self.weight_max, "at least 0", self.weight_max >= 0)
        require("weight_start", self.weight_start, "at least 0", self.weight_start >= 0)
        require("ramp_steps", self.ramp_steps, "at least 1", self.ramp_steps >= 1)
        require("delay_steps", self.delay_steps, "at least 0", self.delay_steps >= 0)
        require("point_prob", self.point_prob, "above 0 and below 1", 0 < self.point_prob < 1)


@dataclass(frozen=True)
class RetrainOptions:
    """The student, trained on labelled and unlabelled images.

    Args:
        teacher: ``stored`` learns from the store of pseudo_label as it is; ``ema`` takes pseudo-labels from the EMA
            teacher at each step, as published.
        count: Phase 1 continued, with the unlabelled branch.
        mask: Phase 2, exclusivity on both; the encoder stands still.
        constraint: Phase 3, point-to-region and the mask constraint on both; fuse and counting head learn.
        w_fg: Weight of the constraint that an instance holds one head. Published: 0 to 0.005 by data set.
        w_bg: Weight of the constraint that the background holds none. Published: 0 to 0.1 by data set.
        crops: Random crops.
        loop: What the phases share.
        exclusivity: Exclusivity loss.
        labeled_colors: Changes of colour of the labelled crops. Published: none.
        unlabeled: The unlabelled branch.
        gate: What teacher and pseudo-labels must reach first.
    """

    teacher: Literal["stored", "ema"] = "stored"
    count: PhaseOptions = field(
        default_factory=lambda: PhaseOptions(steps=250, learning_rate=3e-4, encoder_learning_rate=3e-4)
    )
    mask: PhaseOptions = field(default_factory=lambda: PhaseOptions(steps=100))
    constraint: PhaseOptions = field(
        default_factory=lambda: PhaseOptions(steps=30, optimizer="adam", learning_rate=2e-5)
    )
    w_fg: float = 0.005
    w_bg: float = 0.05
    crops: CropOptions = field(default_factory=CropOptions)
    loop: LoopOptions = field(default_factory=LoopOptions)
    exclusivity: ExclusivityOptions = field(default_factory=ExclusivityOptions)
    labeled_colors: ColorOptions = field(default_factory=few_labels_colors)
    unlabeled: UnlabeledOptions = field(default_factory=UnlabeledOptions)
    gate: GateOptions = field(default_factory=GateOptions)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require("w_fg", self.w_fg, "at least 0", self.w_fg >= 0)
        require("w_bg", self.w_bg, "at least 0", self.w_bg >= 0)
        if self.unlabeled.pixel_weights != "off" and self.teacher == "ema":
            raise ValueError(
                f"unlabeled.pixel_weights: {self.unlabeled.pixel_weights} reads stored soft masks, and teacher: ema "
                "takes fresh masks without them; set teacher: stored, or pixel_weights: off"
            )


def result_options(options: Any) -> dict[str, Any]:
    """Give an options dataclass as plain data, without what changes no result."""
    return {
        key: {name: each for name, each in value.items() if name not in RESULT_FREE_OPTIONS} if key == "loop" else value
        for key, value in asdict(options).items()
    }
