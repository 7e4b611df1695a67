import numpy as np
import pytest
import torch

from pipeline.models.crowd_net import (
    CrowdNet,
    CrowdNetOptions,
    build_crowd_net,
    coordinate_channels,
    count_points,
    image_to_tensor,
    local_maxima,
)

SMALL = CrowdNetOptions(width=8, mask_width=8)


@pytest.fixture(scope="module")
def net() -> CrowdNet:
    torch.manual_seed(0)
    return build_crowd_net(SMALL).eval()


def test_shapes_and_unit_length(net: CrowdNet) -> None:
    with torch.no_grad():
        output = net(torch.randn(2, 3, 32, 48))
    assert output.logits.shape == (2, 8, 12)
    assert output.embedding.shape == (2, 16, 8, 12)
    torch.testing.assert_close(output.embedding.norm(dim=1), torch.ones(2, 8, 12))


def test_few_cells_fire_at_the_start(net: CrowdNet) -> None:
    with torch.no_grad():
        logits = net(torch.randn(1, 3, 128, 128)).logits
    assert float(torch.sigmoid(logits).mean()) == pytest.approx(SMALL.prior_prob, rel=0.5)
    assert int((logits > 0).sum()) == 0


def test_every_weight_learns() -> None:
    net = build_crowd_net(SMALL)
    output = net(torch.randn(2, 3, 32, 32))
    (output.logits.square().sum() + output.embedding[:, 0].sum()).backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None] == []


def test_whole_image_coordinates_are_the_default_and_move_the_embedding_only(net: CrowdNet) -> None:
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        plain = net(images)
        same = net(images, coordinate_channels((32, 48))[None])
        other = net(images, coordinate_channels((64, 96), origin_xy=(48, 32), window_hw=(32, 48))[None])
    torch.testing.assert_close(plain, same)
    torch.testing.assert_close(plain.logits, other.logits)
    assert float((plain.embedding - other.embedding).abs().max()) > 1e-4


def test_a_tile_gets_its_slice_of_the_whole() -> None:
    whole = coordinate_channels((64, 96))
    assert whole.shape == (2, 8, 12)
    torch.testing.assert_close(whole[0, 0, :2], torch.tensor([-11 / 12, -9 / 12]))
    torch.testing.assert_close(whole[1, :, 3], whole[1, :, 0])
    assert float(whole[1, -1, 0]) == pytest.approx(7 / 8)
    tile = coordinate_channels((64, 96), origin_xy=(32, 16), window_hw=(32, 48))
    torch.testing.assert_close(tile, whole[:, 2:6, 4:10])


@pytest.mark.parametrize("size", [(40, 32), (32, 8), (0, 16)])
def test_sides_must_be_multiples_of_16(net: CrowdNet, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        net(torch.zeros(1, 3, *size))


def test_misfit_coordinates_are_refused(net: CrowdNet) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 2, 4, 4\)"):
        net(torch.zeros(1, 3, 32, 32), torch.zeros(1, 2, 4, 5))
    with pytest.raises(ValueError, match="multiples of 8"):
        coordinate_channels((64, 64), origin_xy=(4, 0), window_hw=(32, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"width": 0}, "width"), ({"embed_dim": 0}, "embed_dim"), ({"prior_prob": 1.0}, "prior_prob")],
)
def test_options_out_of_range(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrowdNetOptions(**change)  # type: ignore[arg-type]


def test_image_to_tensor_normalises() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 1] = (255, 0, 128)
    tensor = image_to_tensor(image)
    assert tensor.shape == (3, 2, 3)
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
    torch.testing.assert_close(tensor[:, 0, 1], torch.tensor(expected))


def test_count_points_gives_cell_centres() -> None:
    logits = torch.full((3, 4), -5.0)
    logits[1, 2], logits[1, 3], logits[2, 0], logits[0, 0] = 2.0, 1.0, 0.5, 0.0
    points = count_points(logits)
    np.testing.assert_array_equal(points.points_xy, [[9.5, 5.5], [13.5, 5.5], [1.5, 9.5]])
    np.testing.assert_allclose(points.prob, 1 / (1 + np.exp([-2.0, -1.0, -0.5])))
    np.testing.assert_array_equal(count_points(logits, suppress="local_max_3x3").points_xy, [[9.5, 5.5], [1.5, 9.5]])
    assert len(count_points(logits, 3.0).points_xy) == 0


@pytest.mark.parametrize(
    ("values", "peaks"),
    [
        ([[1.0, 1.0, 1.0]], [[1, 0, 0]]),
        ([[0.0, 2.0], [2.0, 2.0]], [[0, 1], [0, 0]]),
        ([[3.0, 0.0, 0.0, 3.0]], [[1, 0, 0, 1]]),
        ([[3.0]], [[1]]),
    ],
)
def test_local_maxima_keep_the_first_of_equals(values: list[list[float]], peaks: list[list[int]]) -> None:
    assert local_maxima(torch.tensor(values)).int().tolist() == peaks
