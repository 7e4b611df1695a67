"""``truth``: the true masks of a data set that has them."""

from dataclasses import dataclass

import numpy as np

from pipeline.annotators.base import MarkedImage
from pipeline.annotators.exclusion import disc_window
from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window, rle_to_window
from pipeline.masks.store import MaskStore


@dataclass(frozen=True)
class TruthOptions:
    """How much of the true masks is given.

    Args:
        clip: Clip each mask to its exclusion circle, as all methods do that make masks from points: their upper bound.
            Without it the masks are whole, as people drew them; a segmenter learns from those.
    """

    clip: bool = True


class TruthAnnotator:
    """Reads masks instead of making them.

    Args:
        truth: The true masks; None where the data set has none.
        options: How much of them is given.

    Raises:
        PipelineError: If the data set has no true masks.
    """

    name = "truth"
    algorithm_version = 1
    weights_sha256: str | None = None

    def __init__(self, truth: MaskStore | None, options: TruthOptions) -> None:
        if truth is None:
            raise PipelineError(
                "annotate.method: truth needs true masks, which this data set does not have; "
                "use edp_sam, superpixel, disc or p2seg"
            )
        self._truth, self._options = truth, options

    def annotate(self, marked: MarkedImage) -> Instances:
        """Give one row per point.

        Raises:
            PipelineError: If the true masks are not those of these points.
        """
        # True masks may overlap, so each is decoded by itself. Ambiguous ones are crowd regions, which are no points.
        truth = self._truth.instances(marked.image_id)
        truth = truth[truth.status != "ambiguous"]
        if len(truth) != len(marked.points_xy) or truth.size_hw != marked.size_hw:
            raise PipelineError(
                f"{self._truth.path}: {marked.image_id} has {len(truth)} true masks in {truth.size_hw} pixels, but "
                f"{len(marked.points_xy)} points in {marked.size_hw}; run python -m stages.prepare again"
            )
        windows = _clipped(truth, marked) if self._options.clip else list(map(truth.window, range(len(truth))))
        filled = np.array([bool(window.mask.any()) for window in windows], bool)
        return Instances.from_windows(
            marked.size_hw,
            windows,
            point_id=marked.point_id,
            class_id=marked.class_id,
            points_xy=marked.points_xy,
            radius_px=marked.radius_px,
            score=filled.astype(np.float32),
            source="truth",
            status=list(np.where(filled, "ok", "empty")),
        )


def _clipped(truth: Instances, marked: MarkedImage) -> list[Window]:
    windows = []
    for rle, (x, y), radius in zip(truth.rle, marked.points_xy, marked.radius_px, strict=True):
        disc = disc_window(x, y, radius, marked.size_hw)
        height, width = disc.mask.shape
        visible = rle_to_window(rle, truth.size_hw, (disc.x0, disc.y0, width, height))
        windows.append(Window(visible & disc.mask, disc.x0, disc.y0))
    return windows
