import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.annotators.exclusion import circle_windows, sample_windows
from pipeline.annotators.proposals import LOGIT_STEP, Proposals, cell_spans, crop_cells, quantize
from pipeline.errors import PipelineError
from pipeline.geometry.tiles import Tile
from tests.annotators.test_exclusion import bilinear


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_crop_samples_like_the_whole(seed) -> None:
    rng = np.random.default_rng(seed)
    size_hw = (int(rng.integers(8, 60)), int(rng.integers(8, 60)))
    grid = int(rng.choice([8, 16, 64]))
    tiles = [
        Tile(int(rng.integers(0, 9)), int(rng.integers(0, 9)), int(rng.integers(9, 80)), np.array(rows))
        for rows in ([0, 2], [1])
    ]
    points_xy = rng.uniform(-3, 63, (3, 2))
    radius_px = rng.uniform(1, 25, 3)
    logits = torch.from_numpy(rng.normal(0, 3, (3, 2, grid, grid))).float()
    logits = quantize(logits).float() * LOGIT_STEP
    cells, first, sizes = [None] * 3, np.zeros((3, 2), np.int64), np.zeros((3, 2), np.int64)
    for tile in tiles:
        spans = cell_spans(points_xy[tile.rows], radius_px[tile.rows], tile, grid, size_hw)
        first[tile.rows], sizes[tile.rows] = spans.first_xy, spans.sizes_hw
        cropped = quantize(crop_cells(logits[tile.rows], spans)).numpy()
        for row, one, (height, width) in zip(tile.rows, cropped, spans.sizes_hw, strict=True):
            cells[row] = one[:, :height, :width]
    flat = np.zeros((3, 2), np.float32)
    proposals = Proposals.join(tiles, grid, cells, type(spans)(first, sizes), flat, flat, flat)
    windows = circle_windows(torch.from_numpy(points_xy), torch.from_numpy(radius_px), size_hw)
    sampled = sample_windows(proposals.candidates(np.arange(3)), windows)
    of_row = {row: tile for tile in tiles for row in tile.rows}
    for row in range(3):
        whole = logits[row, 1].tolist()
        for _ in range(5):
            i, j = rng.integers(0, int(windows.heights[row])), rng.integers(0, int(windows.widths[row]))
            x, y = int(windows.x0[row]) + j, int(windows.y0[row]) + i
            assert float(sampled[row, 1, i, j]) == pytest.approx(bilinear(whole, of_row[row], x, y), abs=2e-4)


def test_sixteenths_keep_the_side() -> None:
    logits = torch.tensor([0.0, 1e-4, -1e-4, 0.03, -0.03, 0.5, 100.0, -100.0])
    steps = quantize(logits)
    assert steps.tolist() == [0, 1, 0, 1, 0, 8, 127, -127]
    assert torch.equal(steps > 0, logits > 0)


def one() -> Proposals:
    rng = np.random.default_rng(0)
    tile = Tile(3, 4, 20, np.arange(2))
    cells = [rng.integers(-127, 128, (3, 4, 5)).astype(np.int8), rng.integers(-127, 128, (3, 2, 7)).astype(np.int8)]
    spans = cell_spans(np.array([[8.0, 9.0], [15.0, 15.0]]), np.array([2.0, 3.0]), tile, 16, (40, 40))
    spans = type(spans)(spans.first_xy, np.array([[4, 5], [2, 7]]))
    return Proposals.join([tile], 16, cells, spans, *rng.random((3, 2, 3)).astype(np.float32))


def test_bytes_and_back() -> None:
    proposals = one()
    data = proposals.to_bytes()
    again = Proposals.from_bytes(data)
    assert again.grid == 16
    assert len(again) == 2
    for name in ("tiles_xys", "tile_of", "first_xy", "sizes_hw", "cells", "estimates", "area_px", "other_heads"):
        np.testing.assert_array_equal(getattr(again, name), getattr(proposals, name))
        assert getattr(again, name).dtype == getattr(proposals, name).dtype
    assert again.to_bytes() == data


@pytest.mark.parametrize("data", [b"", b"12345678", one().to_bytes()[:-4]])
def test_other_bytes_are_refused(data) -> None:
    with pytest.raises(PipelineError, match="cached result of the network cannot be read"):
        Proposals.from_bytes(data)
