import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.masks.instances import Instances
from pipeline.masks.overlap import mask_iou, shared_px
from pipeline.masks.rle import Window

STACKS = st.tuples(st.integers(1, 7), st.integers(1, 9)).flatmap(
    lambda hw: st.tuples(hnp.arrays(np.bool_, (3, *hw)), hnp.arrays(np.bool_, (2, *hw)))
)


def whole(masks: np.ndarray) -> Instances:
    n = len(masks)
    return Instances.from_windows(
        masks.shape[1:], [Window(mask, 0, 0) for mask in masks], point_id=np.arange(n), points_xy=np.zeros((n, 2)),
        radius_px=np.ones(n), source="truth", status="ok",
    )  # fmt: skip


@settings(deadline=None)
@given(STACKS)
def test_windows_give_what_whole_masks_give(stacks: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = stacks
    one, other = whole(a), whole(b)
    for i in range(len(a)):
        for j in range(len(b)):
            union = (a[i] | b[j]).sum()
            assert shared_px(one, i, other, j) == (a[i] & b[j]).sum()
            assert mask_iou(one, i, other, j) == ((a[i] & b[j]).sum() / union if union else 0.0)


def test_masks_of_two_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one image, got \(3, 4\) and \(3, 5\)"):
        shared_px(whole(np.ones((1, 3, 4), bool)), 0, whole(np.ones((1, 3, 5), bool)), 0)
