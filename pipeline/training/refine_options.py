"""Options of the refiner: its network, its crops, its training."""

from dataclasses import dataclass, field

from pipeline.models.refine_net import RefineNetOptions
from pipeline.training.bounds import require
from pipeline.training.segment_options import SegmentLoopOptions, SegmentPhaseOptions


@dataclass(frozen=True)
class RefineCropOptions:
    """What the refiner sees of an image.

    Args:
        size_px: Side of the square crop, pixels of the crop; a multiple of 16. Published: 256.
        batch: Crops in a batch. Published: 16.
        context_max: The rough box grows by a factor from 1 to this in training. Published: 2.
        scale_min: Least short side of the grown box, as a share of ``size_px``. Published: 0.5.
        scale_max: Greatest such share. Published: 1.5.
        flip_prob: Probability of a left-right flip. Published: 0.5, as far as is known.
        heat_sigma_px: Sigma of the point's heatmap, pixels of the crop. Published: 6.
        context: The rough box grows by this factor in inference. Published: 2.
    """

    size_px: int = 64
    batch: int = 16
    context_max: float = 2.0
    scale_min: float = 0.5
    scale_max: float = 1.5
    flip_prob: float = 0.5
    heat_sigma_px: float = 3.0
    context: float = 2.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require("size_px", self.size_px, "a positive multiple of 16", self.size_px > 0 and self.size_px % 16 == 0)
        require("batch", self.batch, "at least 1", self.batch >= 1)
        require("context_max", self.context_max, "at least 1", self.context_max >= 1)
        require("scale_min", self.scale_min, "above 0", self.scale_min > 0)
        require("scale_max", self.scale_max, f"at least scale_min ({self.scale_min})", self.scale_max >= self.scale_min)
        require("flip_prob", self.flip_prob, "from 0 to 1", 0 <= self.flip_prob <= 1)
        require("heat_sigma_px", self.heat_sigma_px, "above 0", self.heat_sigma_px > 0)
        require("context", self.context, "at least 1", self.context >= 1)


def _adam() -> SegmentPhaseOptions:
    return SegmentPhaseOptions(steps=300, optimizer="adam", learning_rate=3e-3, weight_decay=0.0)


@dataclass(frozen=True)
class RefinerOptions:
    """The refiner of rough masks (PointWSSIS, section 4 of its specification).

    Args:
        network: Its size.
        crops: What it sees.
        train: Its only phase. Published: Adam, cosine from 1e-4 to 1e-6.
        loop: How it is looked at, saved and logged.
        ce_weight: Weight of the cross-entropy beside dice. Published: 0.
        held_out_pairs: Rough masks of held-out images, spread evenly over them, on which the checkpoint is chosen.
    """

    network: RefineNetOptions = field(default_factory=RefineNetOptions)
    crops: RefineCropOptions = field(default_factory=RefineCropOptions)
    train: SegmentPhaseOptions = field(default_factory=_adam)
    loop: SegmentLoopOptions = field(default_factory=lambda: SegmentLoopOptions(ema_decay=0.99))
    ce_weight: float = 0.5
    held_out_pairs: int = 200

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require("ce_weight", self.ce_weight, "at least 0", self.ce_weight >= 0)
        require("held_out_pairs", self.held_out_pairs, "at least 1", self.held_out_pairs >= 1)
