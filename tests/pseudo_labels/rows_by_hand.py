"""Rows of an image made by hand: boxes as masks, with the scores of a teacher."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window

SIZE_HW = (24, 32)


def boxes(
    corners: Sequence[tuple[int, int, int, int]], *, size_hw: tuple[int, int] = SIZE_HW, **columns: Any
) -> Instances:
    """Fill boxes (x0, y0, x1, y1), ends excluded; an empty box is an empty mask."""
    windows = [Window(np.ones((y1 - y0, x1 - x0), dtype=bool), x0, y0) for x0, y0, x1, y1 in corners]
    n = len(windows)
    values = {"source": "solov2", "status": ["ok"] * n} | columns
    return Instances.from_windows(
        size_hw, windows, point_id=np.arange(n), points_xy=np.zeros((n, 2)), radius_px=np.full(n, np.nan), **values
    )
