import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.losses.solo import (
    BACKGROUND,
    IGNORED,
    STUDENT_RANGES_PX,
    TEACHER_RANGES_PX,
    SoloInstances,
    SoloTargets,
    dice_loss,
    disjoint_ranges,
    focal_loss,
    levels_of_sizes,
    shrink_masks,
    solo_loss,
    solo_targets,
)
from pipeline.models.solov2 import SoloOutput

SIZE_HW = (32, 64)
GRIDS = (8, 5, 4, 3, 2)
RANGES = disjoint_ranges((1, 8, 12, 16, 24, 99))
OVERLAPPING = ((1, 12), (6, 16), (10, 20), (14, 30), (24, 99))


def disc(x: float, y: float, radius: float, size_hw: tuple[int, int] = SIZE_HW) -> Tensor:
    rows, columns = torch.arange(size_hw[0])[:, None], torch.arange(size_hw[1])
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def image(*masks: Tensor, classes: Sequence[int] | None = None, ignore: Tensor | None = None) -> SoloInstances:
    stacked = torch.stack(masks) if masks else torch.zeros(0, *SIZE_HW, dtype=torch.bool)
    return SoloInstances(stacked, torch.tensor(classes if classes is not None else [0] * len(masks)).long(), ignore)


def random_image(seed: int, n: int, *, close: bool = False) -> SoloInstances:
    rng = np.random.default_rng(seed)
    place = (lambda: (20.0 + rng.random(), 10.0 + rng.random())) if close else (
        lambda: (rng.uniform(-3, 67), rng.uniform(-3, 35))
    )  # fmt: skip
    masks = [disc(*place(), rng.choice([0.4, 1.5, 3, 3, 5, 8, 14])) for _ in range(n)]
    ignore = torch.from_numpy(rng.random(SIZE_HW) < 0.003) if rng.random() < 0.5 else None
    return image(*masks, classes=rng.integers(0, 3, n).tolist(), ignore=ignore)


def plain_targets(one: SoloInstances, grids: Sequence[int], ranges: Sequence[tuple[float, float]]) -> list[np.ndarray]:
    """Owner of every cell: row of the instance, -1 background or -2 ignored; one instance and one cell at a time."""
    height, width = one.masks.shape[1:]
    owners = []
    for level, grid in enumerate(grids):
        owner = np.full((grid, grid), BACKGROUND)
        best: dict[tuple[int, int], tuple[int, int]] = {}
        for row, mask in enumerate(one.masks.numpy()):
            ys, xs = np.nonzero(mask)
            if not len(ys):
                continue
            box_w, box_h = xs.max() - xs.min() + 1, ys.max() - ys.min() + 1
            size = math.sqrt(box_w * box_h)
            low, high = ranges[level]
            low = -math.inf if low == min(a for a, _ in ranges) else low
            high = math.inf if high == max(b for _, b in ranges) else high
            if not low <= size < high:
                continue
            cx, cy = xs.mean(), ys.mean()

            def cell(value: float, side: int, grid: int = grid) -> int:
                return min(max(math.floor((value + 0.5) / side * grid), 0), grid - 1)

            middle_x, middle_y = cell(cx, width), cell(cy, height)
            left, right = cell(cx - 0.1 * box_w, width), cell(cx + 0.1 * box_w, width)
            top, bottom = cell(cy - 0.1 * box_h, height), cell(cy + 0.1 * box_h, height)
            for i in range(max(top, middle_y - 1), min(bottom, middle_y + 1) + 1):
                for j in range(max(left, middle_x - 1), min(right, middle_x + 1) + 1):
                    best[i, j] = min(best.get((i, j), (10**9, 0)), (len(ys), row))
        if one.ignore is not None:
            for y, x in torch.nonzero(one.ignore).tolist():
                for i in range(grid):
                    for j in range(grid):
                        in_row = i * height / grid < y + 1 and (i + 1) * height / grid > y
                        if in_row and j * width / grid < x + 1 and (j + 1) * width / grid > x:
                            owner[i, j] = IGNORED
        for (i, j), (_, row) in best.items():
            owner[i, j] = row
        owners.append(owner)
    return owners


def owners_of(targets: SoloTargets, b: int) -> list[np.ndarray]:
    """The same of our targets: class targets with the class of positive cells replaced by the row of the instance."""
    first = sum(targets.n_instances[:b])
    owners = [level[b].clone() for level in targets.class_targets]
    for k, owner in enumerate(owners):
        here = (targets.image == b) & (targets.level == k)
        assert int((owner >= 0).sum()) == int(here.sum())
        owner.view(-1)[targets.cell[here]] = targets.instance[here] - first
    return [owner.numpy() for owner in owners]


@settings(deadline=None, max_examples=15)
@given(
    counts=st.lists(st.integers(0, 7), min_size=1, max_size=3),
    seed=st.integers(0, 9999),
    ranges=st.sampled_from([RANGES, OVERLAPPING]),
    close=st.booleans(),
)
def test_targets_equal_the_plain_form(
    counts: list[int], seed: int, ranges: tuple[tuple[float, float], ...], close: bool
) -> None:
    images = [random_image(seed + 7 * b, n, close=close) for b, n in enumerate(counts)]
    targets = solo_targets(images, grids=GRIDS, ranges_px=ranges, size_hw=SIZE_HW)
    assert targets.n_instances == tuple(counts)
    covered = seen = 0
    for b, one in enumerate(images):
        expected = plain_targets(one, GRIDS, ranges)
        for found, plain, level in zip(owners_of(targets, b), expected, targets.class_targets, strict=True):
            np.testing.assert_array_equal(found, plain)
            classes = np.append(one.class_id.numpy(), [0])[np.maximum(plain, -1)]
            np.testing.assert_array_equal(level[b].numpy(), np.where(plain >= 0, classes, plain))
        covered += len({row for plain in expected for row in plain[plain >= 0].tolist()})
        seen += int(one.masks.any(dim=2).any(dim=1).sum())
    assert targets.n_lost == seen - covered


def targets_of(*images: SoloInstances, ranges: tuple[tuple[float, float], ...] = RANGES) -> SoloTargets:
    return solo_targets(images, grids=GRIDS, ranges_px=ranges, size_hw=SIZE_HW)


def test_an_image_without_instances_is_background() -> None:
    targets = targets_of(image(), image(torch.zeros(SIZE_HW, dtype=torch.bool)))
    assert targets.n_positive == targets.n_lost == 0
    assert all((level == BACKGROUND).all() for level in targets.class_targets)
    assert targets.masks.shape == (1, 8, 16)


def test_one_instance_takes_the_cells_around_its_mass_centre() -> None:
    targets = targets_of(image(disc(31.5, 15.5, 3.0), classes=[2]))
    assert targets.level.unique().tolist() == [0]  # a box of 6×6 px
    assert targets.cell.tolist() == [8 * i + j for i in (3, 4) for j in (3, 4)]
    assert (targets.class_targets[0] == 2).sum() == 4
    assert not (targets.class_targets[1] >= 0).any()


def test_at_most_three_by_three_cells() -> None:
    everything = torch.ones(SIZE_HW, dtype=torch.bool)
    targets = solo_targets(
        [image(everything)], grids=(40,) * 5, ranges_px=((1, 99),) * 5, size_hw=SIZE_HW
    )  # 0.2 of the box are eight of the 40 cells
    assert targets.level.bincount().tolist() == [9] * 5
    assert sorted(targets.cell[:9].tolist()) == [40 * i + j for i in (19, 20, 21) for j in (19, 20, 21)]


def test_the_smallest_instance_has_the_cell() -> None:
    large, small = disc(20, 14, 3.4), disc(20, 14, 2.0)
    targets = targets_of(image(large, small, small, classes=[0, 1, 2]))
    assert targets.instance.unique().tolist() == [1]
    assert targets.n_lost == 2
    turned = targets_of(image(small, large, classes=[1, 0]))
    assert turned.instance.unique().tolist() == [0]


def test_sizes_and_levels() -> None:
    sizes = torch.tensor([0.5, 71.9, 72.0, 583.0, 584.0, 5000.0], dtype=torch.float64)
    assert levels_of_sizes(sizes, TEACHER_RANGES_PX).int().argmax(dim=1).tolist() == [0, 0, 1, 3, 4, 4]
    assert levels_of_sizes(sizes, TEACHER_RANGES_PX).sum(dim=1).tolist() == [1] * 6
    assert torch.nonzero(levels_of_sizes(torch.tensor([100.0]), STUDENT_RANGES_PX))[:, 1].tolist() == [1, 2]
    assert disjoint_ranges((1, 72, 144, 288, 584, 2048)) == TEACHER_RANGES_PX


def test_ignored_pixels_and_cells() -> None:
    ignore = torch.zeros(SIZE_HW, dtype=torch.bool)
    ignore[5, 9] = True
    instance = disc(40, 20, 3.0)
    targets = targets_of(image(instance, ignore=ignore))
    assert torch.nonzero(targets.ignore).tolist() == [[0, 1, 2]]
    for k, grid in enumerate(GRIDS):
        hit = torch.nonzero(targets.class_targets[k][0] == IGNORED).tolist()
        assert hit == [[math.floor(5.5 / 32 * grid), math.floor(9.5 / 64 * grid)]]
    everywhere = targets_of(image(instance, ignore=torch.ones(SIZE_HW, dtype=torch.bool)))
    assert everywhere.n_positive == targets.n_positive > 0
    assert not any((level == BACKGROUND).any() for level in everywhere.class_targets)


def test_quarter_masks() -> None:
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[0, :2, :4] = True  # half of a block
    masks[1, 0, 4:7] = masks[1, 4, 0] = True  # less than half of each: the fullest stays
    masks[2, :4, :4] = masks[2, 4, :4] = True
    assert shrink_masks(masks).int().tolist() == [
        [[1, 0], [0, 0]],
        [[0, 1], [0, 0]],
        [[1, 0], [0, 0]],
        [[0, 0], [0, 0]],
    ]
    assert shrink_masks(masks[:0]).shape == (0, 2, 2)


def random_output(batch: int, seed: int = 0, classes: int = 3, dtype: torch.dtype = torch.float64) -> SoloOutput:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    return SoloOutput(
        [noise(batch, classes, s, s) for s in GRIDS],
        [noise(batch, 4, s, s) for s in GRIDS],
        noise(batch, 4, SIZE_HW[0] // 4, SIZE_HW[1] // 4),
    )


def plain_loss(
    output: SoloOutput,
    images: Sequence[SoloInstances],
    ranges: tuple[tuple[float, float], ...],
    weights: Sequence[Tensor] | None = None,
    pixels: Sequence[Tensor] | None = None,
) -> tuple[float, float]:
    """Dice and focal of the spec, one cell, class and pixel at a time in float64."""
    dices, focal, n_positive = [], 0.0, 0
    for b, one in enumerate(images):
        hidden = np.zeros((8, 16), dtype=bool)
        if one.ignore is not None:
            hidden = one.ignore.numpy().reshape(8, 4, 16, 4).any(axis=(1, 3))
        for k, owner in enumerate(plain_targets(one, GRIDS, ranges)):
            for (i, j), row in np.ndenumerate(owner):
                weight = 1.0 if row < 0 or weights is None else float(weights[b][row])
                for c in range(output.n_classes):
                    z = float(output.class_logits[k][b, c, i, j].detach())
                    p = 1 / (1 + math.exp(-z))
                    if row >= 0 and int(one.class_id[row]) == c:
                        focal += weight * 0.25 * (1 - p) ** 2 * -math.log(p)
                    elif row != IGNORED:
                        focal += weight * 0.75 * p**2 * -math.log(1 - p)
                if row < 0:
                    continue
                n_positive += 1
                kernel, features = output.kernels[k][b, :, i, j].detach(), output.mask_features[b].detach()
                top = small = full = 0.0
                target = shrink_masks(one.masks[row : row + 1])[0]
                for y, x in np.ndindex(8, 16):
                    if hidden[y, x]:
                        continue
                    w = 1.0
                    if pixels is not None:
                        w = float(pixels[b][y, x] if pixels[b].dim() == 2 else pixels[b][row, y, x])
                    p = 1 / (1 + math.exp(-float(kernel @ features[:, y, x])))
                    t = float(target[y, x])
                    top, small, full = top + w * p * t, small + w * p * p, full + w * t * t
                dices.append(weight * (1 - 2 * top / (small + full + 0.002)))
    return sum(dices) / max(n_positive, 1), focal / (n_positive + 1)


PLACES = {
    "none": [image()],
    "one": [image(disc(30, 12, 5), classes=[1])],
    "touching": [image(disc(30, 12, 4), disc(38, 12, 4), classes=[1, 0])],
    "on the border": [image(disc(0, 0, 4), disc(63, 31, 6), disc(64, 10, 3), classes=[0, 1, 2])],
    "all in one cell": [image(*(disc(20 + 0.3 * k, 10, 1.5 + 0.2 * k) for k in range(5)), classes=[0, 1, 2, 1, 0])],
    "two images": [image(disc(30, 12, 5), classes=[1]), image(disc(9, 9, 3), disc(40, 20, 9), classes=[2, 0])],
    "none beside one": [image(), image(disc(30, 12, 5), classes=[1])],
    "ignored": [image(disc(30, 12, 5), classes=[2], ignore=disc(33, 12, 3)), image(ignore=disc(10, 10, 20))],
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_equals_the_plain_form(place: str, weighted: bool) -> None:
    images, output = PLACES[place], random_output(len(PLACES[place]))
    rng = torch.Generator().manual_seed(3)
    weights = [torch.rand(len(one.masks), generator=rng) for one in images] if weighted else None
    # One weight for all instances of the first image, one for each in the others.
    pixels = [torch.rand(*((len(one.masks),) if b else ()), 8, 16, generator=rng) for b, one in enumerate(images)]
    found = solo_loss(output, targets_of(*images), instance_weights=weights, pixel_weights=pixels if weighted else None)
    dice, focal = plain_loss(output, images, RANGES, weights, pixels if weighted else None)
    assert float(found["dice"].detach()) == pytest.approx(dice, rel=1e-9)
    assert float(found["focal"].detach()) == pytest.approx(focal, rel=1e-9)
    assert float(found["loss"].detach()) == pytest.approx(3 * dice + focal, rel=1e-9)


@pytest.mark.parametrize("place", ["none", "two images", "ignored"])
def test_gradient(place: str) -> None:
    images, output = PLACES[place], random_output(len(PLACES[place]))
    targets = targets_of(*images)

    def loss(*tensors: Tensor) -> Tensor:
        return solo_loss(SoloOutput(list(tensors[:5]), list(tensors[5:10]), tensors[10]), targets)["loss"]

    assert torch.autograd.gradcheck(loss, (*output.class_logits, *output.kernels, output.mask_features), fast_mode=True)


def test_every_part_has_a_gradient_even_without_instances() -> None:
    output = random_output(1)
    solo_loss(output, targets_of(image()))["loss"].backward()
    assert all(t.grad is not None for t in (*output.class_logits, *output.kernels, output.mask_features))
    assert not output.mask_features.grad.any()
    assert all(level.grad.abs().min() > 0 for level in output.class_logits)


def test_what_is_ignored_moves_nothing() -> None:
    images = PLACES["ignored"]
    targets, output = targets_of(*images), random_output(2)
    solo_loss(output, targets)["loss"].backward()
    for level, classes in zip(output.class_logits, targets.class_targets, strict=True):
        assert torch.equal((level.grad != 0).all(dim=1), classes != IGNORED)
    hidden = targets.ignore[0]
    assert hidden.any()
    assert not output.mask_features.grad[0][:, hidden].any()
    assert output.mask_features.grad[0][:, ~hidden].any()


def test_literal_values() -> None:
    one = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert float(dice_loss(one, one)) == pytest.approx(1 - 2 / 2.002)
    assert float(dice_loss(torch.full_like(one, 0.5), one)) == pytest.approx(1 - 1 / 1.502)
    assert float(dice_loss(torch.zeros(1, 2), torch.zeros(1, 2))) == 1.0
    weight = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert float(dice_loss(torch.full_like(one, 0.5), one, weight)) == pytest.approx(1 - 1 / 1.252)
    logits, target = torch.zeros(2), torch.tensor([1.0, 0.0])
    assert focal_loss(logits, target).tolist() == pytest.approx([0.0625 * math.log(2), 0.1875 * math.log(2)])
    assert focal_loss(torch.tensor([200.0, -200.0]), target).tolist() == [0.0, 0.0]
    assert focal_loss(torch.tensor([-200.0]), torch.tensor([1.0])).tolist() == [50.0]


def test_an_instance_of_weight_0_is_ignored() -> None:
    images, output = PLACES["two images"], random_output(2)
    weights = [torch.ones(1), torch.tensor([1.0, 0.0])]
    solo_loss(output, targets := targets_of(*images), instance_weights=weights)["loss"].backward()
    mine = targets.instance == 2
    assert mine.any()
    for k, b, cell in zip(
        *(column[mine].tolist() for column in (targets.level, targets.image, targets.cell)), strict=True
    ):
        assert not output.kernels[k].grad[b].flatten(1)[:, cell].any()
        assert not output.class_logits[k].grad[b].flatten(1)[:, cell].any()


def test_two_ranks_equal_one_with_both_images() -> None:
    images, output = PLACES["two images"], random_output(2)
    whole = solo_loss(output, targets_of(*images))
    parts = [targets_of(one) for one in images]
    total = sum(part.n_positive for part in parts)
    found = [solo_loss(output.image(b), part, n_positive=total, n_ranks=2) for b, part in enumerate(parts)]
    for name, value in whole.items():
        torch.testing.assert_close((found[0][name] + found[1][name]) / 2, value)


def test_half_precision_is_computed_in_single() -> None:
    output = random_output(1, dtype=torch.bfloat16)
    found = solo_loss(output, targets_of(*PLACES["one"]))
    assert found["loss"].dtype == torch.float32
    single = SoloOutput([t.float() for t in output.class_logits], [t.float() for t in output.kernels],
                        output.mask_features.float())  # fmt: skip
    torch.testing.assert_close(found["loss"], solo_loss(single, targets_of(*PLACES["one"]))["loss"], rtol=0.02, atol=0)


def test_targets_move_to_a_device() -> None:
    moved = targets_of(*PLACES["ignored"]).to("meta")
    assert {t.device.type for t in (*moved.class_targets, moved.masks, moved.ignore, moved.cell)} == {"meta"}


@pytest.mark.parametrize(
    ("images", "changes", "message"),
    [
        ([], {}, "images: expected at least one"),
        ([image()], {"grids": (4,)}, "ranges_px: expected 1 ranges, one for each grid, got 5"),
        ([image()], {"ranges_px": ((1, 1),) * 5}, "ranges_px: expected low < high"),
        ([image()], {"size_hw": (30, 64)}, r"size_hw: expected multiples of 4, got \(30, 64\)"),
        ([image()], {"size_hw": (32, 32)}, r"masks of image 0: expected shape \(0, 32, 32\)"),
        ([image(disc(1, 1, 1), classes=[])], {}, r"masks of image 0: expected shape \(0, 32, 64\), got \(1, 32, 64\)"),
        ([image(ignore=torch.zeros(2, 2))], {}, r"ignore of image 0: expected \(32, 64\), got \(2, 2\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    images: list[SoloInstances], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        solo_targets(images, **{"grids": GRIDS, "ranges_px": RANGES, "size_hw": SIZE_HW} | changes)
