"""``dvc repro`` from raw scenes to a report, on a set so small that it learns nothing: the outputs are what counts."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.code_reading import ROOT

pytestmark = pytest.mark.slow
yaml = YAML(typ="safe", pure=True)

SCENES = {
    "seed": 0,
    "splits": {
        "train": {"images": 8, "height_px": 64, "width_px": 80, "heads": [3, 6]},
        "test": {"images": 3, "height_px": 64, "width_px": 80, "heads": [3, 6]},
    },
}
PHASE = {"steps": 2, "ramp_steps": 1}
LOOP = {"evaluate_every": 2, "log_every": 1, "load_workers": 1, "tile_px": 256, "halo_px": 32}
SMALL = {
    "labeled_pct": [50],
    "annotate": {"method": "disc"},
    "model": {"width": 8, "mask_width": 8},
    "warmup": {"count": PHASE, "mask": PHASE, "crops": {"size_px": 64, "batch": 2}, "loop": LOOP},
    "pseudo_label": {"tile_px": 256, "halo_px": 32, "energy": {"candidate_prob": 0.001}},
    "retrain": {
        "count": PHASE, "mask": PHASE, "constraint": PHASE, "crops": {"size_px": 64, "batch": 2}, "loop": LOOP,
        "gate": {"max_error_ratio": 1e9, "min_count_ratio": 0.0, "max_count_ratio": 1e9},
    },
    "evaluate": {"tile_px": 256, "halo_px": 32},
}  # fmt: skip
RUN = Path("data/synthetic/labeled_50/seed_0")


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: merged(base[key], change[key]) if isinstance(change[key], Mapping) else change[key] for key in change}
    return {**base, **both}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    weights = folder / "pipeline/models/weights/compact.safetensors"
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(b"disc reads no weights")
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "data/synthetic/raw").mkdir(parents=True)
    params = merged(yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8")), SMALL)
    for path, content in (("params.yaml", params), ("data/synthetic/raw/scenes.yaml", SCENES)):
        with (folder / path).open("w", encoding="utf-8") as file:
            yaml.dump(content, file)
    call(folder, "init", "--no-scm", "--quiet")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots", dirs_exist_ok=True)
    return folder


def call(folder: Path, *words: str) -> str:
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    site = folder.parent / "dvc-site"
    environment = {**os.environ, "PATH": search, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(site)}
    environment |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def reproduced(project: Path) -> Path:
    assert call(project, "repro").count("Running stage") == 8
    return project


def test_an_unchanged_pipeline_runs_nothing(reproduced: Path) -> None:
    again = call(reproduced, "repro")
    assert "Running stage" not in again
    assert "Data and pipelines are up to date" in again


def test_metrics_are_shown(reproduced: Path) -> None:
    metrics = json.loads(call(reproduced, "metrics", "show", "--json"))
    assert set(metrics[""]["data"]) == {str(RUN / "evaluate/metrics.json")}
    figures = metrics[""]["data"][str(RUN / "evaluate/metrics.json")]["data"]
    assert figures["n_images"] == 3
    assert figures["mae"] >= 0


def test_plots_are_shown(reproduced: Path) -> None:
    call(reproduced, "plots", "show", "--out", "plots")
    page = (reproduced / "plots/index.html").read_text(encoding="utf-8")
    for plot in (
        "warmup/dvclive",
        "retrain/dvclive",
        "evaluate/plots/counts.csv",
        "evaluate/plots/error_by_density.csv",
    ):
        assert re.sub(r"[/.]", "_", str(RUN / plot)) in page  # the id of its chart


def test_no_file_of_a_run_escapes_dvc(reproduced: Path) -> None:
    """All that the stages leave comes back from the cache; the figures alone are git's."""
    made = {path.relative_to(reproduced / RUN) for path in (reproduced / RUN).rglob("*") if path.is_file()}
    kept = (reproduced / RUN / "evaluate/metrics.json").read_text(encoding="utf-8")
    shutil.rmtree(reproduced / RUN)
    call(reproduced, "checkout", "--allow-missing")
    restored = {path.relative_to(reproduced / RUN) for path in (reproduced / RUN).rglob("*") if path.is_file()}
    (reproduced / RUN / "evaluate/metrics.json").write_text(kept, encoding="utf-8")
    assert made - restored == {Path("evaluate/metrics.json")}
    assert Path("evaluate/report.html") in restored
