"""The plain way from points to masks: a loop of ``SamPredictor.predict``, with full-frame masks.

It calls ``set_image``, and for every head ``predict`` with the point, and with the point and a box, three masks each;
takes the mask with the best score; lays it into a full frame; clips it to the exclusion circle there; encodes the full
frame as run lengths. No ranking, no holes filled, no contested pixels: all that comes free.

The image is set whole, as Segment Anything's examples do it, or tile by tile, as a user writes it who knows that small
heads need that. The first form's masks are too coarse to be of use where the image is much larger than the model's
input.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rlemasklib import RLEMask
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from pipeline.annotators.base import MarkedImage
from pipeline.geometry.tiles import Tile


@dataclass(frozen=True)
class LoopSeconds:
    """What the loop takes, each part extrapolated linearly from the heads and tiles of a sample to all.

    Args:
        set_image_s: Encoding all tiles.
        predict_s: Both predictions of all heads, at the tile's resolution.
        frame_s: Choosing, laying into full frames and clipping.
        encode_s: Run lengths of full frames.
        n_sampled: Heads in the sample.
    """

    set_image_s: float
    predict_s: float
    frame_s: float
    encode_s: float
    n_sampled: int

    @property
    def total_s(self) -> float:
        """Seconds for all heads."""
        return self.set_image_s + self.predict_s + self.frame_s + self.encode_s


def whole_image(marked: MarkedImage) -> list[Tile]:
    """One tile, the whole image."""
    return [Tile(0, 0, max(marked.size_hw), np.arange(len(marked.points_xy)))]


def loop_seconds(
    sam: Sam, marked: MarkedImage, tiles: list[Tile], boxes_xyxy: NDArray[np.float64], *, sample: int
) -> LoopSeconds:
    """Time the loop over an even sample of the heads.

    Args:
        sam: The network.
        marked: Image, heads and circles.
        tiles: Every head in one of them.
        boxes_xyxy: (N, 4) box prompts, image pixels.
        sample: Number of heads, at most all.
    """
    n_heads = len(marked.points_xy)
    places = [(tile, int(row)) for tile in tiles for row in tile.rows]
    picks = np.unique(np.linspace(0, n_heads - 1, min(sample, n_heads)).round().astype(int))
    predictor = SamPredictor(sam)
    spent = dict.fromkeys(("set_image", "predict", "frame", "encode"), 0.0)
    current: Tile | None = None
    n_tiles = 0
    for tile, row in (places[pick] for pick in picks):
        clock = time.perf_counter()
        if tile is not current:
            part = marked.image[tile.y0 : tile.y0 + tile.side_px, tile.x0 : tile.x0 + tile.side_px]
            predictor.set_image(part)
            current, n_tiles = tile, n_tiles + 1
            clock = _add(spent, "set_image", clock)
        masks, scores = predict_both(predictor, tile, marked.points_xy[row], boxes_xyxy[row])
        clock = _add(spent, "predict", clock)
        frame = clip_in_frame(masks[scores.argmax()], tile, marked, row)
        clock = _add(spent, "frame", clock)
        RLEMask.from_array(frame.view(np.uint8)).to_dict()
        _add(spent, "encode", clock)
    share = n_heads / len(picks)
    return LoopSeconds(
        set_image_s=spent["set_image"] * len(tiles) / n_tiles,
        predict_s=spent["predict"] * share,
        frame_s=spent["frame"] * share,
        encode_s=spent["encode"] * share,
        n_sampled=len(picks),
    )


def predict_both(
    predictor: SamPredictor, tile: Tile, point_xy: NDArray[np.float64], box_xyxy: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Ask with the point alone, then with point and box: masks (6, h, w) at the tile's resolution, scores (6,)."""
    corner = np.array([tile.x0, tile.y0])
    prompt = {"point_coords": (point_xy - corner)[None], "point_labels": np.ones(1), "multimask_output": True}
    masks, scores, _ = predictor.predict(**prompt)
    box_masks, box_scores, _ = predictor.predict(**prompt, box=box_xyxy - np.tile(corner, 2))
    return np.concatenate([masks, box_masks]), np.concatenate([scores, box_scores])


def clip_in_frame(mask: NDArray[np.bool_], tile: Tile, marked: MarkedImage, row: int) -> NDArray[np.bool_]:
    """Lay a tile's mask into the full frame and keep what lies in the circle: (H, W) bool."""
    frame = np.zeros(marked.size_hw, bool)
    frame[tile.y0 : tile.y0 + mask.shape[0], tile.x0 : tile.x0 + mask.shape[1]] = mask
    x, y = marked.points_xy[row]
    rows, columns = np.ogrid[: marked.size_hw[0], : marked.size_hw[1]]
    frame &= (columns - x) ** 2 + (rows - y) ** 2 <= marked.radius_px[row] ** 2
    return frame


def _add(spent: dict[str, float], part: str, since: float) -> float:
    now = time.perf_counter()
    spent[part] += now - since
    return now
