"""Tiles must leave no seams: a head near a tile's border gets the mask it would get in the tile's middle."""

import numpy as np
import pytest
import torch

from pipeline.annotators import prompting
from pipeline.annotators.edp_sam import EdpSamAnnotator, EdpSamOptions
from pipeline.annotators.quality import mark_scene
from pipeline.datasets.crowd_scene.scene import render_scene
from pipeline.geometry.tiles import Tile, plan_tiles
from pipeline.models.sam import load_sam

OPTIONS = EdpSamOptions(prompts=("head",))


def mask_ious(first, second) -> np.ndarray:
    ious = []
    for row in range(len(first)):
        frames = []
        for rows in (first, second):
            frame = np.zeros(rows.size_hw, bool)
            window = rows.window(row)
            height, width = window.mask.shape
            frame[window.y0 : window.y0 + height, window.x0 : window.x0 + width] = window.mask
            frames.append(frame)
        union = (frames[0] | frames[1]).sum()
        ious.append((frames[0] & frames[1]).sum() / union if union else 1.0)
    return np.array(ious)


@pytest.mark.slow
def test_masks_near_tile_borders_are_those_of_a_centred_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    marked = mark_scene(render_scene(np.random.default_rng(7), size_hw=(320, 320), n_heads=70))
    annotator = EdpSamAnnotator(load_sam("compact", torch.device("cpu")), OPTIONS)
    usual = annotator.annotate(marked)
    tiles = plan_tiles(
        marked.points_xy, marked.radius_px, size_hw=marked.size_hw, model_px=256, min_radius_model_px=36.0
    )
    assert len(tiles) >= 6
    to_border_px = np.zeros(len(marked.points_xy))
    centred = []
    for tile in tiles:
        corner = np.array([tile.x0, tile.y0])
        inner = [
            marked.points_xy[tile.rows] - corner + np.where(corner == 0, 1e3, 0),  # the image's own border is no seam
            corner
            + tile.side_px
            - marked.points_xy[tile.rows]
            + np.where(corner + tile.side_px >= marked.size_hw[::-1], 1e3, 0),
        ]
        to_border_px[tile.rows] = np.minimum(*inner).min(1) / tile.side_px
        for row in tile.rows:
            first = np.clip(np.round(marked.points_xy[row] - tile.side_px / 2), 0, 320 - tile.side_px).astype(int)
            centred.append(Tile(int(first[0]), int(first[1]), tile.side_px, np.array([row])))
    monkeypatch.setattr(prompting, "plan_tiles", lambda *_, **__: centred)
    ious = mask_ious(usual, annotator.annotate(marked))
    near = to_border_px < np.median(to_border_px)
    assert near.sum() >= 20
    assert ious[near].mean() > 0.85
    assert ious[near].mean() > ious[~near].mean() - 0.06
