"""The sections of a recipe's params.yaml: SOLOv2 as teacher and student."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.training.evaluate_segments import SegmentEvaluateOptions
from pipeline.training.refine_options import RefinerOptions
from pipeline.training.segment_inference import PointGuidedOptions
from pipeline.training.segmenter_options import SegmenterOptions, StudentOptions, teacher_options
from stages.data_sections import DataParams


@dataclass(frozen=True)
class SegmenterParams(DataParams):
    """The whole file of the system ``segmenter``: PointWSSIS.

    Args:
        system: Which system the file is for.
        warmup: The teacher.
        pseudo_label: Masks for the weak images' points.
        refiner: The network that refines those masks.
        retrain: The student.
        evaluate: Test figures and pictures.
    """

    system: Literal["segmenter"] = "segmenter"
    warmup: SegmenterOptions = field(default_factory=teacher_options)
    pseudo_label: PointGuidedOptions = field(default_factory=PointGuidedOptions)
    refiner: RefinerOptions = field(default_factory=RefinerOptions)
    retrain: StudentOptions = field(default_factory=StudentOptions)
    evaluate: SegmentEvaluateOptions = field(default_factory=SegmentEvaluateOptions)
