"""Speed of EDP-SAM with the large models' shapes on a GPU; random weights serve."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import seconds_of
from benchmarks.timed_model import TimedModel, random_model
from pipeline.annotators.base import MarkedImage
from pipeline.annotators.edp_sam import EdpSamAnnotator, EdpSamOptions
from pipeline.errors import PipelineError
from pipeline.models.sam import BUILDERS, PromptableModel

SHAPES = ("vit_b", "vit_l", "vit_h")
BF16_TFLOPS = {
    "B200": 2250.0, "H200": 989.4, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.4, "A100": 311.8, "A30": 165.0,
    "A40": 149.7, "A10": 125.0, "L40S": 362.0, "L40": 181.0, "L4": 121.0, "RTX 6000 Ada": 364.2, "RTX A6000": 154.8,
    "RTX 4090": 165.2, "RTX 3090": 71.0,
}  # fmt: skip
"""Dense bfloat16 peak by a part of the card's name, TFLOP/s, as its maker states it; longer names go first."""


@dataclass(frozen=True)
class ShapeSpeed:
    """What one shape did.

    Args:
        name: Its name.
        n_prompts: Prompts decoded for the image: heads × kinds of prompt.
        n_tiles: Tiles encoded for it.
        whole_s: Seconds to annotate the image.
        encode_s: Those in the encoder.
        decode_s: Those in the decoder.
        encoder_tiles_per_s: Of the encoder alone, in full batches.
        encoder_flop_per_tile: Floating point operations to encode one tile, two per multiply-add.
    """

    name: str
    n_prompts: int
    n_tiles: int
    whole_s: float
    encode_s: float
    decode_s: float
    encoder_tiles_per_s: float
    encoder_flop_per_tile: float

    @property
    def images_per_s(self) -> float:
        """Images annotated per second, one after the other."""
        return 1 / self.whole_s

    @property
    def prompts_per_s(self) -> float:
        """Prompts per second of the decoder's time."""
        return self.n_prompts / self.decode_s

    @property
    def outside_share(self) -> float:
        """Share of the time in neither encoder nor decoder."""
        return 1 - (self.encode_s + self.decode_s) / self.whole_s

    @property
    def encoder_tflops(self) -> float:
        """What the encoder alone reaches in full batches, TFLOP/s."""
        return self.encoder_flop_per_tile * self.encoder_tiles_per_s / 1e12

    def peak_share(self, peak_tflops: float | None) -> float | None:
        """Share of the card's peak that the encoder reaches; None where that is not known."""
        return None if peak_tflops is None else self.encoder_tflops / peak_tflops

    def figures(self) -> dict[str, float | str]:
        """All figures under their names."""
        derived = ("images_per_s", "prompts_per_s", "outside_share", "encoder_tflops")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}


def peak_bf16_tflops(card: str) -> float | None:
    """Dense bfloat16 peak of a card by the name that its driver gives, TFLOP/s; None where it is not known here."""
    words = card.replace("-", " ")
    found = [name for name in BF16_TFLOPS if f" {name} " in f" {words} "]
    return BF16_TFLOPS[max(found, key=len)] if found else None


def measure_shape(
    name: str,
    device: torch.device,
    marked: MarkedImage,
    *,
    batch: int,
    compiled: bool = False,
    build: Callable[[], PromptableModel] | None = None,
) -> ShapeSpeed:
    """Annotate one image, and encode batches of tiles.

    Args:
        name: One of the builders of :mod:`pipeline.models.sam`.
        device: Where to run; bfloat16 is used on a GPU alone.
        marked: The image.
        batch: Tiles in a batch of the encoder alone.
        compiled: Whether to compile the encoder.
        build: Builds another model than that of this name, for tests.

    Raises:
        PipelineError: If there is no such shape.
    """
    if build is None and name not in BUILDERS:
        raise PipelineError(f"shape: expected some of {', '.join(BUILDERS)}, got '{name}'")
    plain = build() if build is not None else random_model(name, BUILDERS[name](), device)
    tiles = torch.rand(batch, 3, plain.input_px, plain.input_px, device=device) * 255
    with FlopCounterMode(display=False) as counter:
        plain.encode(tiles)
    if compiled:
        plain.sam.image_encoder.compile()
    model = TimedModel(plain)
    options = EdpSamOptions()
    annotator = EdpSamAnnotator(model.as_model, options)
    annotator.annotate(marked)  # picks kernels, compiles, fills the memory pool
    model.restart()
    whole_s = seconds_of(lambda: annotator.annotate(marked))
    encode_s, decode_s, n_tiles = model.encode_s, model.decode_s, model.n_tiles
    model.encode(tiles)
    batch_s = _least_encode_s(model, tiles)
    return ShapeSpeed(
        name=name,
        n_prompts=len(marked.points_xy) * len(options.prompts),
        n_tiles=n_tiles,
        whole_s=whole_s,
        encode_s=encode_s,
        decode_s=decode_s,
        encoder_tiles_per_s=batch / batch_s,
        encoder_flop_per_tile=counter.get_total_flops() / batch,
    )


def _least_encode_s(model: TimedModel, tiles: torch.Tensor, rounds: int = 5) -> float:
    """Least seconds to encode a batch, by the model's own clock, which waits for the GPU."""
    found = []
    for _ in range(rounds):
        model.restart()
        model.encode(tiles)
        found.append(model.encode_s)
    return min(found)
