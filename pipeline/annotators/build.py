"""Names of annotators, and how each is built."""

from pathlib import Path
from typing import Any

import torch

from pipeline.annotators.base import Annotator
from pipeline.annotators.disc import DiscAnnotator
from pipeline.annotators.edp_sam import EdpSamAnnotator, EdpSamOptions
from pipeline.annotators.p2seg import FittedP2Seg, P2SegAnnotator
from pipeline.annotators.superpixel import SuperpixelAnnotator, SuperpixelOptions
from pipeline.annotators.truth import TruthAnnotator, TruthOptions
from pipeline.errors import PipelineError
from pipeline.masks.store import MaskStore

ANNOTATORS: dict[str, Any] = {
    "edp_sam": EdpSamAnnotator,
    "superpixel": SuperpixelAnnotator,
    "disc": DiscAnnotator,
    "truth": TruthAnnotator,
    "p2seg": P2SegAnnotator,
}


def build_annotator(
    method: str,
    options: Any,
    *,
    weights: str,
    device: torch.device,
    truth: MaskStore | None,
    bf16: bool = False,
    compiled: bool = False,
    checkpoint: Path | None = None,
) -> Annotator:
    """Build the annotator called ``method``.

    Args:
        method: A key of :data:`ANNOTATORS`.
        options: Its options: EdpSamOptions, SuperpixelOptions, TruthOptions, FittedP2Seg; anything for ``disc``.
        weights: Name of the weights of ``edp_sam``.
        device: Where ``edp_sam`` and ``p2seg`` run.
        truth: True masks of the data set, if it has them, for ``truth``.
        bf16: Whether ``edp_sam`` computes its network in bfloat16.
        compiled: Whether its encoder is compiled.
        checkpoint: Weights that ``p2seg`` was fitted to this data set with.

    Raises:
        PipelineError: If the method is unknown, or what it needs is not there.
    """
    if method == "edp_sam":
        from pipeline.models.sam import load_sam  # late: it takes seconds, and other methods need no network

        assert isinstance(options, EdpSamOptions)
        return EdpSamAnnotator(load_sam(weights, device, bf16=bf16, compiled=compiled), options)
    if method == "superpixel":
        assert isinstance(options, SuperpixelOptions)
        return SuperpixelAnnotator(options)
    if method == "disc":
        return DiscAnnotator()
    if method == "truth":
        assert isinstance(options, TruthOptions)
        return TruthAnnotator(truth, options)
    if method == "p2seg":
        assert isinstance(options, FittedP2Seg)
        return P2SegAnnotator(options, checkpoint, device)
    raise PipelineError(f"annotate.method: expected one of {', '.join(ANNOTATORS)}, got '{method}'")
