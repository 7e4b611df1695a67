from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.masks.soft_format import decode_soft
from pipeline.models.solov2 import SoloOutput
from pipeline.pseudo_labels.point_guided import PointGuided, guided_instances, point_guided, scale_points
from tests.models.solo_by_hand import GRIDS, SIZE_HW, box, output_by_hand

ANY_SIZE = (0, 0, 0, 0, 0)
NOBODY = 1.1
"""An IoU that no two masks have."""


def look(
    output: SoloOutput, points: Sequence[tuple[float, float]], classes: Sequence[int], **options: Any
) -> PointGuided:
    settings = {"size_hw": SIZE_HW, "padded_hw": SIZE_HW, "min_area": ANY_SIZE} | options
    return point_guided(
        output, np.array(points, dtype=np.float64).reshape(-1, 2), np.array(classes, np.int64), **settings
    )


def cell_of(x: float, y: float, level: int, side: int = 64) -> tuple[int, int]:
    """Row and column."""
    return int((y + 0.5) / side * GRIDS[level]), int((x + 0.5) / side * GRIDS[level])


@pytest.mark.parametrize("level", range(5))
def test_hand_made_kernels_choose_the_known_level(level: int) -> None:
    x, y = 41.0, 22.0
    cells = {(k, *cell_of(x, y, k)): (k, {0: 0.9, 1: 0.8 if k == level else 0.5 - 0.05 * k}) for k in range(5)}
    pictures = [box(k, k, k + 6, k + 5) for k in range(5)]
    found = look(output_by_hand(pictures, cells), [(x, y)], [1])
    assert found.level.tolist() == [level]
    assert found.cell_xy.tolist() == [list(cell_of(x, y, level)[::-1])]
    assert found.status.tolist() == ["ok"]
    assert torch.equal(found.masks_prob()[0] > 0.5, pictures[level])
    assert found.area.tolist() == [30]
    torch.testing.assert_close(found.score, 0.8 * found.maskness)
    torch.testing.assert_close(found.class_probs[0, :2], torch.tensor([0.9, 0.8]))


def test_maskness_decides_as_the_class_does() -> None:
    x, y = 41.0, 22.0
    faint = torch.full((16, 16), -6.0)
    faint[2:8, 2:8] = 0.2
    cells = {(0, *cell_of(x, y, 0)): (0, {1: 0.9}), (1, *cell_of(x, y, 1)): (1, {1: 0.8})}
    found = look(output_by_hand([faint, box(2, 2, 8, 8)], cells), [(x, y)], [1])
    assert found.level.tolist() == [1]
    assert found.level_scores[0, 0] < found.level_scores[0, 1]


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("outside", [(-0.6, 22.0), (41.0, -3.0), (63.5, 22.0), (41.0, 80.0), (500.0, 500.0)])
def test_points_outside_the_image_get_nothing_and_take_nothing(outside: tuple[float, float], published: bool) -> None:
    x, y = float(np.clip(outside[0], 0, 63)), float(np.clip(outside[1], 0, 63))
    cells = {(k, *cell_of(x, y, k)): (0, {1: 0.9}) for k in range(5)}
    output = output_by_hand([box(4, 4, 12, 12)], cells)
    found = look(output, [(x, y), outside], [1, 1], duplicate_iou=NOBODY)
    assert found.status.tolist() == ["ok", "empty"]
    assert found.level.tolist() == [0, -1]
    assert not found.masks_prob()[1].any()
    alone = look(output, [outside], [1], published=published)
    assert (alone.status.tolist(), alone.score.tolist()) == (["empty"], [0.0])


def test_two_points_in_one_cell_give_two_rows() -> None:
    """The mask covers the second point alone, so that it has the better claim."""
    cells = {(0, 2, 2): (0, {1: 0.9})}
    found = look(output_by_hand([box(5, 5, 8, 8)], cells), [(17.0, 17.0), (22.0, 22.0)], [1, 1])
    assert found.level.tolist() == [0, 0]
    assert found.cell_xy.tolist() == [[2, 2], [2, 2]]
    assert found.holds_point.tolist() == [False, True]
    assert found.status.tolist() == ["collision", "ok"]
    torch.testing.assert_close(found.masks_prob()[0], found.masks_prob()[1])


@pytest.mark.parametrize(
    ("points", "classes", "probs", "status"),
    [
        ([(20, 20), (20, 20)], [1, 1], {1: 0.9}, ["ok", "collision"]),  # the earlier
        ([(22, 22), (20, 20)], [1, 1], {1: 0.9}, ["collision", "ok"]),  # the nearer to the centre, 19.5
        ([(20, 20), (22, 22)], [1, 2], {1: 0.6, 2: 0.9}, ["collision", "ok"]),  # the higher score
        ([(20, 20), (28, 20)], [1, 1], {1: 0.9}, ["ok", "empty"]),  # another cell
    ],
)
def test_who_has_the_cell(
    points: list[tuple[float, float]], classes: list[int], probs: dict[int, float], status: list[str]
) -> None:
    found = look(output_by_hand([box(4, 4, 8, 8)], {(0, 2, 2): (0, probs)}), points, classes)
    assert found.status.tolist() == status


def test_points_that_share_a_coarse_cell_do_not_collide_unless_they_choose_it() -> None:
    points = [(20.0, 20.0), (28.0, 20.0)]
    cells = {
        (0, 2, 2): (0, {1: 0.9}),
        (0, 2, 3): (1, {1: 0.9}),
        (4, 0, 0): (2, {1: 0.5}),
    }
    assert cell_of(*points[0], 4) == cell_of(*points[1], 4) == (0, 0)
    found = look(output_by_hand([box(4, 4, 6, 7), box(6, 4, 8, 7), box(4, 4, 8, 7)], cells), points, [1, 1])
    assert found.status.tolist() == ["ok", "ok"]
    assert found.level.tolist() == [0, 0]


@pytest.mark.parametrize(("iou", "status"), [(0.5, ["duplicate", "ok"]), (0.6, ["ok", "ok"]), (NOBODY, ["ok", "ok"])])
def test_nearly_the_same_mask_from_two_cells(iou: float, status: list[str]) -> None:
    """The boxes share 6 of 10 columns; of whatever class, the lower score yields."""
    cells = {(0, 2, 2): (0, {1: 0.7}), (0, 2, 3): (1, {2: 0.9})}
    output = output_by_hand([box(0, 0, 8, 9), box(2, 0, 10, 9)], cells)
    assert look(output, [(20, 20), (28, 20)], [1, 2], duplicate_iou=iou).status.tolist() == status


def test_small_and_empty_masks() -> None:
    cells = {(0, 2, 2): (0, {1: 0.9}), (2, 0, 3): (1, {1: 0.9})}
    output = output_by_hand([box(0, 0, 4, 2), box(8, 0, 12, 4)], cells)
    points, classes = [(20, 20), (60, 2), (40, 40)], [1, 1, 1]
    published = (8, 8, 16, 32, 32)
    assert look(output, points, classes, min_area=published).status.tolist() == ["small", "small", "empty"]
    assert look(output, points, classes, min_area=(7, 8, 15, 0, 0)).status.tolist() == ["ok", "ok", "empty"]
    assert look(output, points, classes).masks_prob()[2].max() < 0.5


def test_random_levels_follow_the_generator() -> None:
    output = output_by_hand([box(0, 0, 4, 4)], {})
    points = [(float(k), float(k)) for k in range(64)]
    first, again, other = (
        look(output, points, [0] * 64, choose="random", generator=torch.Generator().manual_seed(seed)).level
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert set(first.tolist()) == set(range(5))


def test_the_size_oracle_takes_the_best_level_of_the_size() -> None:
    x, y = 41.0, 22.0
    cells = {(k, *cell_of(x, y, k)): (0, {1: prob}) for k, prob in enumerate((0.9, 0.5, 0.6, 0.8, 0.7))}
    output = output_by_hand([box(0, 0, 6, 6)], cells)
    ranges = ((1, 10), (5, 20), (5, 20), (15, 40), (30, 99))
    for size, level in ((3.0, 0), (8.0, 0), (12.0, 2), (17.0, 3), (35.0, 3), (500.0, 4)):
        found = look(output, [(x, y)], [1], choose="size_oracle", sizes_px=np.array([size]), ranges_px=ranges)
        assert found.level.tolist() == [level], size


def test_published_cells_belong_to_the_last_point() -> None:
    """Both are in one cell on all levels but the finest: there the first is alone."""
    points = [(20.0, 20.0), (25.0, 20.0), (26.0, 20.0)]
    cells = {(1, 1, 2): (0, {1: 0.9}), (0, 2, 2): (1, {1: 0.6}), (0, 2, 3): (2, {1: 0.5})}
    output = output_by_hand([box(0, 0, 8, 8), box(0, 9, 6, 15), box(8, 8, 15, 15)], cells)
    points[0] = (22.0, 20.0)
    assert [cell_of(*p, 1) for p in points] == [(1, 2)] * 3
    ours, theirs = look(output, points, [1] * 3), look(output, points, [1] * 3, published=True)
    assert ours.level.tolist() == [1, 1, 1]
    assert sorted(ours.status.tolist()) == ["collision", "collision", "ok"]
    assert theirs.level.tolist() == [0, -1, 1]
    assert theirs.status.tolist() == ["ok", "collision", "ok"]
    assert not theirs.masks_prob()[1].any()
    assert torch.equal(theirs.masks_prob()[2] > 0.5, box(0, 0, 8, 8))


def test_published_duplicates_are_those_of_a_class() -> None:
    cells = {(0, 2, 2): (0, {1: 0.7, 2: 0.7}), (0, 2, 3): (1, {1: 0.9})}
    output = output_by_hand([box(0, 0, 8, 9), box(2, 0, 10, 9)], cells)
    points = [(20, 20), (28, 20)]
    assert look(output, points, [1, 1], published=True).status.tolist() == ["duplicate", "ok"]
    assert look(output, points, [2, 1], published=True).status.tolist() == ["ok", "ok"]


def plain_lookup(
    output: SoloOutput, points: np.ndarray, classes: np.ndarray, size_hw: tuple[int, int], padded_hw: tuple[int, int]
) -> list[tuple[int, list[float], int, str]]:
    """Level, scores of all levels, area and status of each point, one point and one level at a time."""
    visible_rows, visible_columns = -(-size_hw[0] // 4), -(-size_hw[1] // 4)
    rows: list[dict[str, Any]] = []
    for (x, y), class_id in zip(points, classes, strict=True):
        views = []
        for k, grid in enumerate(output.grids):
            i = min(max(int(np.floor((y + 0.5) / padded_hw[0] * grid)), 0), grid - 1)
            j = min(max(int(np.floor((x + 0.5) / padded_hw[1] * grid)), 0), grid - 1)
            logit = torch.einsum("e,ehw->hw", output.kernels[k][0, :, i, j], output.mask_features[0])
            prob = torch.sigmoid(logit)[:visible_rows, :visible_columns]
            inside = prob > 0.5
            maskness = float(prob[inside].mean()) if inside.any() else 0.0
            score = float(torch.sigmoid(output.class_logits[k][0, class_id, i, j])) * maskness
            off = (x + 0.5) / padded_hw[1] * grid - j - 0.5, (y + 0.5) / padded_hw[0] * grid - i - 0.5
            px, py = int(np.floor((x + 0.5) / 4)), int(np.floor((y + 0.5) / 4))
            px, py = min(max(px, 0), padded_hw[1] // 4 - 1), min(max(py, 0), padded_hw[0] // 4 - 1)
            holds = py < visible_rows and px < visible_columns and bool(inside[py, px])
            views.append({"score": score, "mask": inside, "cell": (k, i, j), "holds": holds,
                          "off": off[0] ** 2 + off[1] ** 2})  # fmt: skip
        best = max(range(len(views)), key=lambda k: (views[k]["score"], -k))
        rows.append({**views[best], "level": best, "scores": [v["score"] for v in views], "status": "ok"})
        if not (-0.5 <= x < size_hw[1] - 0.5 and -0.5 <= y < size_hw[0] - 0.5):
            rows[-1] |= {"level": -1, "mask": torch.zeros(visible_rows, visible_columns, dtype=torch.bool)}
    for row in rows:
        area = int(row["mask"].sum())
        row["area"] = area
        row["status"] = "empty" if area == 0 else "small" if area <= (8, 8, 16, 32, 32)[row["level"]] else "ok"
    usable = [k for k, row in enumerate(rows) if row["status"] == "ok"]
    for k in usable:
        mates = [m for m in usable if rows[m]["cell"] == rows[k]["cell"]]
        claim = min(mates, key=lambda m: (-rows[m]["score"], not rows[m]["holds"], rows[m]["off"], m))
        rows[k]["status"] = "ok" if claim == k else "collision"
    left = [k for k in usable if rows[k]["status"] == "ok"]
    for k in left:
        for m in left:
            above = (-rows[m]["score"], m) < (-rows[k]["score"], k)
            shared, union = (rows[m]["mask"] & rows[k]["mask"]).sum(), (rows[m]["mask"] | rows[k]["mask"]).sum()
            if above and float(shared / union) > 0.75:
                rows[k]["status"] = "duplicate"
    return [(row["level"], row["scores"], row["area"], row["status"]) for row in rows]


@settings(deadline=None, max_examples=25)
@given(n=st.integers(0, 25), seed=st.integers(0, 9999), size_hw=st.sampled_from([(32, 64), (30, 49)]))
def test_equals_the_plain_form(n: int, seed: int, size_hw: tuple[int, int]) -> None:
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    directions = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    picks = [torch.randint(0, 3, (s, s), generator=generator) for s in GRIDS]  # few kernels, so that masks repeat
    output = SoloOutput(
        [torch.randn(1, 2, s, s, generator=generator, dtype=torch.float64) for s in GRIDS],
        [directions[pick].permute(2, 0, 1)[None] for pick in picks],
        torch.randn(1, 4, 8, 16, generator=generator, dtype=torch.float64),
    )
    points, classes = rng.uniform(-4, 66, (n, 2)).round(1), rng.integers(0, 2, n)
    found = point_guided(output, points, classes, size_hw=size_hw, padded_hw=(32, 64))
    plain = plain_lookup(output, points, classes, size_hw, (32, 64))
    assert found.level.tolist() == [row[0] for row in plain]
    np.testing.assert_allclose(found.level_scores.numpy(), np.array([row[1] for row in plain]).reshape(-1, 5))
    assert found.area.tolist() == [row[2] for row in plain]
    assert found.status.tolist() == [row[3] for row in plain]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    output = SoloOutput(
        [torch.randn(1, 2, s, s, generator=generator) for s in GRIDS],
        [torch.randn(1, 2, s, s, generator=generator) for s in GRIDS],
        torch.randn(1, 2, 16, 16, generator=generator),
    )
    points, classes = np.random.default_rng(0).uniform(0, 63, (40, 2)), np.zeros(40, np.int64)
    whole = look(output, points, classes)
    assert {"duplicate", "collision"} <= set(whole.status.tolist())
    monkeypatch.setattr("pipeline.pseudo_labels.point_guided._CHUNK_ROWS", 7)
    parts = look(output, points, classes)
    assert parts.status.tolist() == whole.status.tolist()
    torch.testing.assert_close(torch.cat(list(parts.chunks())), whole.masks_prob())
    assert [len(chunk) for chunk in parts.chunks()] == [7] * 5 + [5]


def test_points_keep_their_place_when_the_image_is_resized() -> None:
    points = np.array([[0.0, 0.0], [99.0, 49.0], [-0.5, 49.5]])
    scaled = scale_points(points, from_hw=(50, 100), to_hw=(25, 200))
    np.testing.assert_allclose(scaled, [[0.5, -0.25], [198.5, 24.25], [-0.5, 24.5]])


def test_rows_of_a_store_have_the_image_s_size() -> None:
    cells = {(0, 2, 2): (0, {1: 0.9}), (0, 6, 6): (1, {2: 0.8})}
    output = output_by_hand([box(4, 4, 7, 8), box(11, 11, 16, 15)], cells)
    image_hw, ids = (128, 96), np.array([7, 3, 5])
    points = np.array([[30.0, 41.0], [80.0, 107.0], [30.5, 41.0]])
    on_input = scale_points(points, from_hw=image_hw, to_hw=(64, 48))
    assert on_input[0].tolist() == [14.75, 20.25]
    found = look(output, [(20, 20), (52, 52), (17, 17)], [1, 2, 1])
    rows = guided_instances(found, size_hw=SIZE_HW, image_hw=image_hw, point_id=ids, points_xy=points, keep_prob=True)
    assert rows.size_hw == image_hw
    assert rows.point_id.tolist() == [7, 3, 5]
    assert rows.status.tolist() == ["ok", "ok", "collision"]
    assert set(rows.source.tolist()) == {"point_guided"}
    # 16 cells of the features are 128 px high and 96 px wide: 8 and 6 px each.
    assert rows.boxes_xywh.tolist() == [[24, 32, 18, 32], [66, 88, 30, 32], [24, 32, 18, 32]]
    assert rows.class_id.tolist() == [1, 2, 1]
    np.testing.assert_allclose(rows.class_score, [0.9, 0.8, 0.9], rtol=1e-6)
    np.testing.assert_allclose(rows.score, rows.class_score * rows.mask_quality, rtol=1e-6)
    assert rows.class_probs is not None
    assert rows.class_probs.shape == (3, 3)
    assert rows.prob_q8 is not None
    soft = decode_soft(rows.prob_q8[0] or b"").in_box(rows.boxes_xywh[0])
    assert ((soft > 0.5) == rows.window(0).mask).mean() > 0.9
    plain = guided_instances(found, size_hw=SIZE_HW, image_hw=image_hw, point_id=ids, points_xy=points)
    assert (plain.class_probs, plain.prob_q8, plain.nms_decay) == (None, None, None)


def test_a_mask_that_vanishes_in_the_image_is_empty() -> None:
    """One cell of the features, where the image has one pixel for nine of them and reads between."""
    found = look(output_by_hand([box(0, 0, 1, 1)], {(0, 2, 2): (0, {1: 0.9})}), [(20, 20)], [1])
    assert found.status.tolist() == ["ok"]
    rows = guided_instances(found, size_hw=SIZE_HW, image_hw=(5, 5), point_id=[0], points_xy=np.zeros((1, 2)))
    assert (rows.area_px.tolist(), rows.status.tolist()) == ([0], ["empty"])


def test_no_points() -> None:
    found = look(output_by_hand([box(0, 0, 4, 4)], {}), [], [])
    assert len(found) == 0
    rows = guided_instances(found, size_hw=SIZE_HW, image_hw=(9, 9), point_id=[], points_xy=np.zeros((0, 2)))
    assert len(rows) == 0
    assert len(look(output_by_hand([box(0, 0, 4, 4)], {}), [], [], published=True)) == 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"classes": [3]}, PipelineError, "points.parquet: has class_id 3, but the network knows 0 to 2; train the"),
        ({"classes": [-1]}, PipelineError, "points.parquet: has class_id -1"),
        ({"classes": [0, 1]}, ValueError, "class_id: expected 1 values, one for each point, got 2"),
        ({"points": [(np.nan, 1.0)]}, ValueError, "points_xy: expected finite coordinates"),
        ({"padded_hw": (32, 64)}, ValueError, r"output: expected \(1, 8, 16\) images, rows and columns"),
        ({"choose": "worst"}, ValueError, "choose: expected best, random or size_oracle, got 'worst'"),
        ({"choose": "random"}, ValueError, "generator: expected one"),
        ({"choose": "size_oracle"}, ValueError, "sizes_px, ranges_px: expected both"),
        (
            {"choose": "size_oracle", "sizes_px": [1.0, 2.0], "ranges_px": ((1, 2),) * 5},
            ValueError,
            "expected 1 sizes and 5 ranges, got 2 and 5",
        ),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    output = output_by_hand([box(0, 0, 4, 4)], {})
    arguments = {"points": [(1.0, 1.0)], "classes": [0]} | changes
    with pytest.raises(error, match=message):
        look(output, arguments.pop("points"), arguments.pop("classes"), **arguments)
