"""Options of SOLOv2's trainings: how images are shown, the teacher, the student."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.losses.solo import DICE_WEIGHT, RangesPx
from pipeline.models.solo_inference import DetectOptions
from pipeline.models.solov2 import Solov2Options
from pipeline.pseudo_labels.uncertainty import PixelWeights
from pipeline.training.bounds import require
from pipeline.training.segment_options import SegmentLoopOptions, SegmentPhaseOptions
from pipeline.training.view_options import ColorOptions, StrongViewOptions

SMALL_RANGES_PX: RangesPx = ((1, 24), (24, 42), (42, 66), (66, 90), (90, 2048))
SMALL_OVERLAPPING_PX: RangesPx = ((1, 30), (18, 54), (36, 80), (54, 108), (80, 2048))
"""For inputs of about 96 px. An object must span several cells of its level's map (strides 8, 8, 16, 32, 32), or the
network sees that something is there, and not what: with ranges from 15 px up it told no classes apart."""


def unchanged_colors() -> ColorOptions:
    """Give the changes of colour that change nothing."""
    return ColorOptions(jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0, noise_max=0.0)


@dataclass(frozen=True)
class ViewOptions:
    """How images are shown in training: resized, perhaps flipped, padded to the batch's largest.

    Args:
        batch: Images in a batch, on all ranks together. Published: 16.
        short_side_min_px: Least length of the resized image's shorter side. Published: 640.
        short_side_max_px: Greatest such length; batches are padded to about this. Published: 800.
        long_side_px: The longer side is never longer; the shorter one then shrinks, too. Published: 1333.
        test_short_side_px: Length of the shorter side in inference. The grids divide the padded input, so that a size
            well below ``short_side_max_px`` shows objects larger on them than they ever were. Published: 800.
        flip_prob: Probability of a left-right flip. Published: 0.5.
        colors: Changes of colour. Published: none.
    """

    batch: int = 8
    short_side_min_px: int = 76
    short_side_max_px: int = 96
    long_side_px: int = 256
    test_short_side_px: int = 96
    flip_prob: float = 0.5
    colors: ColorOptions = field(default_factory=unchanged_colors)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require("batch", self.batch, "at least 1", self.batch >= 1)
        least = self.short_side_min_px
        require("short_side_min_px", least, "at least 32", least >= 32)
        for name in ("short_side_max_px", "long_side_px"):
            value = getattr(self, name)
            require(name, value, f"at least short_side_min_px ({least})", value >= least)
        require("test_short_side_px", self.test_short_side_px, "at least 32", self.test_short_side_px >= 32)
        require("flip_prob", self.flip_prob, "from 0 to 1", 0 <= self.flip_prob <= 1)


@dataclass(frozen=True)
class SegmenterOptions:
    """A training of SOLOv2 on true masks, or on those and pseudo-labels.

    Args:
        network: Its size; the teacher's grids are denser than the student's.
        ranges_px: Per level, least and greatest √(box area) of its instances, pixels of the network's input. Published:
            disjoint for the teacher, overlapping for the student.
        dice_weight: Weight of the dice loss beside the focal loss. Published: 3.
        train: The only phase. Published: SGD at 0.05 (teacher) or 0.01 (student).
        views: How images are shown.
        loop: How training is looked at, saved and logged.
        early_fracs: Shares of the phase at which weights are kept beside the final ones: what they make of the strong
            images teaches the refiner. Published: two checkpoints.
    """

    network: Solov2Options = field(default_factory=Solov2Options)
    ranges_px: RangesPx = SMALL_RANGES_PX
    dice_weight: float = DICE_WEIGHT
    train: SegmentPhaseOptions = field(default_factory=lambda: SegmentPhaseOptions(steps=600))
    views: ViewOptions = field(default_factory=ViewOptions)
    loop: SegmentLoopOptions = field(default_factory=SegmentLoopOptions)
    early_fracs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that do not fit together."""
        if len(self.ranges_px) != len(self.network.grids):
            raise ValueError(
                f"ranges_px: expected {len(self.network.grids)} ranges, one for each of network.grids, got "
                f"{len(self.ranges_px)}"
            )
        if any(len(one) != 2 or not one[0] < one[1] for one in self.ranges_px):
            raise ValueError(
                f"ranges_px: expected [low, high] with low < high, got {[list(r) for r in self.ranges_px]}"
            )
        require("dice_weight", self.dice_weight, "above 0", self.dice_weight > 0)
        if not all(0 < frac < 1 for frac in self.early_fracs) or len(set(self.early_fracs)) < len(self.early_fracs):
            raise ValueError(
                f"early_fracs: expected shares above 0 and below 1, each once, got {list(self.early_fracs)}"
            )

    @property
    def early_steps(self) -> tuple[int, ...]:
        """Steps after which early weights are kept."""
        return tuple(max(1, round(frac * self.train.steps)) for frac in self.early_fracs)


def teacher_options() -> SegmenterOptions:
    """Give the teacher's options: its early weights are kept, for the refiner."""
    return SegmenterOptions(early_fracs=(0.5, 0.75))


def _student() -> SegmenterOptions:
    return SegmenterOptions(network=Solov2Options(grids=(12, 10, 8, 6, 4)), ranges_px=SMALL_OVERLAPPING_PX)


def all_detections() -> DetectOptions:
    """Give what a teacher's detections are stored with: every one that its thresholds might want (PL-DC, section 6)."""
    return DetectOptions(class_thr=0.05, score_thr=0.0, min_area=(0, 0, 0, 0, 0))


@dataclass(frozen=True)
class UnlabeledImagesOptions:
    """How the student learns from pseudo-labelled images; the defaults are PointWSSIS's, see ``batch``.

    Args:
        batch: Pseudo-labelled images beside the labelled ones of a batch, with a loss of their own. Published by PL-DC:
            8 + 8. With 0 both are drawn alike from one pool, and ``weight`` and ``strong`` are not read.
        weight: λ in L = L_labelled + λ · L_pseudo-labelled. Published: 1.
        strong: The student's view of them: colours, cut-out; resizing and flip are those of the teacher's view.
        pixel_weights: ``uncertainty`` weighs the pixels of their masks by the teacher's certainty, for dice.
        online: Take their labels from the averaged weights at each step, in place of the stored ones, judged by the
            thresholds that ``judge`` wrote. For ``batch`` above 0.
        detect: What is read off the averaged weights' output, for ``online``.
    """

    batch: int = 0
    weight: float = 1.0
    strong: StrongViewOptions = field(default_factory=StrongViewOptions)
    pixel_weights: PixelWeights = "off"
    online: bool = False
    detect: DetectOptions = field(default_factory=all_detections)

    def __post_init__(self) -> None:
        """Refuse values out of range, and those that do not fit together."""
        require("batch", self.batch, "at least 0", self.batch >= 0)
        require("weight", self.weight, "at least 0", self.weight >= 0)
        if self.online and not self.batch:
            raise ValueError("online: expected batch above 0 beside it, as both kinds of images have their own loss")


@dataclass(frozen=True)
class StudentOptions:
    """The student: what of the pseudo-labels it learns from, and how.

    Args:
        learn: Its training.
        start: ``fresh`` as published (ImageNet weights, if the network has them), or from the ``teacher``'s weights.
        weak: Whether the pseudo-labels are learnt from; without them it is trained on the strong images alone.
        masks: Which pseudo-labels: ``refined``, ``judged``, or as the stage ``pseudo_label`` gives them.
        burn_in: A first phase on the strong images alone; the next goes on from its averaged weights. Published by
            PL-DC: 20,000 steps; ``start: teacher`` takes the place of it.
        unlabeled: How pseudo-labelled images join.
    """

    learn: SegmenterOptions = field(default_factory=_student)
    start: Literal["fresh", "teacher"] = "fresh"
    weak: bool = True
    masks: Literal["pseudo_label", "refined", "judged"] = "refined"
    burn_in: SegmentPhaseOptions = field(default_factory=lambda: SegmentPhaseOptions(steps=0))
    unlabeled: UnlabeledImagesOptions = field(default_factory=UnlabeledImagesOptions)

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        if self.unlabeled.online and self.masks != "judged":
            raise ValueError(
                f"unlabeled.online: expected masks: judged beside it, whose thresholds it takes, got {self.masks}"
            )
