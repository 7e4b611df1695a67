"""The sections of params.yaml, composed of the options that stand beside the pieces they belong to."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.models.crowd_net import CrowdNetOptions
from pipeline.training.evaluate_crowd import EvaluateOptions
from pipeline.training.judge_crowd import CrowdJudgeOptions
from pipeline.training.options import PseudoLabelOptions, RetrainOptions, WarmupOptions
from stages.data_sections import DataParams
from stages.paths import ROUND_NAME


@dataclass(frozen=True)
class RoundParams:
    """A further round of self-training: pseudo_label and retrain once more, with a student as teacher.

    Args:
        name: ``round_2``, ``round_3`` and so on: its folder.
        teacher: Folder of its teacher beside ``warmup``: ``retrain``, or ``round_2/retrain``.
    """

    name: str
    teacher: str


@dataclass(frozen=True)
class Params(DataParams):
    """The whole file of the system ``crowd``: XMask.

    Args:
        system: Which system the file is for.
        rounds: Rounds of self-training after the first.
        model: The crowd network.
        warmup: The teacher.
        pseudo_label: The teacher's masks.
        judge: Which of them are learnt.
        retrain: The student.
        evaluate: Test figures and report.
    """

    system: Literal["crowd"] = "crowd"
    rounds: tuple[RoundParams, ...] = ()
    model: CrowdNetOptions = field(default_factory=CrowdNetOptions)
    warmup: WarmupOptions = field(default_factory=WarmupOptions)
    pseudo_label: PseudoLabelOptions = field(default_factory=PseudoLabelOptions)
    judge: CrowdJudgeOptions = field(default_factory=CrowdJudgeOptions)
    retrain: RetrainOptions = field(default_factory=RetrainOptions)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)

    def disagreements(self) -> list[str]:
        """Say what is wrong between sections, one line each."""
        return super().disagreements() + self._round_faults() + self._judge_faults()

    def _judge_faults(self) -> list[str]:
        faults = []
        how, unlabeled = self.judge.quality.thresholds, self.retrain.unlabeled
        if how != "off" and self.retrain.teacher == "ema":
            faults.append(
                f"judge.quality.thresholds: {how} judges stored pseudo-labels, and retrain.teacher: ema takes fresh "
                "ones; set retrain.teacher: stored, or judge.quality.thresholds: off"
            )
        if how != "off" and unlabeled.match_count:
            faults.append(
                f"judge.quality.thresholds: {how} and retrain.unlabeled.match_count both say which pseudo-labels are "
                "heads; set match_count: false, or judge.quality.thresholds: off"
            )
        if unlabeled.pixel_weights != "off" and not self.pseudo_label.keep_prob:
            faults.append(
                f"retrain.unlabeled.pixel_weights: {unlabeled.pixel_weights} reads soft masks; set "
                "pseudo_label.keep_prob: true"
            )
        return faults

    def _round_faults(self) -> list[str]:
        faults = []
        teachers = ["warmup", "retrain"]
        for one in self.rounds:
            if not ROUND_NAME.fullmatch(one.name) or f"{one.name}/retrain" in teachers:
                faults.append(f"rounds: expected the names round_2, round_3 and so on, each once, got {one.name!r}")
            if one.teacher not in teachers:
                faults.append(
                    f"rounds: {one.name}'s teacher: expected one of {', '.join(teachers)}, got {one.teacher!r}"
                )
            teachers.append(f"{one.name}/retrain")
        return faults
