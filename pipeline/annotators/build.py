"""Names of annotators, and how each is built."""

from typing import Any

import torch

from pipeline.annotators.base import Annotator
from pipeline.annotators.disc import DiscAnnotator
from pipeline.annotators.edp_sam import EdpSamAnnotator, EdpSamOptions
from pipeline.annotators.superpixel import SuperpixelAnnotator, SuperpixelOptions
from pipeline.annotators.truth import TruthAnnotator
from pipeline.errors import PipelineError
from pipeline.masks.store import MaskStore
from pipeline.models.sam import load_sam

METHODS = ("edp_sam", "superpixel", "disc", "truth")


def build_annotator(
    method: str, options: Any, *, weights: str, device: torch.device, truth: MaskStore | None
) -> Annotator:
    """Build the annotator called ``method``.

    Args:
        method: One of :data:`METHODS`.
        options: Its options: EdpSamOptions, SuperpixelOptions, or anything for the methods that have none.
        weights: Name of the weights of ``edp_sam``.
        device: Where ``edp_sam`` runs.
        truth: True masks of the data set, if it has them, for ``truth``.

    Raises:
        PipelineError: If the method is unknown, or what it needs is not there.
    """
    if method == "edp_sam":
        assert isinstance(options, EdpSamOptions)
        return EdpSamAnnotator(load_sam(weights, device), options)
    if method == "superpixel":
        assert isinstance(options, SuperpixelOptions)
        return SuperpixelAnnotator(options)
    if method == "disc":
        return DiscAnnotator()
    if method == "truth":
        return TruthAnnotator(truth)
    raise PipelineError(f"annotate.method: expected one of {', '.join(METHODS)}, got '{method}'")
