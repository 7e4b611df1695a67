"""``disc``: the baseline that looks at no pixel: every mask is its exclusion circle."""

import numpy as np

from pipeline.annotators.base import MarkedImage
from pipeline.annotators.exclusion import disc_window, keep_apart
from pipeline.masks.instances import Instances


class DiscAnnotator:
    """Circles as masks; a contested pixel goes to the head with the smaller ‖x-p‖/r."""

    name = "disc"
    algorithm_version = 1
    weights_sha256: str | None = None

    def annotate(self, marked: MarkedImage) -> Instances:
        """Give one row per point."""
        discs = [
            disc_window(x, y, radius, marked.size_hw)
            for (x, y), radius in zip(marked.points_xy, marked.radius_px, strict=True)
        ]
        even = [np.zeros(disc.mask.shape, np.float32) for disc in discs]
        windows = keep_apart(discs, even, marked.points_xy, marked.radius_px, marked.size_hw)
        filled = np.array([bool(window.mask.any()) for window in windows], bool)
        return Instances.from_windows(
            marked.size_hw,
            windows,
            point_id=marked.point_id,
            class_id=marked.class_id,
            points_xy=marked.points_xy,
            radius_px=marked.radius_px,
            source="disc",
            status=list(np.where(filled, "ok", "empty")),
        )
