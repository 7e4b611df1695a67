import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.masks.instances import Instances
from pipeline.masks.soft import soft_masks_to_instances
from pipeline.masks.soft_format import decode_soft


def blobs(n: int, seed: int, cells_hw: tuple[int, int]) -> torch.Tensor:
    """Smooth soft masks; some are below ½ everywhere, some touch the border."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, n, *cells_hw, generator=generator)
    return torch.sigmoid(8 * F.avg_pool2d(noise, 3, stride=1, padding=1)[0] - 3 * torch.arange(n)[:, None, None])


def rows_of(masks: torch.Tensor, size_hw: tuple[int, int], image_hw: tuple[int, int], **columns: object) -> Instances:
    n = len(masks)
    return soft_masks_to_instances(
        masks.split(2), size_hw=size_hw, image_hw=image_hw, point_id=np.arange(n), points_xy=np.zeros((n, 2)),
        radius_px=np.ones(n), source="head", status="ok", **columns,
    )  # fmt: skip


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.sampled_from([(32, 48), (29, 41), (8, 4)]))
def test_without_resizing_it_is_the_mask_enlarged_four_times(seed: int, size_hw: tuple[int, int]) -> None:
    cells_hw = (-(-size_hw[0] // 4), -(-size_hw[1] // 4))
    masks = blobs(5, seed, (8, 12))
    inside = masks[:, : cells_hw[0], : cells_hw[1]]
    fine = F.interpolate(inside[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    rows = rows_of(masks, size_hw, size_hw)
    sure = (fine - 0.5).abs() > 1e-5
    for k in range(5):
        mask = np.zeros(size_hw, dtype=bool)
        window, x0, y0 = rows.window(k)
        mask[y0 : y0 + window.shape[0], x0 : x0 + window.shape[1]] = window
        expected = (fine[k] > 0.5).numpy()[: size_hw[0], : size_hw[1]]
        np.testing.assert_array_equal((mask == expected) | ~sure[k].numpy()[: size_hw[0], : size_hw[1]], True)


@pytest.mark.parametrize("image_hw", [(16, 24), (64, 96), (31, 100), (5, 7)])
def test_resized_masks_are_read_at_the_pixels_centres(image_hw: tuple[int, int]) -> None:
    masks, size_hw = blobs(4, 3, (8, 12)), (32, 48)
    rows = rows_of(masks, size_hw, image_hw)
    y, x = ((np.arange(whole) + 0.5) / whole * cells - 0.5 for whole, cells in zip(image_hw, (8, 12), strict=True))
    painted = rows.label_map() > 0
    expected = np.zeros(image_hw, dtype=bool)
    for mask in masks.double().numpy():
        for i, j in np.ndindex(*image_hw):
            cy, cx = np.clip(y[i], 0, 7), np.clip(x[j], 0, 11)
            top, left = min(int(cy), 6), min(int(cx), 10)
            fy, fx = cy - top, cx - left
            value = (
                mask[top, left] * (1 - fy) * (1 - fx) + mask[top, left + 1] * (1 - fy) * fx
                + mask[top + 1, left] * fy * (1 - fx) + mask[top + 1, left + 1] * fy * fx
            )  # fmt: skip
            expected[i, j] |= value > 0.5
    np.testing.assert_array_equal(painted, expected)


def test_soft_masks_are_kept_on_cells_of_four_pixels() -> None:
    masks = blobs(5, 1, (8, 12))
    rows = rows_of(masks, (32, 48), (32, 48), keep_prob=True)
    assert rows.prob_q8 is not None
    assert [blob is None for blob in rows.prob_q8] == (rows.area_px == 0).tolist()
    assert any(blob is None for blob in rows.prob_q8)
    for k, blob in enumerate(rows.prob_q8):
        if blob is None:
            continue
        soft = decode_soft(blob)
        box = rows.boxes_xywh[k]
        height, width = soft.prob.shape
        x, y, w, h = (int(value) for value in box)
        assert (soft.stride, soft.x0, soft.y0) == (4, max(x // 4 - 1, 0), max(y // 4 - 1, 0))
        assert (soft.x0 + width, soft.y0 + height) == (min((x + w - 1) // 4 + 2, 12), min((y + h - 1) // 4 + 2, 8))
        inside = masks[k, soft.y0 : soft.y0 + height, soft.x0 : soft.x0 + width].numpy()
        np.testing.assert_allclose(soft.prob, inside, atol=0.5 / 255 + 1e-6)
        fine = F.interpolate(masks[None, k : k + 1], scale_factor=4, mode="bilinear", align_corners=False)[0, 0].numpy()
        np.testing.assert_allclose(soft.in_box(box), fine[y : y + h, x : x + w], atol=0.5 / 255 + 1e-6)


def test_cells_of_an_image_that_was_resized() -> None:
    ramp = torch.linspace(0, 1, 12).expand(1, 8, 12)
    rows = rows_of(ramp, (32, 48), (64, 96), keep_prob=True)
    assert rows.prob_q8 is not None
    soft = decode_soft(rows.prob_q8[0])
    assert soft.prob.shape[0] == 16
    cells = np.arange(soft.x0, soft.x0 + soft.prob.shape[1])
    expected = np.clip((4 * cells + 2) / 96 * 12 - 0.5, 0, 11) / 11
    np.testing.assert_allclose(soft.prob, np.tile(expected, (16, 1)), atol=0.5 / 255 + 1e-6)


def test_no_masks() -> None:
    rows = rows_of(torch.zeros(0, 8, 12), (32, 48), (32, 48), keep_prob=True)
    assert len(rows) == 0
    assert rows.prob_q8 is None
