import numpy as np
import pytest
from segment_anything import SamPredictor

from benchmarks import sam_loop
from benchmarks.sam_loop import clip_in_frame, loop_seconds, predict_both
from pipeline.geometry.tiles import Tile
from tests.annotators.fake_model import circle_masks, mark
from tests.benchmarks.tiny_sam import tiny_sam

POINTS_XY = [[4.0, 5.0], [20.0, 8.0], [50.0, 40.0], [70.0, 44.0]]


@pytest.fixture
def marked():
    return mark(POINTS_XY, (48, 80))


@pytest.fixture
def tiles():
    return [Tile(0, 0, 40, np.array([0, 1])), Tile(40, 8, 40, np.array([2, 3]))]


def test_six_masks_at_the_tiles_resolution(marked, tiles) -> None:
    predictor = SamPredictor(tiny_sam())
    predictor.set_image(marked.image[:40, :40])
    masks, scores = predict_both(predictor, tiles[0], np.array([4.0, 5.0]), np.array([2.0, 2.0, 9.0, 9.0]))
    assert masks.shape == (6, 40, 40)
    assert masks.dtype == bool
    assert scores.shape == (6,)


def test_a_mask_is_clipped_in_the_full_frame(marked, tiles) -> None:
    mask = np.ones((40, 40), bool)
    mask[:, 12:] = False
    frame = clip_in_frame(mask, tiles[1], marked, row=2)
    wanted = circle_masks(marked)[2]
    wanted[:, :40] = wanted[:, 52:] = wanted[:8] = False
    np.testing.assert_array_equal(frame, wanted)


def test_seconds_grow_from_the_sample_to_all(marked, tiles, monkeypatch) -> None:
    now = iter(np.arange(100.0))
    monkeypatch.setattr(sam_loop.time, "perf_counter", lambda: next(now))
    boxes_xyxy = np.concatenate([marked.points_xy - 3, marked.points_xy + 3], axis=1)
    # Every step takes one second: one tile encoded for the two heads in it, of two tiles and four heads.
    some = loop_seconds(tiny_sam(), marked, tiles, boxes_xyxy[:], sample=1)
    assert (some.set_image_s, some.predict_s, some.frame_s, some.encode_s) == (2, 4, 4, 4)
    assert (some.total_s, some.n_sampled) == (14, 1)
    every = loop_seconds(tiny_sam(), marked, tiles, boxes_xyxy, sample=99)
    assert (every.set_image_s, every.predict_s, every.total_s, every.n_sampled) == (2, 4, 14, 4)
