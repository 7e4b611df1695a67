"""The network, its targets, its loss and its inference together: eight images are learned by heart."""

import numpy as np
import torch

from pipeline.losses.solo import SoloInstances, disjoint_ranges, solo_loss, solo_targets
from pipeline.models.matrix_nms import mask_iou
from pipeline.models.solo_inference import DetectOptions, detect
from pipeline.models.solov2 import Solov2Options, build_solov2
from pipeline.pseudo_labels.point_guided import point_guided

SIDE, STEPS = 64, 90
OPTIONS = Solov2Options(fpn_width=16, tower_width=16, kernel_dim=16, mask_width=16, grids=(8, 7, 6, 5, 4))
RANGES = disjoint_ranges((1, 12, 16, 20, 26, 99))


def scene(seed: int) -> tuple[torch.Tensor, SoloInstances]:
    """Three squares, discs or stripes: one in each of three corners, so that none hides another."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    rgb, masks, classes = rng.normal(0.4, 0.03, (3, SIDE, SIDE)), [], []
    for corner in rng.permutation(4)[:3]:
        cx, cy = 16 + 32 * (corner % 2) + rng.integers(-4, 5), 16 + 32 * (corner // 2) + rng.integers(-4, 5)
        radius, kind = rng.integers(6, 12), int(rng.integers(0, 2))
        square = np.maximum(abs(x - cx), abs(y - cy)) <= radius
        mask = square if kind else (x - cx) ** 2 + (y - cy) ** 2 <= radius**2
        rgb[:, mask] = np.array([[0.9, 0.2, 0.2], [0.2, 0.3, 0.9]])[kind][:, None] + rng.normal(
            0, 0.03, (3, mask.sum())
        )
        masks.append(mask)
        classes.append(kind)
    return torch.from_numpy(rgb.clip(0, 1)).float(), SoloInstances(
        torch.from_numpy(np.stack(masks)), torch.tensor(classes)
    )


def test_eight_images_are_learned_by_heart() -> None:
    torch.manual_seed(0)
    scenes = [scene(seed) for seed in range(8)]
    images, truth = torch.stack([rgb for rgb, _ in scenes]), [one for _, one in scenes]
    targets = solo_targets(truth, grids=OPTIONS.grids, ranges_px=RANGES, size_hw=(SIDE, SIDE))
    assert targets.n_lost == 0
    network = build_solov2(OPTIONS, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    for _ in range(STEPS):
        loss = solo_loss(network(images), targets)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        output = network(images)

    found = detect(output, options=DetectOptions(min_area=(0,) * 5, score_thr=0.3))
    ious, right = [], 0
    for b, one in enumerate(truth):
        small = targets.masks[3 * b : 3 * b + 3]
        iou = mask_iou(small, found[b].masks_prob > 0.5)
        ious += iou.amax(dim=1).tolist()
        right += sum(int(found[b].class_id[k]) == int(c) for k, c in zip(iou.argmax(dim=1), one.class_id, strict=True))
    assert np.mean(ious) > 0.85
    assert right >= 23
    assert abs(sum(len(one) for one in found) - 24) <= 2

    guided = []
    for b, one in enumerate(truth):
        ys, xs = (np.array([np.nonzero(m)[axis].mean() for m in one.masks.numpy()]) for axis in (0, 1))
        points = np.stack([xs, ys], axis=1)
        rows = point_guided(output.image(b), points, one.class_id, size_hw=(SIDE, SIDE), padded_hw=(SIDE, SIDE))
        guided += mask_iou(targets.masks[3 * b : 3 * b + 3], rows.masks_prob() > 0.5).diag().tolist()
    assert np.mean(guided) > 0.85
