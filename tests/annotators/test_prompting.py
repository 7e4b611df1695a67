import numpy as np
import pytest
import torch

from pipeline.annotators.edp_sam import EdpSamAnnotator, EdpSamOptions
from pipeline.annotators.prompting import PROMPTS_PER_CHUNK, cut_tile, nearest_others, to_model_xy
from pipeline.annotators.superpixel import grow_regions
from pipeline.geometry.tiles import Tile
from tests.annotators.fake_model import SIDE_PX, DiscModel, mark

CHUNK = PROMPTS_PER_CHUNK["cpu"]


def annotate(marked, model, options=EdpSamOptions(prompts=("head",))):  # noqa: B008
    return EdpSamAnnotator(model, options).annotate(marked)


def test_each_kind_gets_its_boxes_in_the_models_pixels() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[10:20, 6:18] = (250, 200, 30)
    marked = mark([[11.0, 14.0]], (32, 32), radius_px=[5.0], image=image)
    model = DiscModel()
    annotate(marked, model, EdpSamOptions(prompts=("head", "superpixel", "box")))
    (point, none, _), (same, superpixel, _), (again, square, _) = model.calls
    assert none is None
    assert torch.equal(point, same)
    assert torch.equal(point, again)
    assert point[0].tolist() == [22.5, 28.5]  # 32 px fill the model's 64
    assert square[0].tolist() == [(11 - 5) * 2 + 0.5, (14 - 5) * 2 + 0.5, (11 + 5) * 2 + 0.5, (14 + 5) * 2 + 0.5]
    region = grow_regions(marked, EdpSamOptions().superpixel).boxes_xyxy()[0]
    assert superpixel[0].tolist() == (region * 2 + 0.5).tolist()


def test_chunk_sizes_depend_on_the_heads_alone() -> None:
    rng = np.random.default_rng(0)
    marked = mark(rng.uniform(0, 63, (CHUNK + 3, 2)))
    model, again = DiscModel(), DiscModel()
    annotate(marked, model)
    annotate(marked, again)
    sizes = [len(points) for points, _, _ in model.calls]
    assert max(sizes) <= CHUNK
    assert sum(sizes) == CHUNK + 3
    assert sizes == [len(points) for points, _, _ in again.calls]


def test_negatives_are_the_nearest_heads_elsewhere() -> None:
    points_xy = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 5.0], [3.0, 0.0], [50.0, 50.0]])
    found = nearest_others(points_xy, np.array([3.0, 1.0, 3.0, 2.0, 3.0]), 2)
    np.testing.assert_array_equal(found[0], [[3, 0], [0, 5]])
    np.testing.assert_array_equal(found[1], np.full((2, 2), np.nan))
    np.testing.assert_array_equal(found[2], [[0, 0], [3, 0]])
    np.testing.assert_array_equal(found[3], [[0, 0], [np.nan, np.nan]])
    assert np.isnan(found[4]).all()


@pytest.mark.parametrize(("name", "asked", "given"), [("fake", -1, 0), ("compact", -1, 6), ("fake", 2, 2)])
def test_negatives_go_with_every_kind(name, asked, given) -> None:
    model = DiscModel()
    model.name = name
    marked = mark([[20.0, 20.0], [30.0, 20.0]])
    annotate(marked, model, EdpSamOptions(prompts=("head", "box"), negatives=asked))
    for points, _, negatives in model.calls:
        if given == 0:
            assert negatives is None
            continue
        assert negatives.shape == (2, given, 2)
        assert negatives[0, 0].tolist() == points[1].tolist()
        assert negatives[1, 0].tolist() == points[0].tolist()
        assert negatives[:, 1:].isnan().all()


@pytest.mark.parametrize(
    ("tile", "size_hw", "shown"),
    [
        (Tile(0, 0, 40, np.arange(0)), (40, 40), (64, 64)),
        (Tile(8, 16, 16, np.arange(0)), (40, 40), (64, 64)),
        (Tile(0, 0, 40, np.arange(0)), (20, 40), (32, 64)),
        (Tile(0, 0, 200, np.arange(0)), (200, 100), (64, 32)),
        (Tile(0, 0, 64, np.arange(0)), (1, 1), (1, 1)),
    ],
)
def test_cut_tile_scales_and_pads(tile, size_hw, shown) -> None:
    image = np.zeros((*size_hw, 3), np.uint8)
    image[...] = np.array([10, 20, 30], np.uint8)
    mean = torch.tensor([100.0, 110.0, 120.0]).view(3, 1, 1)
    cut = cut_tile(image, tile, SIDE_PX, mean)
    assert cut.shape == (3, SIDE_PX, SIDE_PX)
    for channel in range(3):
        assert (cut[channel, : shown[0], : shown[1]] == 10 * (channel + 1)).all()
        assert (cut[channel, shown[0] :] == 100 + 10 * channel).all()
        assert (cut[channel, :, shown[1] :] == 100 + 10 * channel).all()


def test_beyond_the_image_lies_its_mirror_image_for_the_compact_model() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    cut = cut_tile(image, Tile(0, 0, SIDE_PX, np.arange(0)), SIDE_PX, None)
    shown = cut.numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(shown[:24, :40], image)
    np.testing.assert_array_equal(shown[24:48, :40], image[::-1])
    np.testing.assert_array_equal(shown[48:, :40], image[:16])
    np.testing.assert_array_equal(shown[:24, 40:], image[:, :15:-1])
    marked = mark([[12.0, 12.0]], (24, 40), radius_px=[6.0], image=image)
    fake, compact = DiscModel(), DiscModel()
    compact.name = "compact"
    for model in (fake, compact):
        annotate(marked, model)
    assert (fake.tiles[0][0, 0, -1] == fake.sam.pixel_mean[0]).all()
    assert not (compact.tiles[0][0, 0, -1] == fake.sam.pixel_mean[0]).all()


def test_to_model_xy_keeps_pixel_centres() -> None:
    tile = Tile(10, 20, 32, np.arange(0))
    given_xy = np.array([[10.0, 20.0], [9.5, 19.5], [41.0, 51.0], [41.5, 51.5], [-90.0, 900.0]])
    assert to_model_xy(given_xy, tile, 64).tolist() == [[0.5, 0.5], [0, 0], [62.5, 62.5], [63, 63], [0, 63]]
