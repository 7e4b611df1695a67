"""Options of the views that training makes of a crop: colours, sharpness, cut-out."""

from dataclasses import dataclass, field

from pipeline.training.bounds import require


@dataclass(frozen=True)
class ColorOptions:
    """Random changes that move nothing: colour, grey, blur, noise.

    Args:
        jitter_prob: Probability of a colour jitter. Published: 0.8.
        jitter: Its strength: brightness, contrast and saturation each by a factor within 1 ± this. Published: 0.4.
        jitter_hue: Its hue shift, in turns. Published: 0.1.
        gray_prob: Probability of grey. Published: 0.25.
        blur_prob: Probability of a Gaussian blur. Published: 0.8.
        blur_sigma_min: Least sigma of the blur, in pixels. Published: 0.1.
        blur_sigma_max: Greatest sigma of the blur, in pixels. Published: 2.
        noise_max: Greatest sigma of Gaussian noise, as a share of white; drawn from 0 to it. Published: 0.
    """

    jitter_prob: float = 0.8
    jitter: float = 0.4
    jitter_hue: float = 0.1
    gray_prob: float = 0.25
    blur_prob: float = 0.8
    blur_sigma_min: float = 0.1
    blur_sigma_max: float = 2.0
    noise_max: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("jitter_prob", "gray_prob", "blur_prob"):
            require(name, getattr(self, name), "from 0 to 1", 0 <= getattr(self, name) <= 1)
        require("jitter", self.jitter, "at least 0 and below 1", 0 <= self.jitter < 1)
        require("jitter_hue", self.jitter_hue, "from 0 to 0.5", 0 <= self.jitter_hue <= 0.5)
        require("blur_sigma_min", self.blur_sigma_min, "above 0", self.blur_sigma_min > 0)
        require(
            "blur_sigma_max",
            self.blur_sigma_max,
            f"at least blur_sigma_min ({self.blur_sigma_min})",
            self.blur_sigma_max >= self.blur_sigma_min,
        )
        require("noise_max", self.noise_max, "at least 0", self.noise_max >= 0)


def few_labels_colors() -> ColorOptions:
    """Give the changes that let a handful of labelled images stand for many; the paper changes no labelled crop."""
    return ColorOptions(blur_prob=0.3, blur_sigma_max=1.5, gray_prob=0.2, noise_max=0.1)


@dataclass(frozen=True)
class StrongViewOptions:
    """The student's view of an unlabelled crop.

    Args:
        colors: Changes of colour and sharpness.
        cut_out_min_frac: Least side of the cut-out rectangle, as a share of the crop's, at most the greatest one.
            Published: 1/8.
        cut_out_max_frac: Greatest side; 0 means no cut-out. Published: 1/4.
    """

    colors: ColorOptions = field(default_factory=ColorOptions)
    cut_out_min_frac: float = 0.125
    cut_out_max_frac: float = 0.25

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require("cut_out_max_frac", self.cut_out_max_frac, "from 0 to 1", 0 <= self.cut_out_max_frac <= 1)
        require("cut_out_min_frac", self.cut_out_min_frac, "from 0 to 1", 0 <= self.cut_out_min_frac <= 1)
        fits = self.cut_out_max_frac == 0 or self.cut_out_min_frac <= self.cut_out_max_frac
        require("cut_out_min_frac", self.cut_out_min_frac, f"at most cut_out_max_frac ({self.cut_out_max_frac})", fits)
