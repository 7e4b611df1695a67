"""The gate before retrain: a teacher that cannot count, or an odd number of pseudo-labels, stops the run here."""

from dataclasses import asdict, dataclass

from pipeline.errors import raise_all
from pipeline.training.options import GateOptions


@dataclass(frozen=True)
class GateFigures:
    """What the gate looks at.

    Args:
        teacher_mae: MAE of the teacher on the held-out labelled images, heads.
        mean_count_mae: MAE there of predicting the mean count of the labelled training images, heads.
        labeled_count: Mean count of the labelled training images, heads.
        pseudo_count: Mean number of pseudo-labels of an unlabelled image; None where there is none.
    """

    teacher_mae: float
    mean_count_mae: float
    labeled_count: float
    pseudo_count: float | None

    def as_metrics(self) -> dict[str, float]:
        """Give the figures that there are, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def check_gate(figures: GateFigures, options: GateOptions) -> None:
    """Let a sound teacher pass.

    Raises:
        PipelineError: If the teacher or its pseudo-labels miss a bound; names every figure missed and what to change.
    """
    faults = []
    most_mae = options.max_error_ratio * figures.mean_count_mae
    if figures.teacher_mae > most_mae:
        faults.append(
            f"the teacher's MAE on the held-out labelled images is {figures.teacher_mae:.2f} heads, expected at most "
            f"{most_mae:.2f} ({options.max_error_ratio:g} × the {figures.mean_count_mae:.2f} of predicting the mean "
            "count): raise warmup.count.steps, label more images, or raise retrain.gate.max_error_ratio"
        )
    if figures.pseudo_count is not None and figures.labeled_count > 0:
        ratio = figures.pseudo_count / figures.labeled_count
        seen = f"the teacher gives {figures.pseudo_count:.1f} pseudo-labels per unlabelled image"
        shown = f"the labelled images have {figures.labeled_count:.1f} heads on average"
        if ratio < options.min_count_ratio:
            faults.append(
                f"{seen}, expected at least {options.min_count_ratio:g} × as many as {shown}: raise "
                "warmup.count.steps, or lower retrain.gate.min_count_ratio"
            )
        if ratio > options.max_count_ratio:
            faults.append(
                f"{seen}, expected at most {options.max_count_ratio:g} × as many as {shown}: raise "
                "warmup.count.steps, set pseudo_label.energy.suppress to local_max_3x3, or raise "
                "retrain.gate.max_count_ratio"
            )
    raise_all(faults, "the teacher is not fit to teach, so retrain does not start")
