"""How an annotator is built and told apart, without building it: what travels to workers, and what keys the cache."""

import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.annotators.base import Annotator, Marks
from pipeline.annotators.build import ANNOTATORS, build_annotator
from pipeline.annotators.prompting import NETWORK_VERSION, PromptOptions
from pipeline.compute.files import digest_file, digest_json
from pipeline.masks.schema import SCHEMA_VERSION, Provenance
from pipeline.masks.store import MaskStore
from pipeline.models.pretrained import file_sha256, find_weights, require_weights


@dataclass(frozen=True)
class AnnotatorPlan:
    """An annotator to be built, here or in another process.

    Args:
        method: One of :data:`pipeline.annotators.build.ANNOTATORS`.
        options: Its options dataclass, or None.
        weights: Name of the weights of ``edp_sam``.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        bf16: Compute the network in bfloat16.
        compiled: Compile the encoder.
        truth: Folder of the data set's true masks, where it has them.
        checkpoint: Weights that ``p2seg`` was fitted to this data set with.
    """

    method: str
    options: Any = None
    weights: str = "compact"
    device: str = "cpu"
    bf16: bool = False
    compiled: bool = False
    truth: Path | None = None
    checkpoint: Path | None = None

    def build(self) -> Annotator:
        """Build the annotator.

        Raises:
            PipelineError: If what the method needs is not there.
        """
        return build_annotator(
            self.method,
            self.options,
            weights=self.weights,
            device=torch.device(self.device),
            truth=None if self.truth is None else MaskStore.open(self.truth),
            bf16=self.bf16,
            compiled=self.compiled,
            checkpoint=self.checkpoint,
        )

    def provenance(self) -> Provenance:
        """What stands in the mask store: method, version, options, digest of the weights.

        Raises:
            PipelineError: If the method is unknown or its weights are not there.
        """
        kind = ANNOTATORS.get(self.method)
        version = 0 if kind is None else kind.algorithm_version
        weights = None
        if self.method == "edp_sam":
            weights = file_sha256(require_weights(find_weights(self.weights)))
        elif self.checkpoint is not None:
            weights = file_sha256(self.checkpoint)
        return Provenance(self.method, version, _plain(self.options), weights)

    def keys(self, provenance: Provenance, image_digest: str, marks: Marks) -> tuple[str, str]:
        """Give the cache keys of one image: of its masks, and of the network's part of them.

        Results of a GPU or of bfloat16 differ in their last bits from those of a CPU, whose bytes are promised; so how
        the network was computed is part of the keys.

        Args:
            provenance: What :meth:`provenance` gave.
            image_digest: SHA-256 of the image file.
            marks: Its heads and circles.
        """
        heads = hashlib.sha256()
        for array in (marks.points_xy, marks.radius_px, marks.point_id, marks.class_id):
            heads.update(array.tobytes())
        seen = {
            "image": image_digest,
            "size_hw": list(marks.size_hw),
            "heads": heads.hexdigest(),
            "weights": provenance.weights_sha256,
            "numerics": [torch.device(self.device).type, self.bf16, self.compiled],
        }
        network: dict[str, Any] = {"version": NETWORK_VERSION, **seen}
        if isinstance(self.options, PromptOptions):
            names = [field.name for field in dataclasses.fields(PromptOptions)]
            network["options"] = {name: provenance.params[name] for name in names}
        masks = {
            "schema": SCHEMA_VERSION,
            "method": provenance.algorithm,
            "version": provenance.algorithm_version,
            "network": NETWORK_VERSION,
            "options": dict(provenance.params),
            "truth": _digest_store(self.truth) if self.method == "truth" and self.truth else None,
            **seen,
        }
        return digest_json(masks), digest_json(network)


@functools.lru_cache(maxsize=4)
def _digest_store(path: Path) -> list[str]:
    return [digest_file(file) for file in MaskStore.open(path).files]


def _plain(options: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(options) and not isinstance(options, type):
        return dataclasses.asdict(options)
    return {}
