"""Draw docs/images/shapes.jpg: scenes of shapes and their masks. Run: python docs/images/make_shapes.py."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pipeline.datasets.shape_scene.outlines import KINDS
from pipeline.datasets.shape_scene.scene import render_shapes

ROUGHNESS = (0.1, 0.3, 0.3, 0.6, 1.0)
SIZE_HW = (96, 96)
ENLARGED_PX = 160
COLORS = np.array(
    [[0, 0, 0], [230, 25, 75], [60, 180, 75], [255, 225, 25], [67, 99, 216], [245, 130, 49], [145, 30, 180],
     [70, 240, 240], [240, 50, 230], [250, 190, 212], [170, 110, 40]], np.uint8
)  # fmt: skip


def enlarge(pixels: np.ndarray, method: int) -> np.ndarray:
    """Enlarge one tile."""
    return cv2.resize(pixels, (ENLARGED_PX, ENLARGED_PX), interpolation=method)


if __name__ == "__main__":
    columns = []
    for number, roughness in enumerate(ROUGHNESS):
        scene = render_shapes(
            np.random.default_rng([5, number]),
            size_hw=SIZE_HW, n_objects=10, size_px=(8, 48), classes=tuple(KINDS), roughness=roughness,
        )  # fmt: skip
        classes = np.concatenate([[0], scene.class_index + 1])[scene.label_map]
        masks = COLORS[classes]
        masks[
            cv2.morphologyEx(scene.label_map.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
        ] //= 2
        columns.append(
            np.concatenate([enlarge(scene.image, cv2.INTER_CUBIC), enlarge(masks, cv2.INTER_NEAREST)], axis=0)
        )
    Image.fromarray(np.concatenate(columns, axis=1)).save(Path(__file__).with_name("shapes.jpg"), quality=85)
