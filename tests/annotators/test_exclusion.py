import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.annotators.exclusion import (
    Candidates,
    CircleWindows,
    ExclusionOptions,
    circle_windows,
    disc_window,
    judge,
    sample_windows,
)
from pipeline.annotators.prompting import mask_area, other_heads
from pipeline.annotators.proposals import cell_spans, crop_cells
from pipeline.geometry.tiles import Tile

GRID = 16


def crop(logits, tile: Tile, points_xy, radius_px, heads_xy, own, estimates, size_hw) -> Candidates:
    """What the network's part keeps of whole low-resolution logits, here without rounding to sixteenths."""
    spans = cell_spans(points_xy, radius_px, tile, logits.shape[-1], size_hw)
    cell_px = tile.side_px / logits.shape[-1]
    return Candidates(
        cells=crop_cells(logits, spans),
        sizes_hw=torch.from_numpy(spans.sizes_hw.copy()),
        first_xy=torch.from_numpy([tile.x0, tile.y0] - np.array(0.5) + (spans.first_xy + 0.5) * cell_px),
        cell_px=torch.full((len(logits),), cell_px, dtype=torch.float64),
        estimates=estimates,
        area_px=mask_area(logits, tile, size_hw),
        other_heads=other_heads(logits, tile, own, heads_xy),
    )


def near_windows(points_xy, size_hw) -> CircleWindows:
    """The two pixels around each head."""
    return circle_windows(torch.from_numpy(points_xy), torch.full((len(points_xy),), 2.0).double(), size_hw)


def bilinear(cells, tile: Tile, x: float, y: float) -> float:
    """Low-resolution logits at a pixel of the image: cell (i, j) lies at the centre of its square of the tile."""
    size = len(cells)
    u = (x + 0.5 - tile.x0) / tile.side_px * size - 0.5
    v = (y + 0.5 - tile.y0) / tile.side_px * size - 0.5
    u, v = min(max(u, 0.0), size - 1.0), min(max(v, 0.0), size - 1.0)
    j, i = min(int(u), size - 2), min(int(v), size - 2)
    du, dv = u - j, v - i
    top = cells[i][j] * (1 - du) + cells[i][j + 1] * du
    bottom = cells[i + 1][j] * (1 - du) + cells[i + 1][j + 1] * du
    return top * (1 - dv) + bottom * dv


def oracle(cells, estimate, head, radius, others, tile, size_hw, options, *, exclusive=True):
    """Rank of one candidate, straight from the specification §4, one pixel at a time."""
    height, width = size_hw
    x0, y0 = head
    circle = [(x, y) for y in range(height) for x in range(width) if (x - x0) ** 2 + (y - y0) ** 2 <= radius**2]
    value = {(x, y): bilinear(cells, tile, x, y) for x, y in circle}
    in_circle = sum(v > 0 for v in value.values())
    cell_px = tile.side_px / len(cells)
    flooded = sum(
        cells[i][j] > 0
        for i in range(len(cells))
        for j in range(len(cells))
        if tile.y0 + i * cell_px < height and tile.x0 + j * cell_px < width
    )
    total = max(flooded * cell_px**2, in_circle)
    leak = 1 - in_circle / max(total, 1)
    laxer = sum(v > -options.stability_delta for v in value.values())
    stability = sum(v > options.stability_delta for v in value.values()) / max(laxer, 1)
    heads = sum(bilinear(cells, tile, *other) > 0 for other in others if tuple(other) != tuple(head))
    fill = in_circle / max(len(circle), 1)
    distances = {(x, y): math.dist((x, y), head) for y in range(height) for x in range(width)}
    nearest = min(distances.values())
    near = [pixel for pixel, d in distances.items() if d <= 2 or d == nearest]
    holds_head = any(bilinear(cells, tile, *pixel) > 0 for pixel in near)
    rank = estimate * stability
    rejected = not holds_head or in_circle < options.min_area_px
    if exclusive:
        rank *= math.exp(-options.kappa * heads) * (1 - leak) ** options.gamma
        rejected |= fill > 0.98 and leak > options.flood_leak
    sampled = [*value.values(), *(bilinear(cells, tile, *place) for place in [*near, *others])]
    limits = (0.0, options.stability_delta, -options.stability_delta)
    margin = min(abs(v - limit) for v in sampled for limit in limits)
    return (-math.inf if rejected else rank), stability, leak, total, margin


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.3, 3.0, 30.0]))
def test_judge_agrees_with_the_plain_form(seed, exclusive, steepness) -> None:
    rng = np.random.default_rng(seed)
    size_hw = (int(rng.integers(20, 40)), int(rng.integers(20, 40)))
    side = int(rng.integers(max(size_hw), 56))
    tile = Tile(0, 0, side, np.arange(0)) if rng.random() < 0.5 else Tile(4, 6, 16, np.arange(0))
    corner = np.array([tile.x0, tile.y0])
    far = np.minimum(corner + tile.side_px, size_hw[::-1]) - 1
    heads = np.round(rng.uniform(corner, far, (5, 2)) * 16) / 16
    heads[4] = heads[0]  # marked twice
    radii = rng.uniform(3, 9, 3)
    coarse = rng.normal(0.2, 1, (3, 3, 5, 5))
    logits = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=(GRID, GRID), mode="bicubic") * steepness
    logits[0, 0], logits[1, 1] = 5.0, -5.0  # a flood and an empty mask
    logits = logits.float()
    estimates = torch.from_numpy(rng.uniform(0, 1, (3, 3))).float()
    options = ExclusionOptions(kappa=0.7, gamma=0.5)
    judged = judge(
        crop(logits, tile, heads[:3], radii, torch.from_numpy(heads), torch.arange(3), estimates, size_hw),
        circle_windows(torch.from_numpy(heads[:3]), torch.from_numpy(radii), size_hw),
        near_windows(heads[:3], size_hw),
        options,
        exclusive=exclusive,
    )
    for row in range(3):
        rows = [
            oracle(
                logits[row, c].double().tolist(),
                float(estimates[row, c]),
                tuple(heads[row]),
                radii[row],
                [tuple(other) for other in heads.tolist()],
                tile,
                size_hw,
                options,
                exclusive=exclusive,
            )
            for c in range(3)
        ]
        assume(min(one[4] for one in rows) > 1e-5)  # a logit within rounding of a threshold may fall on either side
        best = max(range(3), key=lambda c: rows[c][0])
        rank, stability, leak, total, _ = rows[best]
        if not math.isfinite(rank):
            assert float(judged.rank[row]) == -math.inf
            continue
        assert float(judged.rank[row]) == pytest.approx(rank, abs=1e-5)
        second = sorted((one[0] for one in rows), reverse=True)[1]
        if rank - second > 1e-4:
            assert int(judged.best[row]) == best
            assert float(judged.stability[row]) == pytest.approx(stability, abs=1e-5)
            assert float(judged.leak_frac[row]) == pytest.approx(leak, abs=1e-5)
            assert float(judged.area_px[row]) == pytest.approx(total, rel=1e-5)


def test_coarser_samples_judge_alike() -> None:
    """Where a cell spans many pixels, every third pixel tells as much as each one."""
    rng = np.random.default_rng(3)
    tile, size_hw = Tile(0, 0, 192, np.arange(0)), (192, 192)
    heads = rng.uniform(40, 150, (20, 2))
    radii = rng.uniform(25, 40, 20)
    coarse = torch.from_numpy(rng.normal(0.5, 2, (20, 3, 5, 5)))
    logits = torch.nn.functional.interpolate(coarse, size=(GRID, GRID), mode="bicubic").float()
    heads_xy, estimates = torch.from_numpy(heads), torch.from_numpy(rng.uniform(0.5, 1, (20, 3))).float()
    candidates = crop(logits, tile, heads, radii, heads_xy, torch.arange(20), estimates, size_hw)
    fine, third = (
        judge(
            candidates,
            circle_windows(heads_xy, torch.from_numpy(radii), size_hw, step=step),
            near_windows(heads, size_hw),
            ExclusionOptions(),
        )
        for step in (1, 3)
    )
    torch.testing.assert_close(third.rank, fine.rank, rtol=0.03, atol=0.005)
    same = fine.best == third.best
    assert same.sum() >= 19  # two candidates of equal rank may change places
    torch.testing.assert_close(third.stability[same], fine.stability[same], rtol=0.03, atol=0.01)
    torch.testing.assert_close(third.leak_frac[same], fine.leak_frac[same], rtol=0, atol=0.02)


def one_judged(logits, *, heads=((10.0, 10.0),), radius=4.0, estimate=0.8, size_hw=(32, 32), **options):
    exclusive = options.pop("exclusive", True)
    heads_xy = torch.tensor(heads, dtype=torch.float64)
    whole = torch.as_tensor(logits, dtype=torch.float32)[None, None]
    tile, own = Tile(0, 0, 32, np.arange(0)), torch.tensor([0])
    first = heads_xy[:1].numpy()
    return judge(
        crop(whole, tile, first, np.array([radius]), heads_xy, own, torch.tensor([[estimate]]), size_hw),
        circle_windows(heads_xy[:1], torch.tensor([radius], dtype=torch.float64), size_hw),
        near_windows(first, size_hw),
        ExclusionOptions(**options),
        exclusive=exclusive,
    )


def patch(rows: slice, columns: slice, high=9.0):
    logits = np.full((32, 32), -9.0, np.float32)
    logits[rows, columns] = high
    return logits


def test_literal_figures_of_a_mask_that_leaks() -> None:
    # 9 x 9 pixels around the head, of which the circle of radius 4 holds 49; and as many again far off.
    logits = patch(slice(6, 15), slice(6, 15))
    logits[20:29, 20:29] = 9.0
    judged = one_judged(logits, heads=[(10.0, 10.0), (24.0, 24.0)], flood_leak=0.5)
    leak = 1 - 49 / 162
    assert float(judged.area_px) == 162
    assert float(judged.leak_frac) == pytest.approx(leak)
    assert float(judged.stability) == 1
    assert float(judged.rank) == -math.inf  # the circle is full and more than half of the mask lies outside
    judged = one_judged(logits, heads=[(10.0, 10.0), (24.0, 24.0)])
    assert float(judged.rank) == pytest.approx(0.8 * math.exp(-0.7) * (1 - leak) ** 0.5)  # but less than 95 %
    judged = one_judged(logits, heads=[(10.0, 10.0), (24.0, 24.0)], exclusive=False)
    assert float(judged.rank) == pytest.approx(0.8)
    logits[6:8, 6:15] = -9.0  # not full any more: 45 of 144 pixels
    judged = one_judged(logits, heads=[(10.0, 10.0), (24.0, 24.0)])
    in_circle = sum((x - 10) ** 2 + (y - 10) ** 2 <= 16 for y in range(8, 15) for x in range(6, 15))
    assert float(judged.rank) == pytest.approx(0.8 * math.exp(-0.7) * math.sqrt(in_circle / 144), rel=1e-5)


@pytest.mark.parametrize(
    ("logits", "options", "kept"),
    [
        (patch(slice(9, 12), slice(9, 12)), {}, True),
        (patch(slice(9, 12), slice(12, 14)), {"min_area_px": 6}, True),  # begins two pixels beside the head
        (patch(slice(9, 12), slice(13, 15)), {"min_area_px": 1}, False),  # three pixels beside
        (patch(slice(9, 11), slice(9, 12)), {"min_area_px": 6}, True),
        (patch(slice(9, 11), slice(9, 12)), {"min_area_px": 7}, False),
        (patch(slice(0, 32), slice(0, 32)), {}, False),  # the background
        (patch(slice(0, 32), slice(0, 32)), {"exclusive": False}, True),
        (patch(slice(0, 0), slice(0, 0)), {"min_area_px": 0}, False),
    ],
)
def test_what_is_rejected(logits, options, kept) -> None:
    assert bool(one_judged(logits, **options).rank.isfinite()) is kept


def test_a_head_marked_twice_is_no_other_head() -> None:
    logits = patch(slice(9, 12), slice(9, 12))
    alone = one_judged(logits).rank
    assert torch.equal(one_judged(logits, heads=[(10.0, 10.0), (10.0, 10.0)]).rank, alone)
    assert float(one_judged(logits, heads=[(10.0, 10.0), (11.0, 10.0)]).rank) == pytest.approx(
        float(alone) * math.exp(-0.7)
    )


def test_padding_beside_a_small_image_is_no_leak() -> None:
    judged = one_judged(patch(slice(6, 32), slice(6, 32)), size_hw=(15, 15))
    assert float(judged.area_px) == 81


@pytest.mark.parametrize(("grid", "side", "corner"), [(8, 64, (0, 0)), (128, 64, (5, 9)), (16, 37, (3, 0))])
def test_a_linear_ramp_is_sampled_exactly(grid, side, corner) -> None:
    tile = Tile(*corner, side, np.arange(0))
    cells = (np.arange(grid) + 0.5) * side / grid - 0.5  # their centres, in pixels of the tile
    ramp = 2.0 * (cells[None] + tile.x0) - 3.0 * (cells[:, None] + tile.y0) + 1.0
    middle = np.array([[tile.x0 + side / 2, tile.y0 + side / 2], [tile.x0 + side / 2 - 2.25, tile.y0 + side / 2]])
    radii = np.array([5.0, 3.2])
    windows = circle_windows(torch.from_numpy(middle), torch.from_numpy(radii), (200, 200))
    logits = torch.from_numpy(ramp).float().expand(2, 3, grid, grid)
    heads_xy, own = torch.from_numpy(middle), torch.arange(2)
    candidates = crop(logits, tile, middle, radii, heads_xy, own, torch.ones(2, 3), (200, 200))
    sampled = sample_windows(candidates, windows)
    assert sampled.shape == (2, 3, *windows.inside.shape[1:])
    y, x = np.mgrid[: sampled.shape[2], : sampled.shape[3]]
    for row in range(2):
        exact = 2.0 * (x + int(windows.x0[row])) - 3.0 * (y + int(windows.y0[row])) + 1.0
        h, w = int(windows.heights[row]), int(windows.widths[row])  # what lies beyond is padding
        np.testing.assert_allclose(sampled[row, 1, :h, :w].numpy(), exact[:h, :w], atol=1e-3)


@pytest.mark.parametrize(
    ("point", "radius", "size_hw"),
    [
        ((10.0, 10.0), 3.0, (20, 20)),
        ((0.0, 0.0), 4.5, (20, 20)),
        ((18.6, 19.4), 6.0, (20, 20)),
        ((-2.0, 5.0), 3.0, (20, 20)),
        ((-50.0, -50.0), 3.0, (20, 20)),
        ((0.0, 0.0), 3.0, (1, 1)),
    ],
)
def test_circle_windows_at_borders(point, radius, size_hw) -> None:
    others = [(9.0, 9.0), point]
    windows = circle_windows(
        torch.tensor(others, dtype=torch.float64), torch.tensor([7.5, radius], dtype=torch.float64), size_hw
    )
    shown = np.zeros(size_hw, bool)
    x0, y0, w, h = (int(one[1]) for one in (windows.x0, windows.y0, windows.widths, windows.heights))
    assert not windows.inside[1, h:].any()
    assert not windows.inside[1, :, w:].any()
    shown[y0 : y0 + h, x0 : x0 + w] = windows.inside[1, :h, :w]
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    distance = np.hypot(x - point[0], y - point[1])
    np.testing.assert_array_equal(shown, distance <= radius)
    third = circle_windows(
        torch.tensor(others, dtype=torch.float64),
        torch.tensor([7.5, radius], dtype=torch.float64),
        size_hw,
        step=3,
    )
    h, w = int(third.heights[1]), int(third.widths[1])
    np.testing.assert_array_equal(third.inside[1, :h, :w], windows.inside[1, ::3, ::3][:h, :w])
    assert third.inside[1].sum() == windows.inside[1, ::3, ::3].sum()


@settings(max_examples=80, deadline=None)
@given(st.floats(-20, 40), st.floats(-20, 40), st.floats(0.01, 30), st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_disc_window(x, y, radius, size_hw) -> None:
    disc = disc_window(x, y, radius, size_hw)
    frame = np.zeros(size_hw, bool)
    frame[disc.y0 : disc.y0 + disc.mask.shape[0], disc.x0 : disc.x0 + disc.mask.shape[1]] = disc.mask
    assert disc.mask.sum() == frame.sum()
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    squared = (columns - x) ** 2 + (rows - y) ** 2
    expected = squared <= radius**2
    if -0.5 <= x < size_hw[1] - 0.5 and -0.5 <= y < size_hw[0] - 0.5:
        expected |= squared == squared.min()
        assert frame.any()
    np.testing.assert_array_equal(frame, expected)


@pytest.mark.parametrize(
    "bad", [{"kappa": -0.1}, {"gamma": -1}, {"min_area_px": -1}, {"fallback_radius_frac": 0}, {"fallback_score": 1.1}]
)
def test_options_refuse_values_out_of_range(bad) -> None:
    (name,) = bad
    with pytest.raises(ValueError, match=f"{name} must be"):
        ExclusionOptions(**bad)


def test_windows_are_of_one_size() -> None:
    windows = circle_windows(
        torch.tensor([[5.0, 5.0], [8.0, 8.0]]).double(), torch.tensor([2.0, 6.0]).double(), (9, 30)
    )
    assert isinstance(windows, CircleWindows)
    assert windows.inside.shape == windows.squared_px.shape == (2, 7, 13)
    assert windows.heights.tolist() == [5, 7]
    assert windows.widths.tolist() == [5, 13]
