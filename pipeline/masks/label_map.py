"""Label maps: (H, W) int32, 0 for background and k + 1 for instance k."""

import numpy as np
import numpy.typing as npt


def disc_label_map(
    points_xy: npt.NDArray[np.float64], radius_px: npt.NDArray[np.float64], size_hw: tuple[int, int]
) -> npt.NDArray[np.int32]:
    """Draw a disc around each point; a contested pixel goes to the least distance / radius, ties to the first point.

    Args:
        points_xy: (N, 2) centres, image pixels; they may lie outside the image.
        radius_px: (N,) radii, image pixels; the rim belongs to the disc.
        size_hw: Height and width of the image.

    Returns:
        (H, W) int32: 0 is background, k + 1 is point k.
    """
    height, width = size_hw
    label_map = np.zeros(size_hw, dtype=np.int32)
    nearest = np.full(size_hw, np.inf, dtype=np.float32)
    low = np.ceil(points_xy - radius_px[:, None]).astype(np.int64)
    high = np.floor(points_xy + radius_px[:, None]).astype(np.int64) + 1
    x_low, x_high = np.clip(low[:, 0], 0, width), np.clip(high[:, 0], 0, width)
    y_low, y_high = np.clip(low[:, 1], 0, height), np.clip(high[:, 1], 0, height)
    for k in range(len(points_xy)):
        rows, columns = slice(y_low[k], y_high[k]), slice(x_low[k], x_high[k])
        dx = np.arange(x_low[k], x_high[k]) - points_xy[k, 0]
        dy = np.arange(y_low[k], y_high[k]) - points_xy[k, 1]
        share = ((dx * dx)[None, :] + (dy * dy)[:, None]) / (radius_px[k] * radius_px[k])
        wins = (share <= 1) & (share.astype(np.float32) < nearest[rows, columns])
        nearest[rows, columns][wins] = share[wins]
        label_map[rows, columns][wins] = k + 1
    return label_map
