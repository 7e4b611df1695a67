import numpy as np
import pytest

from pipeline.annotators.base import MarkedImage
from pipeline.annotators.disc import DiscAnnotator
from pipeline.annotators.quality import (
    CircleAnnotator,
    held_out_quality,
    judge_scene,
    mark_scene,
)
from pipeline.datasets.crowd_scene.held_out import HeldOutScene
from pipeline.datasets.crowd_scene.scene import Scene, render_scene
from pipeline.geometry.nnec import nnec_radii
from pipeline.masks.instances import Instances
from tests.annotators.fake_model import circle_masks, full_masks, mark


def full_frame_oracle(instances: Instances, marked: MarkedImage, truth: np.ndarray) -> np.ndarray:
    """IoU in the circle, leak and fallback of each row, with whole images."""
    figures = []
    for row, (mask, circle) in enumerate(zip(full_masks(instances), circle_masks(marked), strict=True)):
        seen, wanted = mask & circle, (truth == row + 1) & circle
        union = (seen | wanted).sum()
        others = (truth > 0) & (truth != row + 1)
        leaks = (seen & others).sum() > 0.1 * seen.sum()
        figures.append(((seen & wanted).sum() / union if union else 1.0, leaks, instances.status[row] != "ok"))
    return np.array(figures, float).reshape(-1, 3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_windows_agree_with_whole_images(seed) -> None:
    rng = np.random.default_rng(seed)
    size_hw = (40, 50)
    points_xy = rng.uniform(-1, 1.02, (9, 2)) * [50, 40]
    marked = mark(points_xy, size_hw, radius_px=rng.uniform(3, 12, 9))
    truth = rng.integers(0, 10, (8, 10)).repeat(5, 0).repeat(5, 1).astype(np.int32)
    guess = np.where(rng.random((8, 10)).repeat(5, 0).repeat(5, 1) < 0.6, truth, 0)
    guess[:, :12] = np.roll(truth, 5, 0)[:, :12]
    instances = Instances.from_label_map(
        guess,
        point_id=np.arange(9),
        points_xy=points_xy,
        radius_px=marked.radius_px,
        source="head",
        status=["ok", "fallback", "empty"] * 3,
    )
    np.testing.assert_allclose(judge_scene(instances, marked, truth), full_frame_oracle(instances, marked, truth))


def test_the_truth_itself_is_perfect() -> None:
    scene = render_scene(np.random.default_rng(3), size_hw=(64, 80), n_heads=12)
    marked = mark_scene(scene)
    truth = Instances.from_label_map(
        scene.label_map,
        point_id=marked.point_id,
        points_xy=marked.points_xy,
        radius_px=marked.radius_px,
        source="truth",
        status="ok",
    )
    np.testing.assert_array_equal(judge_scene(truth, marked, scene.label_map), [[1, 0, 0]] * len(truth))
    np.testing.assert_array_equal(marked.radius_px, nnec_radii(scene.points_xy, size_hw=(64, 80)).radius_px)


def test_means_over_heads_by_density() -> None:
    def scene(points_xy) -> Scene:
        label_map = np.zeros((32, 32), np.int32)
        for row, (x, y) in enumerate(points_xy):
            label_map[int(y), int(x)] = row + 1
        points = np.array(points_xy, np.float64)
        return Scene(np.zeros((32, 32, 3), np.uint8), points, np.ones((len(points), 2)), label_map)

    scenes = [
        (HeldOutScene("sparse", 1, (0, 0)), scene([(10, 10)])),
        (HeldOutScene("dense", 2, (0, 1)), scene([(10, 10), (13, 10)])),
    ]
    found = held_out_quality(scenes, {"circle": CircleAnnotator(), "disc": DiscAnnotator()})
    assert list(found) == ["circle", "disc"]
    alone = (np.hypot(*np.mgrid[-10:11, -10:11]) <= 8).sum()  # max_radius_frac 0.25
    both = (np.hypot(*np.mgrid[-10:11, -10:11]) <= 3).sum()
    assert found["circle"]["sparse"].circle_iou == pytest.approx(1 / alone)
    assert found["circle"]["dense"].circle_iou == pytest.approx(1 / both)
    assert found["circle"]["all"].n_heads == 3
    assert found["circle"]["all"].circle_iou == pytest.approx((1 / alone + 2 / both) / 3)
    assert found["circle"]["all"].leak_share == 0  # one pixel of 29 is less than a tenth
    assert found["disc"]["dense"].circle_iou > found["circle"]["dense"].circle_iou
    assert found["disc"]["all"].fallback_share == 0


def test_a_mask_on_the_neighbour_leaks() -> None:
    marked = mark([[5.0, 5.0], [9.0, 5.0]], (11, 16), radius_px=[4.0, 4.0])
    label_map = np.zeros((11, 16), np.int32)
    label_map[:, :7], label_map[:, 7:] = 1, 2
    swapped = Instances.from_label_map(
        np.where(label_map == 1, 2, 1),
        point_id=np.arange(2),
        points_xy=marked.points_xy,
        radius_px=marked.radius_px,
        source="head",
        status=["ok", "fallback"],
    )
    figures = judge_scene(swapped, marked, label_map)
    assert figures[:, 0].tolist() == [0, 0]
    assert figures[:, 1].tolist() == [1, 1]
    assert figures[:, 2].tolist() == [0, 1]
