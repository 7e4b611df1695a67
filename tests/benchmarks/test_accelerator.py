import pytest
import torch
from torch import nn

from benchmarks.accelerator import ShapeSpeed, measure_shape, peak_bf16_tflops
from benchmarks.crowds import mirrored_crowd
from pipeline.errors import PipelineError
from tests.benchmarks.tiny_sam import tiny_model

SPEED = ShapeSpeed(
    name="vit_b", n_prompts=200, n_tiles=4, whole_s=2.0, encode_s=1.0, decode_s=0.5, encoder_tiles_per_s=50.0,
    encoder_flop_per_tile=4e12,
)  # fmt: skip


def test_rates_and_shares() -> None:
    assert SPEED.images_per_s == 0.5
    assert SPEED.prompts_per_s == 400
    assert SPEED.outside_share == 0.25
    assert SPEED.encoder_tflops == 200
    assert SPEED.peak_share(1000.0) == 0.2
    assert SPEED.peak_share(None) is None
    assert SPEED.figures()["encoder_tflops"] == 200


@pytest.mark.parametrize(
    ("card", "tflops"),
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 311.8),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA A1000", None),
        ("Tesla T4", None),
    ],
)
def test_a_card_is_known_by_its_whole_name(card, tflops) -> None:
    assert peak_bf16_tflops(card) == tflops


def test_a_tiny_model_on_the_cpu() -> None:
    marked = mirrored_crowd(4, size_hw=(48, 64))
    speed = measure_shape("tiny", torch.device("cpu"), marked, batch=2, build=tiny_model)
    assert speed.n_prompts == 8
    assert speed.n_tiles >= 1
    assert 0 < speed.encode_s + speed.decode_s < speed.whole_s
    assert 0 < speed.outside_share < 1
    # 16 tokens of 32 channels: patches, queries keys values and projection, two layers four times as wide, the neck
    # (1 × 1 and 3 × 3 to 16 channels); then attention in 2 heads of 16 and its relative positions, if there were any.
    linear = 16 * (768 * 32 + 4 * 32 * 32 + 8 * 32 * 32 + 32 * 16 + 9 * 16 * 16)
    attention = 2 * 2 * 16 * 16 * 16
    assert speed.encoder_flop_per_tile == pytest.approx(2 * (linear + attention), rel=0.02)


def test_operations_of_a_batch_are_counted_per_tile() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.img_size = 64
            self.layer = nn.Linear(64, 5, bias=False)

        def forward(self, images):
            self.layer(images)
            return torch.zeros(len(images), 16, 4, 4)

    def build():
        model = tiny_model()
        model.sam.image_encoder = Encoder()
        return model

    speed = measure_shape("odd", torch.device("cpu"), mirrored_crowd(2, size_hw=(32, 32)), batch=3, build=build)
    assert speed.encoder_flop_per_tile == 2 * 3 * 64 * 64 * 5


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(PipelineError, match="vit_b.*got 'vit_x'"):
        measure_shape("vit_x", torch.device("cpu"), mirrored_crowd(2, size_hw=(32, 32)), batch=1)
