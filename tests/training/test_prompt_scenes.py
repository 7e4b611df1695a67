import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.annotators.prompting import nearest_others
from pipeline.datasets.crowd_scene.scene import Scene, render_scene
from pipeline.geometry.nnec import nnec_radii
from pipeline.models.compact_sam import INPUT_PX, LOGIT_PX, OFFSET_UNIT_PX, STRIDE
from pipeline.training.prompt_scenes import (
    MAX_RADIUS_PX,
    NEGATIVES,
    CrowdPrompts,
    PromptableOptions,
    draw_scene,
    sample_prompts,
)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return render_scene(np.random.default_rng(2), size_hw=(128, 128), n_heads=14)


@pytest.mark.parametrize("seed", range(8))
def test_prompts_fit_their_targets(scene: Scene, seed) -> None:
    batch = sample_prompts(np.random.default_rng(seed), scene, 128, 6)
    assert batch.image.shape == (3, INPUT_PX, INPUT_PX)
    assert batch.image.dtype == torch.uint8
    assert batch.points_xy.shape == (6, 2)
    assert batch.boxes_xyxy.shape == (6, 4)
    assert batch.targets.shape == batch.circles.shape == (6, LOGIT_PX, LOGIT_PX)
    assert batch.kind in ("point", "box", "both")
    assert ((batch.points_xy >= 0) & (batch.points_xy <= INPUT_PX - 1)).all()
    assert ((batch.boxes_xyxy >= 0) & (batch.boxes_xyxy <= INPUT_PX - 1)).all()
    assert ((batch.targets >= 0) & (batch.targets <= 1)).all()
    cells = (batch.points_xy / STRIDE).floor().long().clamp(max=LOGIT_PX - 1)
    for target, circle, (x, y) in zip(batch.targets, batch.circles, cells, strict=True):
        near = np.s_[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        assert target[near].max() > 0  # the prompt lies on its person…
        assert circle[near].any()  # …inside or beside its circle
    people = batch.layout[0] > 0.5
    covered = batch.targets.max(0).values
    assert people[covered == 1].all()
    assert (batch.targets.sum(0) <= 1 + 1e-6).all()  # no two people share a pixel


def test_the_layout_points_to_the_heads(scene: Scene) -> None:
    batch = sample_prompts(np.random.default_rng(1), scene, 128, len(scene.points_xy))
    person, head, border, near = batch.layout[:4].bool().numpy()
    assert set(np.unique(batch.layout[:4])) == {0, 1}
    assert not (near & ~person).any()
    assert not (head & ~person).any()
    assert 0 < head.sum() < person.sum()
    assert not batch.layout[4:, ~near].any()
    rows, columns = np.nonzero(near)
    offsets_px = batch.layout[4:, rows, columns].T.numpy() * OFFSET_UNIT_PX
    found_xy = np.stack([columns, rows], 1) * STRIDE + (STRIDE - 1) / 2 + offsets_px
    heads_xy = (scene.points_xy + 0.5) * 2 - 0.5
    mirrored_xy = heads_xy * [-1, 1] + [INPUT_PX - 1, 0]
    distance = [np.hypot(*(found_xy[:, None] - one[None]).transpose(2, 0, 1)) for one in (heads_xy, mirrored_xy)]
    nearest = min(distance, key=lambda one: one.min(1).sum())
    assert nearest.min(1).max() < 0.01
    assert len(set(nearest.argmin(1))) == len(scene.points_xy)
    radii = nnec_radii(scene.points_xy, size_hw=(128, 128), min_radius_px=3.0, max_radius_frac=0.25).radius_px * 2
    assert (np.hypot(*offsets_px.T) < 1.5 * radii[nearest.argmin(1)] + 1e-3).all()
    flat = ~border[:, :-1] & ~border[:, 1:]  # a person begins or ends in a border cell, or between two cells
    assert border.any()
    assert (person[:, :-1] == person[:, 1:])[flat].mean() > 0.95


def test_a_mirrored_image_has_mirrored_prompts(scene: Scene) -> None:
    batches = [sample_prompts(np.random.default_rng(seed), scene, 128, 3) for seed in range(12)]
    first = batches[0].image
    images = [torch.equal(batch.image, first) for batch in batches]
    mirrored = [torch.equal(batch.image.flip(2), first) for batch in batches]
    assert [a != b for a, b in zip(images, mirrored, strict=True)] == [True] * 12
    assert any(images[1:])
    assert any(mirrored)
    for batch, turned in zip(batches, mirrored, strict=True):
        expected = batches[0].layout[0]
        same = expected.flip(1) if turned else expected
        assert (batch.layout[0] == same).float().mean() > 0.94  # cells begin at the other pixel of a pair


def test_fewer_people_than_prompts() -> None:
    alone = render_scene(np.random.default_rng(0), size_hw=(96, 96), n_heads=1)
    batch = sample_prompts(np.random.default_rng(0), alone, 96, 8)
    assert len(batch.points_xy) == len(batch.targets) == 1


def test_circles_are_those_of_the_annotator(scene: Scene) -> None:
    batch = sample_prompts(np.random.default_rng(3), scene, 128, len(scene.points_xy))
    radii = nnec_radii(scene.points_xy, size_hw=(128, 128)).radius_px * INPUT_PX / 128
    radii = radii[radii <= MAX_RADIUS_PX]
    assert 0 < len(radii) < len(scene.points_xy)
    area = batch.circles.sum((1, 2)) * STRIDE**2
    inside = np.sort(np.pi * (np.sort(radii)) ** 2)
    # Cells that a circle only touches count whole; circles at the border are cut.
    assert (np.sort(area.numpy()) <= inside * 1.5 + 60).all()
    assert area.max() >= 0.7 * inside.max() / 4


def test_a_step_is_a_pure_function_of_seed_and_number() -> None:
    options = PromptableOptions(steps=8, images_per_step=1, prompts_per_image=2)
    forward = [CrowdPrompts(options)[step] for step in range(4)]
    back = CrowdPrompts(options)
    for step in (3, 0, 2):
        for one, other in zip(forward[step], back[step], strict=True):
            assert one.kind == other.kind
            for name in ("image", "points_xy", "boxes_xyxy", "targets", "circles", "layout", "negatives_xy"):
                assert torch.equal(getattr(one, name).nan_to_num(-1), getattr(other, name).nan_to_num(-1))
    assert not torch.equal(forward[0][0].points_xy, forward[1][0].points_xy)
    assert len(back) == 8
    assert len(list(DataLoader(back, batch_size=None, sampler=[2]))) == 1


def test_negatives_are_the_annotators(scene: Scene) -> None:
    shapes = set()
    for seed in range(12):
        batch = sample_prompts(np.random.default_rng(seed), scene, 128, len(scene.points_xy))
        shapes.add(batch.negatives_xy.shape[1])
        heads_xy = (scene.points_xy + 0.5) * 2 - 0.5
        radii = nnec_radii(scene.points_xy, size_hw=(128, 128), min_radius_px=3.0, max_radius_frac=0.25).radius_px * 2
        expected = nearest_others(heads_xy, radii, batch.negatives_xy.shape[1])[radii <= MAX_RADIUS_PX]
        found = batch.negatives_xy.double().numpy()
        mirrored = expected * [-1, 1] + [INPUT_PX - 1, 0]
        for one in (expected, mirrored):
            wanted = {tuple(np.round(row, 2).ravel()) for row in np.nan_to_num(one)}
            if {tuple(np.round(row, 2).ravel()) for row in np.nan_to_num(found)} == wanted:
                break
        else:
            pytest.fail("neither the heads' negatives nor their mirror image")
    assert shapes == {0, NEGATIVES}


def test_a_tile_is_a_part_of_its_scene() -> None:
    scene = render_scene(np.random.default_rng(5), size_hw=(384, 384), n_heads=40)
    radii = nnec_radii(scene.points_xy, size_hw=(384, 384)).radius_px
    corners = set()
    for seed in range(12):
        batch = sample_prompts(np.random.default_rng(seed), scene, INPUT_PX, 99)
        image = batch.image.numpy().transpose(1, 2, 0)
        found = [
            (x, y, turned)
            for x in range(129)
            for y in range(129)
            for turned, tile in ((False, image), (True, image[:, ::-1]))
            if np.array_equal(scene.image[y, x : x + INPUT_PX], tile[0])
            and np.array_equal(scene.image[y : y + INPUT_PX, x : x + INPUT_PX], tile)
        ]
        ((x, y, turned),) = found
        corners.add((x, y))
        heads_xy = scene.points_xy - [x, y]
        shown = ((heads_xy > -0.5) & (heads_xy < INPUT_PX - 0.5)).all(1)
        assert len(batch.points_xy) == (shown & (radii <= MAX_RADIUS_PX)).sum() > 0
        if turned:
            heads_xy = heads_xy * [-1, 1] + [INPUT_PX - 1, 0]
        negatives = batch.negatives_xy.double().numpy().reshape(-1, 2)
        negatives = negatives[~np.isnan(negatives).any(1)]
        assert all(np.abs(heads_xy[shown] - one).max(1).min() < 1e-3 for one in negatives)
    assert len(corners) > 6


def test_scenes_have_the_circles_that_planned_tiles_have() -> None:
    medians = []
    for seed in range(30):
        scene, tile_px = draw_scene(np.random.default_rng(seed))
        side = scene.image.shape[0]
        assert tile_px <= side <= 1.5 * tile_px
        assert 256 / 4 < tile_px < 256 / 0.7
        medians.append(np.median(nnec_radii(scene.points_xy, size_hw=(side, side)).radius_px) * INPUT_PX / tile_px)
    assert 25 < np.median(medians) < 42
    assert 12 < min(medians) < max(medians) < 80
