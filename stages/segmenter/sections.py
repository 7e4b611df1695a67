"""The sections of a recipe's params.yaml: SOLOv2 as teacher and student."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.annotators.truth import TruthOptions
from pipeline.pseudo_labels.judging import JudgeOptions
from pipeline.training.evaluate_segments import SegmentEvaluateOptions
from pipeline.training.refine_options import RefinerOptions
from pipeline.training.segment_pseudo_labels import SegmentPseudoLabelOptions
from pipeline.training.segmenter_options import SegmenterOptions, StudentOptions, teacher_options
from stages.data_sections import AnnotateParams, DataParams


@dataclass(frozen=True)
class SegmentJudgeOptions(JudgeOptions):
    """How the pseudo-labels of weak images are judged.

    Args:
        masks: Which: those of the stage ``pseudo_label``, or ``refined``.
    """

    masks: Literal["pseudo_label", "refined"] = "pseudo_label"


def _segmenter_masks() -> AnnotateParams:
    return AnnotateParams(truth=TruthOptions(clip=False))


@dataclass(frozen=True)
class SegmenterParams(DataParams):
    """The whole file of the system ``segmenter``: PointWSSIS and PL-DC.

    Args:
        system: Which system the file is for.
        annotate: Masks of the strong images; true ones are whole.
        warmup: The teacher.
        pseudo_label: Masks for the weak images, at their points or wherever the teacher sees something.
        judge: Which of them are learnt from, and as what.
        refiner: The network that refines those masks.
        retrain: The student.
        evaluate: Test figures and pictures.
    """

    system: Literal["segmenter"] = "segmenter"
    annotate: AnnotateParams = field(default_factory=_segmenter_masks)
    warmup: SegmenterOptions = field(default_factory=teacher_options)
    pseudo_label: SegmentPseudoLabelOptions = field(default_factory=SegmentPseudoLabelOptions)
    judge: SegmentJudgeOptions = field(default_factory=SegmentJudgeOptions)
    refiner: RefinerOptions = field(default_factory=RefinerOptions)
    retrain: StudentOptions = field(default_factory=StudentOptions)
    evaluate: SegmentEvaluateOptions = field(default_factory=SegmentEvaluateOptions)

    def disagreements(self) -> list[str]:
        """Say what is wrong between sections, one line each; hours would pass before a stage can say so."""
        faults = super().disagreements()
        labels, judge, retrain = self.pseudo_label, self.judge, self.retrain
        if judge.correct and labels.opinion == "none":
            faults.append(
                "judge.correct: expected a second opinion beside it; set pseudo_label.opinion to prototypes or clip, "
                "or judge.correct: false"
            )
        soft = labels.method == "detections" or labels.keep_prob
        if judge.correct and not soft:
            faults.append(
                "judge.correct: expected the probabilities of all classes beside it; set pseudo_label.keep_prob: true "
                "(or method: detections)"
            )
        learns = retrain.weak and retrain.masks != "refined" and not retrain.unlabeled.online
        if learns and retrain.unlabeled.pixel_weights != "off" and not soft:
            faults.append(
                "retrain.unlabeled.pixel_weights: expected soft masks beside it; set pseudo_label.keep_prob: true (or "
                "method: detections), or pixel_weights: off"
            )
        return faults
