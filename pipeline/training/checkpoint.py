"""Weights on disk: finished ones (safetensors with a JSON beside them), and the state from which training resumes."""

import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.compute.files import atomic_write_bytes, digest_file, write_json
from pipeline.errors import PipelineError

N = TypeVar("N", bound=nn.Module)
FORMAT_VERSION = 1
MODEL_FILE = "model.safetensors"
"""The checkpoint chosen on held-out labelled images."""
LAST_FILE = "last.safetensors"
"""The last teacher average, beside the chosen checkpoint."""
RESCUED_FILE = "last_good.safetensors"
"""The best weights of a training that diverged, beside its state; a training that ends removes them."""


@dataclass(frozen=True)
class ModelRecord:
    """What stands in the JSON beside the weights.

    Args:
        kind: Which model this is, ``crowd_net`` for example.
        architecture: Options that the network was built with.
        parameters: Options that it was trained with.
        step: Optimiser steps behind the weights.
        metrics: Figures on the held-out labelled images; empty where there were none.
    """

    kind: str
    architecture: Mapping[str, Any]
    parameters: Mapping[str, Any]
    step: int
    metrics: Mapping[str, float]


def save_model(path: Path, weights: Mapping[str, Tensor], record: ModelRecord) -> None:
    """Write ``<name>.safetensors`` and ``<name>.json``; the bytes depend on the arguments alone.

    Args:
        path: The safetensors file.
        weights: State dict of the network.
        record: What to write beside.
    """
    data = safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in weights.items()})
    atomic_write_bytes(path, data)
    write_json(
        path.with_suffix(".json"), {"format": FORMAT_VERSION, **asdict(record), "weights_sha256": digest_file(path)}
    )


def read_record(path: Path, *, kind: str) -> ModelRecord:
    """Read the JSON beside the weights.

    Args:
        path: The safetensors file.
        kind: Kind of model that is wanted.

    Raises:
        PipelineError: If a file is missing or damaged, or holds another model or format.
    """
    beside = path.with_suffix(".json")
    for needed in (path, beside):
        if not needed.is_file():
            raise PipelineError(f"{needed}: no such file; run the stage that trains this model first")
    try:
        fields = json.loads(beside.read_text(encoding="utf-8"))
        version, digest = fields.pop("format"), fields.pop("weights_sha256")
        record = ModelRecord(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PipelineError(
            f"{beside}: not the record of a checkpoint ({error!r}); train the model again, or restore the file"
        ) from error
    if version != FORMAT_VERSION:
        raise PipelineError(
            f"{beside}: format {version}, expected {FORMAT_VERSION}; it comes from another version of this project: "
            "train the model again"
        )
    if record.kind != kind:
        raise PipelineError(
            f"{path}: a checkpoint of the model {record.kind!r}, expected {kind!r}; point the stage to another file, "
            "or train the model again"
        )
    if digest != digest_file(path):
        raise PipelineError(
            f"{path}: the weights are not those that {beside.name} describes; restore both, or train again"
        )
    return record


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file.

    Raises:
        PipelineError: If the file is damaged.
    """
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise PipelineError(f"{path}: not a readable safetensors file ({error}); restore it, or train again") from error


def load_network(path: Path, build: Callable[[], N], *, device: torch.device) -> N:
    """Build the network that a record describes and give it the weights beside, in evaluation mode.

    Args:
        path: The safetensors file.
        build: Builds the network from the record, without fetching anything.
        device: Where the network shall be.

    Raises:
        PipelineError: If the weights are damaged, or do not fit the network, or the record describes none.
    """
    try:
        net = build()
        net.load_state_dict(read_weights(path))
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise PipelineError(
            f"{path}: the weights do not fit the network that {path.with_suffix('.json').name} describes ({first}); "
            "train again"
        ) from error
    return net.to(device).eval()


class ResumeFile:
    """The state of an unfinished training, which a rerun with the same inputs takes up.

    Args:
        folder: Folder of this training alone; made when needed, removed by :meth:`clear`.
        digest: Digest of everything that the result depends on; a state with another one is of no use and is removed,
            but not what else lies in the folder.
    """

    def __init__(self, folder: Path, *, digest: str) -> None:
        self._folder, self._digest = folder, digest

    @property
    def path(self) -> Path:
        """The file."""
        return self._folder / "state.pt"

    def save(self, state: dict[str, Any]) -> None:
        """Write the state, in place of the one before, atomically."""
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        torch.save({"digest": self._digest, "state": state}, partial)
        partial.replace(self.path)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Give the saved state, or None when there is none that fits."""
        if not self.path.is_file():
            return None
        try:
            saved = torch.load(self.path, map_location=device, weights_only=True)
            state: dict[str, Any] | None = saved["state"] if saved["digest"] == self._digest else None
        except (RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError):
            state = None  # damaged: training starts anew
        if state is None:
            self.path.unlink(missing_ok=True)
        return state

    def clear(self) -> None:
        """Remove the folder."""
        if self._folder.exists():
            shutil.rmtree(self._folder)
