"""Draw docs/images/synthetic.jpg: crowds of 5 to 3,000 heads. Run: python docs/images/make_synthetic.py."""

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.datasets.crowd_scene.scene import render_scene

COUNTS = (5, 15, 50, 150, 600, 3000)
SIZE_HW = (300, 400)

if __name__ == "__main__":
    tiles = [
        render_scene(np.random.default_rng([41, count]), size_hw=SIZE_HW, n_heads=count, roughness=0.6).image
        for count in COUNTS
    ]
    rows = [np.concatenate(tiles[start : start + 3], axis=1) for start in (0, 3)]
    Image.fromarray(np.concatenate(rows)).save(Path(__file__).with_name("synthetic.jpg"), quality=85)
