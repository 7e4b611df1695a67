import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.crowd_net import CrowdOutput, build_crowd_net
from pipeline.training.checkpoint import save_model
from pipeline.training.inference import _tiles, cells_in_image, count_heads, load_crowd_net, predict_image
from tests.training.conftest import MODEL

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return build_crowd_net(MODEL).eval()


def random_image(size_hw, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (*size_hw, 3)).astype(np.uint8)


@pytest.mark.parametrize("size_hw", [(300, 170), (97, 401)])
def test_tiles_give_what_the_whole_image_gives(net, size_hw):
    """With a halo at least as wide as resnet10t and the heads see."""
    image = random_image(size_hw)
    whole = predict_image(net, image, device=CPU, tile_px=1024, halo_px=0)
    tiled = predict_image(net, image, device=CPU, tile_px=256, halo_px=112)
    for a, b in zip(whole, tiled, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("backbone", "halo_px"), [("resnet10t", 112), ("vgg16_bn", 160)])
def test_counts_of_tiles_are_those_of_the_whole_image(backbone, halo_px):
    """A long image, cut twice; the logits are shifted so that half of the cells are heads."""
    torch.manual_seed(1)
    net = build_crowd_net(replace(MODEL, backbone=backbone)).eval()
    image = random_image((61, 700), seed=3)
    whole, embedding = predict_image(net, image, device=CPU, tile_px=1024, halo_px=0)
    tiled, tiled_embedding = predict_image(net, image, device=CPU, tile_px=2 * halo_px + 192, halo_px=halo_px)
    middle = whole.median()
    clear = (whole - middle).abs() > 1e-5  # all but cells within rounding of the threshold
    assert clear.float().mean() > 0.99
    heads = [count_heads(torch.where(clear, logits - middle, -1.0), (61, 700)) for logits in (whole, tiled)]
    assert 0.3 * whole.numel() < len(heads[0].prob) < 0.7 * whole.numel()
    np.testing.assert_array_equal(heads[0].points_xy, heads[1].points_xy)
    torch.testing.assert_close(tiled, whole, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(tiled_embedding, embedding, atol=2e-5, rtol=1e-4)


class Watched(nn.Module):
    """Notes the size of what the network is given and the coordinates that come with it."""

    def __init__(self, net):
        super().__init__()
        self.net, self.sizes, self.x_spans = net, [], []

    def forward(self, images, coords_xy):
        self.sizes.append(tuple(images.shape[-2:]))
        self.x_spans.append((float(coords_xy[:, 0].min()), float(coords_xy[:, 0].max())))
        return self.net(images, coords_xy)


def test_the_network_never_sees_more_than_a_tile_and_its_coordinates_span_the_image(net):
    watched = Watched(net)
    predict_image(watched, random_image((160, 3200)), device=CPU, tile_px=160, halo_px=32)
    assert len(watched.sizes) == 34
    assert max(max(size) for size in watched.sizes) == 160
    assert watched.x_spans[0][0] == pytest.approx(8 / 3200 - 1)
    assert watched.x_spans[-1][1] == pytest.approx(1 - 8 / 3200)
    assert all(high - low <= 2 * 160 / 3200 for low, high in watched.x_spans)


def test_a_halo_too_narrow_shows(net):
    """The test above could fail."""
    image = random_image((300, 170))
    whole, _ = predict_image(net, image, device=CPU, tile_px=1024, halo_px=0)
    tiled, _ = predict_image(net, image, device=CPU, tile_px=128, halo_px=0)
    assert float((whole - tiled).abs().max()) > 1e-3


@pytest.mark.parametrize("size_hw", [(1, 1), (5, 7), (16, 16), (17, 33)])
def test_any_size_is_predicted(net, size_hw):
    logits, embedding = predict_image(net, random_image(size_hw), device=CPU)
    cells = (-(-size_hw[0] // 4), -(-size_hw[1] // 4))
    assert logits.shape == cells
    assert embedding.shape == (MODEL.embed_dim, *cells)
    torch.testing.assert_close(embedding.norm(dim=0), torch.ones(cells))


def test_tiles_meet_without_overlap():
    for side in (16, 256, 272, 1000 * 16):
        tiles = list(_tiles(side, 256, 48))
        assert tiles[0].keep_start == 0
        assert tiles[-1].keep_stop == side
        assert all(a.keep_stop == b.keep_start for a, b in itertools.pairwise(tiles))
        for tile in tiles:
            assert tile.stop - tile.start <= 256
            assert tile.start in (0, tile.keep_start - 48)
            assert tile.stop == min(side, tile.keep_stop + (48 if len(tiles) > 1 else 0))


@pytest.mark.parametrize(("tile_px", "halo_px"), [(100, 16), (128, 10), (128, 64), (128, -16)])
def test_tiles_that_cannot_be(net, tile_px, halo_px):
    with pytest.raises(ValueError, match="tile_px and halo_px: expected multiples of 16"):
        predict_image(net, random_image((64, 64)), device=CPU, tile_px=tile_px, halo_px=halo_px)


class ShortOfMemory(nn.Module):
    """Runs out of memory on inputs above a size."""

    def __init__(self, net, most_px):
        super().__init__()
        self.net, self.most_px, self.sizes = net, most_px, []

    def forward(self, images, coords_xy):
        self.sizes.append(images.shape[-1])
        if images.shape[-1] > self.most_px:
            raise torch.OutOfMemoryError("out of memory")
        return self.net(images, coords_xy)


def test_tiles_are_halved_when_memory_runs_out(net):
    image = random_image((300, 300))
    short = ShortOfMemory(net, 260)
    with pytest.warns(UserWarning, match="out of memory on cpu: tiles of 256 px instead of 512"):
        logits, _ = predict_image(short, image, device=CPU, tile_px=512, halo_px=48)
    assert short.sizes[0] > 260 >= max(short.sizes[1:])
    assert torch.equal(logits, predict_image(net, image, device=CPU, tile_px=256, halo_px=48)[0])


def test_memory_that_never_suffices_is_an_error(net):
    with pytest.raises(torch.OutOfMemoryError), pytest.warns(UserWarning, match="256 px"):
        predict_image(ShortOfMemory(net, 8), random_image((300, 300)), device=CPU, tile_px=512, halo_px=16)


class FixedLogits(nn.Module):
    def forward(self, images, coords_xy):
        height, width = images.shape[-2] // 4, images.shape[-1] // 4
        return CrowdOutput(torch.ones(1, height, width), torch.ones(1, 1, height, width))


@pytest.mark.parametrize(("size_hw", "count"), [((16, 16), 16), ((17, 18), 16), ((19, 20), 25), ((1, 1), 0)])
def test_only_cells_with_their_centre_in_the_image_are_counted(size_hw, count):
    logits, _ = predict_image(FixedLogits(), random_image(size_hw), device=CPU)
    heads = count_heads(logits, size_hw)
    assert len(heads.points_xy) == len(heads.prob) == count


@pytest.mark.parametrize("size_hw", [(h, w) for h in (1, 2, 3, 4, 5, 6, 7, 64) for w in (3, 8, 9)])
def test_cells_in_an_image_are_those_whose_centres_are(size_hw):
    logits = torch.zeros(-(-size_hw[0] // 4), -(-size_hw[1] // 4))
    inside = [sum(4 * i + 1.5 < side - 0.5 for i in range(100)) for side in size_hw]
    assert list(cells_in_image(logits, size_hw).shape) == inside


def test_another_threshold_counts_other_cells():
    logits = torch.tensor([[-2.0, 0.5], [1.5, 3.0]])
    assert [len(count_heads(logits, (8, 8), threshold).prob) for threshold in (-3.0, 0.0, 0.5, 3.0)] == [4, 3, 2, 0]


def test_a_checkpoint_is_loaded_as_it_was_saved(finished_run):
    net, record = load_crowd_net(finished_run.teacher, device=CPU, expected=MODEL)
    assert not net.training
    assert record.step == 7
    assert net.options == MODEL


def test_how_a_checkpoint_was_started_is_no_difference(finished_run):
    load_crowd_net(finished_run.teacher, device=CPU, expected=replace(MODEL, pretrained=True))


def test_a_checkpoint_of_another_size_is_refused(finished_run):
    with pytest.raises(PipelineError, match=r"another model \(width: 8 in the checkpoint, 64 in model.width\); set"):
        load_crowd_net(finished_run.teacher, device=CPU, expected=replace(MODEL, width=64))


def test_weights_that_do_not_fit_their_record_are_refused(tmp_path, finished_run):
    _, record = load_crowd_net(finished_run.teacher, device=CPU)
    path = tmp_path / "model.safetensors"
    save_model(path, nn.Linear(2, 2).state_dict(), record)
    with pytest.raises(PipelineError, match="the weights do not fit the network that model.json describes"):
        load_crowd_net(path, device=CPU)
    save_model(path, {}, replace(record, architecture={"depth": 3}))
    with pytest.raises(PipelineError, match="the weights do not fit"):
        load_crowd_net(path, device=CPU, expected=None)
