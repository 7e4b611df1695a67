"""The drawing of crowds: exact masks, the same scene for the same seed, and the frozen held-out set."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from pipeline.datasets.crowd_scene.camera import photograph
from pipeline.datasets.crowd_scene.held_out import (
    DENSITIES,
    HELD_OUT_FILE,
    N_SCENES,
    SIZE_HW,
    HeldOutScene,
    draw_held_out,
    held_out_scenes,
    require_frozen,
    truth_digest,
)
from pipeline.datasets.crowd_scene.noise import cloth_color, fractal_noise, hair_color, hsv_color, skin_color
from pipeline.datasets.crowd_scene.scene import Scene, render_scene
from pipeline.errors import PipelineError


def draw(seed: int, size_hw=(96, 128), n_heads=20, **options) -> Scene:
    return render_scene(np.random.default_rng(seed), size_hw=size_hw, n_heads=n_heads, **options)


def check_scene(scene: Scene, size_hw: tuple[int, int]) -> None:
    """What holds for every scene: each head's point lies on its own visible mask, labels are dense."""
    count = len(scene.points_xy)
    assert scene.image.shape == (*size_hw, 3)
    assert scene.image.dtype == np.uint8
    assert scene.label_map.shape == size_hw
    assert scene.label_map.dtype == np.int32
    assert scene.points_xy.shape == scene.boxes_wh_px.shape == (count, 2)
    assert np.unique(scene.label_map[scene.label_map > 0]).tolist() == list(range(1, count + 1))
    x, y = np.round(scene.points_xy).astype(int).T if count else (np.zeros(0, int), np.zeros(0, int))
    assert scene.label_map[y, x].tolist() == list(range(1, count + 1))
    assert (scene.boxes_wh_px > 0).all()


@pytest.mark.parametrize(
    ("size_hw", "n_heads"), [((96, 128), 5), ((96, 128), 60), ((128, 96), 150), ((16, 16), 1), ((40, 300), 30)]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_point_lies_on_its_own_visible_person(seed, size_hw, n_heads) -> None:
    scene = draw(seed, size_hw, n_heads)
    check_scene(scene, size_hw)
    assert 0.8 * n_heads <= len(scene.points_xy) <= n_heads


def test_a_scene_without_heads() -> None:
    scene = draw(0, n_heads=0)
    check_scene(scene, (96, 128))
    assert scene.image.std() > 1


@pytest.mark.slow
def test_three_thousand_heads() -> None:
    scene = draw(1, (480, 640), 3000)
    check_scene(scene, (480, 640))
    assert len(scene.points_xy) >= 2900


def test_a_seed_fixes_the_scene() -> None:
    first, again, other = draw(7), draw(7), draw(8)
    for name in ("image", "points_xy", "boxes_wh_px", "label_map"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.image != other.image).any()


def test_heads_have_the_size_that_was_asked_for() -> None:
    scene = draw(3, (200, 200), 20, unit_px_range=(5.0, 9.0))
    heights = scene.boxes_wh_px[:, 1]
    assert heights.min() >= 2 * 5.0 * 0.75
    assert heights.max() <= 2 * 9.0 * 1.25
    lower = scene.points_xy[:, 1] > np.median(scene.points_xy[:, 1])
    assert heights[lower].mean() > heights[~lower].mean()  # nearer people are larger


def test_roughness_troubles_the_picture_and_nothing_else() -> None:
    plain, half, rough = (draw(11, roughness=roughness) for roughness in (0.0, 0.5, 1.0))
    np.testing.assert_array_equal(plain.label_map, rough.label_map)
    np.testing.assert_array_equal(plain.points_xy, rough.points_xy)
    far = np.abs(plain.image.astype(int) - rough.image).mean()
    near = np.abs(plain.image.astype(int) - half.image).mean()
    assert 0 < near < far


def test_people_look_different_from_what_is_behind_them() -> None:
    differences = []
    for seed in range(4):
        scene = draw(seed, (128, 128), 12, roughness=0.0)
        shown = scene.label_map > 0
        differences.append(np.abs(scene.image[shown].mean(0) - scene.image[~shown].mean(0)).max())
    assert np.median(differences) > 10


def test_a_photograph_keeps_range_and_shape() -> None:
    for seed in range(6):
        pixels = photograph(np.random.default_rng(seed), np.full((20, 30, 3), 0.5, np.float32))
        assert pixels.shape == (20, 30, 3)
        assert pixels.dtype == np.uint8


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 50), (64, 64)])
def test_noise_fits_any_size(size_hw) -> None:
    noise = fractal_noise(np.random.default_rng(0), size_hw)
    assert noise.shape == size_hw
    assert np.abs(noise).max() <= 2.5


def test_colours() -> None:
    assert hsv_color(0.0, 1.0, 1.0).tolist() == [1, 0, 0]
    assert hsv_color(1 / 3, 1.0, 0.5).tolist() == pytest.approx([0, 0.5, 0])
    assert hsv_color(0.7, 0.0, 0.25).tolist() == [0.25, 0.25, 0.25]
    rng = np.random.default_rng(0)
    for pick in (cloth_color, skin_color, hair_color):
        colors = np.array([pick(rng) for _ in range(50)])
        assert colors.shape == (50, 3)
        assert colors.min() >= 0
        assert colors.max() <= 1
        assert len(np.unique(colors, axis=0)) > 40


def test_the_plan_of_the_held_out_scenes() -> None:
    plans = held_out_scenes()
    assert len(plans) == N_SCENES == 64
    assert len({plan.seed for plan in plans}) == 64
    for plan in plans:
        low, high = DENSITIES[plan.density]
        assert low <= plan.n_heads <= high
    assert [plan.density for plan in plans[:4]] == ["sparse", "medium", "dense", "sparse"]


@pytest.mark.slow
def test_the_held_out_scenes_are_the_frozen_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = held_out_scenes()
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:  # half the time on two cores
        scene_of = dict(zip([plan.seed for plan in plans], pool.map(HeldOutScene.render, plans), strict=True))
    monkeypatch.setattr(HeldOutScene, "render", lambda plan: scene_of[plan.seed])
    drawn = draw_held_out()
    frozen = json.loads(HELD_OUT_FILE.read_text())
    assert len(drawn) == frozen["n_scenes"]
    assert sum(len(scene.points_xy) for _, scene in drawn) == frozen["n_heads"]
    for _, scene in drawn[::8]:
        check_scene(scene, SIZE_HW)
    assert truth_digest([scene for _, scene in drawn]) == frozen["truth_sha256"]


def test_changed_scenes_are_refused() -> None:
    plan = held_out_scenes()[0]
    assert np.array_equal(plan.render().label_map, plan.render().label_map)
    with pytest.raises(PipelineError, match="the held-out scenes changed: SHA-256 of their truth is"):
        require_frozen([draw(0)])
