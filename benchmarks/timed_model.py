"""A promptable model with a clock: what encoder and decoder take, so that the rest is known too."""

import time
from collections.abc import Callable
from typing import Any, cast

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from pipeline.models.sam import BUILDERS, PromptableModel, load_sam


class TimedModel:
    """Passes everything on to a model and adds up the seconds of its two networks.

    Args:
        model: The model, or what looks like one.
    """

    def __init__(self, model: PromptableModel) -> None:
        self.model = model
        self.encode_s = self.decode_s = 0.0
        self.n_tiles = 0

    def __getattr__(self, name: str) -> Any:
        """Give what the model has."""
        return getattr(self.model, name)

    @property
    def as_model(self) -> PromptableModel:
        """This model, under the type that annotators ask for."""
        return cast(PromptableModel, self)

    def restart(self) -> None:
        """Set the clocks to zero."""
        self.encode_s = self.decode_s = 0.0
        self.n_tiles = 0

    def encode(self, tiles: Tensor) -> Tensor:
        """Encode, with the clock running."""
        embeddings, seconds = self._timed(lambda: self.model.encode(tiles))
        self.encode_s += seconds
        self.n_tiles += len(tiles)
        return cast(Tensor, embeddings)

    def decode(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Decode, with the clock running."""
        answer, seconds = self._timed(lambda: self.model.decode(*args, **kwargs))
        self.decode_s += seconds
        return cast(tuple[Tensor, Tensor], answer)

    def _timed(self, call: Callable[[], object]) -> tuple[object, float]:
        self._wait()
        begin = time.perf_counter()
        result = call()
        self._wait()
        return result, time.perf_counter() - begin

    def _wait(self) -> None:
        """Let a GPU finish: it works on while Python goes ahead."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)


def benchmark_model(weights: str, device: torch.device) -> PromptableModel:
    """Load a model by the name of its weights; ``random`` is the compact one with random weights, for tests.

    Raises:
        PipelineError: If the weights are not there or are not what they should be.
    """
    if weights != "random":
        return load_sam(weights, device)
    torch.manual_seed(0)
    return random_model("random", BUILDERS["compact"](), device)


def random_model(name: str, sam: Sam, device: torch.device) -> PromptableModel:
    """Take a network as it was built; on a GPU it computes in bfloat16."""
    return PromptableModel(name, sam.eval().to(device), device, weights_sha256="0" * 64, bf16=device.type == "cuda")
