"""Where a training computes and writes, and what of its inputs is data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pipeline.compute.files import digest_file
from pipeline.training.ranks import Ranks

FIGURES_FILE = "metrics.json"
"""Figures of a training, beside its model."""


@dataclass(frozen=True)
class RunPlace:
    """Where a training computes and writes.

    Args:
        out: Folder of the result; replaced when training ends, untouched before.
        resume: Folder of the resumable state.
        log: JSON lines.
        device: Where to compute.
        ranks: How many processes compute; the first one writes.
    """

    out: Path
    resume: Path
    log: Path
    device: torch.device
    ranks: Ranks = field(default_factory=Ranks)


def digest_tables(folders: Sequence[Path]) -> list[str]:
    """Digest the Parquet files of folders."""
    return [digest_file(path) for folder in folders for path in sorted(folder.glob("*.parquet"))]
