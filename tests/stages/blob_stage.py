"""A user's folder with a prepared and annotated blob data set, and parameters for trainings that take seconds."""

import functools
import json
import tempfile
from pathlib import Path

from tests.training.blobs import write_blob_dataset

RUN = Path("data/blobs/labeled_50/seed_0")
PHASE = {"steps": 2, "ramp_steps": 0}
TRAINING = {
    "crops": {"size_px": 32, "batch": 2},
    "loop": {"evaluate_every": 2, "log_every": 1, "tile_px": 128, "halo_px": 16},
}
PARAMS = {
    "datasets": ["blobs"],
    "prepare": {"sources": {"blobs": {"reader": "folder"}}},
    "splits": {"held_out_frac": 0.3},
    "model": {"width": 8, "mask_width": 8, "embed_dim": 4, "prior_prob": 0.4},
    "warmup": {"count": PHASE, "mask": {"steps": 1}, **TRAINING},
    "pseudo_label": {"tile_px": 128, "halo_px": 16},
    "retrain": {
        "count": PHASE,
        "mask": {"steps": 1},
        "constraint": {"steps": 1},
        "gate": {"max_error_ratio": 1e6, "min_count_ratio": 0.0, "max_count_ratio": 1e6},
        **TRAINING,
    },
}


@functools.cache
def _blobs() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="blobs")
    _KEPT.append(folder)
    write_blob_dataset(Path(folder.name))
    return Path(folder.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
"""Folders that live until the tests end."""


def put_params(home: Path, **sections) -> None:
    """Write params.yaml (JSON is YAML), with some sections changed."""
    changed = {name: {**PARAMS.get(name, {}), **fields} for name, fields in sections.items()}
    (home / "params.yaml").write_text(json.dumps({**PARAMS, **changed}))


def blob_home(tmp_path, monkeypatch) -> Path:
    """Make the folder and go there; a fixture."""
    dataset = tmp_path / "data" / "blobs"
    dataset.mkdir(parents=True)
    for name in ("raw", "prepared", "annotate"):
        (dataset / name).symlink_to(_blobs() / name)
    put_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
