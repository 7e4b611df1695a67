"""How far counts are off: MAE, RMSE (crowd papers call it MSE) and NAE."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class CountingErrors:
    """Errors of the counts of a set of images; NaN where no image allows them.

    Args:
        mae: Mean of |predicted − true|, heads.
        rmse: Root of the mean of (predicted − true)², heads.
        nae: Mean of |predicted − true| / true over the images with at least one head, no unit.
        bias: Mean of predicted − true, heads; above 0 means too many.
        n_images: Number of images.
    """

    mae: float
    rmse: float
    nae: float
    bias: float
    n_images: int


def counting_errors(predicted: npt.ArrayLike, true: npt.ArrayLike) -> CountingErrors:
    """Compare counts image by image (XMask, section 7).

    Args:
        predicted: (N,) counts.
        true: (N,) counts.

    Raises:
        ValueError: If the two do not have the same length.
    """
    guess, truth = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if guess.ndim != 1 or guess.shape != truth.shape:
        raise ValueError(f"counts: expected two lists of one length, got shapes {guess.shape} and {truth.shape}")
    if len(guess) == 0:
        return CountingErrors(math.nan, math.nan, math.nan, math.nan, 0)
    error = guess - truth
    headed = truth > 0
    nae = float(np.mean(np.abs(error[headed]) / truth[headed])) if headed.any() else math.nan
    return CountingErrors(
        mae=float(np.mean(np.abs(error))),
        rmse=float(np.sqrt(np.mean(error**2))),
        nae=nae,
        bias=float(np.mean(error)),
        n_images=len(error),
    )
