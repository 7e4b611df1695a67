import huggingface_hub.constants
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.models.backbones import PYRAMID_STRIDES, build_backbone


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet10t", (128, 256)), ("mobilenetv3_small_050", (16, 24)), ("convnext_atto", (80, 160))]
)
def test_taps_have_strides_8_and_16(name: str, channels: tuple[int, int]) -> None:
    backbone = build_backbone(name, pretrained=False).eval()
    with torch.no_grad():
        fine, coarse = backbone(torch.zeros(1, 3, 64, 96))
    assert backbone.channels == channels
    assert fine.shape == (1, channels[0], 8, 12)
    assert coarse.shape == (1, channels[1], 4, 6)


def test_vgg_taps_are_the_ends_of_blocks_4_and_5_before_their_pools() -> None:
    with torch.device("meta"):
        backbone = build_backbone("vgg16_bn", pretrained=False)
    assert backbone.channels == (512, 512)
    assert [info["module"] for info in backbone.body.feature_info.get_dicts()] == ["features.32", "features.42"]
    layers = list(backbone.body.values())
    assert isinstance(layers[32], torch.nn.ReLU)
    assert isinstance(layers[33], torch.nn.MaxPool2d)
    assert sum(isinstance(layer, torch.nn.MaxPool2d) for layer in layers) == 4
    assert isinstance(layers[-1], torch.nn.ReLU)
    assert len(layers) == 43


def test_stages_behind_stride_16_are_left_out() -> None:
    names = [name for name, _ in build_backbone("resnet10t", pretrained=False).body.named_parameters()]
    assert any(name.startswith("layer3") for name in names)
    assert not any(name.startswith(("layer4", "fc")) for name in names)


def test_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(PipelineError, match=r"no network 'resnet10'.*did you mean .*resnet10t"):
        build_backbone("resnet10", pretrained=False)


def test_network_without_the_strides_is_refused() -> None:
    with pytest.raises(PipelineError, match="expected 8 and 16 among them"):
        build_backbone("vit_tiny_patch16_224", pretrained=False)


def test_pretrained_weights_offline_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PipelineError, match=r"weights of 'resnet10t' cannot be loaded.*set pretrained: false"):
        build_backbone("resnet10t", pretrained=True)


@pytest.mark.parametrize(
    ("name", "strides", "channels"),
    [
        ("resnet10t", (4, 8, 16, 32), (64, 128, 256, 512)),
        ("mobilenetv3_small_050", (4, 8, 32), (8, 16, 288)),
        ("compact", (4, 8, 16, 32), (16, 32, 48, 64)),
        ("compact", (8, 16), (32, 48)),
    ],
)
def test_taps_have_the_strides_that_are_asked_for(
    name: str, strides: tuple[int, ...], channels: tuple[int, ...]
) -> None:
    backbone = build_backbone(name, pretrained=False, strides=strides).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 32, 64))
    assert backbone.channels == channels
    assert [tuple(one.shape) for one in maps] == [
        (1, width, 32 // stride, 64 // stride) for width, stride in zip(channels, strides, strict=True)
    ]


def test_the_compact_encoder_has_no_stage_behind_its_last_tap() -> None:
    whole, part = (build_backbone("compact", pretrained=False, strides=s) for s in (PYRAMID_STRIDES, (8, 16)))
    assert sum(p.numel() for p in whole.parameters()) == 118_608
    assert sum(p.numel() for p in part.parameters()) < 60_000


def test_network_without_a_pyramid_stride_is_refused() -> None:
    with pytest.raises(PipelineError, match="expected 4, 8, 16 and 32 among them"):
        build_backbone("vit_tiny_patch16_224", pretrained=False, strides=PYRAMID_STRIDES)


def test_the_compact_encoder_has_no_weights_to_load() -> None:
    with pytest.raises(PipelineError, match=r"pretrained: 'compact' has no ImageNet weights; set it to false"):
        build_backbone("compact", pretrained=True)
