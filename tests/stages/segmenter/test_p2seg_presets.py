"""params/p2seg_*.yaml: sound, as the paper has it where it says, and fit for those layouts."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.masks.store import MaskStore
from stages.params import load_segmenter_params
from stages.paths import RunPaths
from tests.datasets.fake_masks import write_voc
from tests.stages.segmenter.test_segmenter_presets import SMALL_TRAINING, write_some_coco
from tests.stages.test_presets import ROOT, merged

yaml = YAML(typ="safe", pure=True)
STEPS = {"voc": 50_000, "coco": 200_000}
STAGES = re.findall(r"python -m (stages\.\S+)", (ROOT / "recipes" / "p2seg" / "dvc.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", STEPS)
def test_a_preset_has_the_values_of_the_paper(name: str) -> None:
    """Section 5 of the specification."""
    params = load_segmenter_params(ROOT / "params" / f"p2seg_{name}.yaml")
    assert (params.datasets, params.labeled_pct, params.annotate.method) == ((name,), (100,), "p2seg")
    options = params.annotate.p2seg
    assert (options.network.backbone, options.network.pretrained) == ("hrnet_w48", True)
    assert (options.network.width, options.network.affinity_dim) == (256, 256)
    assert (options.crops.size_px, options.crops.batch) == (416, 8)
    assert (options.crops.scale_min, options.crops.scale_max, options.crops.flip_prob) == (0.7, 1.3, 0.5)
    train = options.train
    assert (train.steps, train.optimizer, train.learning_rate, train.ramp_steps) == (STEPS[name], "adam", 5e-5, 2000)
    assert (options.distill.offset_weight, options.distill.hard_frac) == (0.01, 0.2)
    assert params.retrain.weak is False
    assert params.evaluate.student == "warmup"
    assert params.prepare.reader(name).name == name


SMALL: dict[str, Any] = {
    "annotate": {
        "p2seg": {
            "seeds": {"train": {"steps": 2, "ramp_steps": 0}},
            "network": {"backbone": "compact", "pretrained": False, "width": 8, "affinity_dim": 8},
            "crops": {"size_px": 32, "batch": 2},
            "train": {"steps": 2, "ramp_steps": 0},
        }
    },
    "splits": {"held_out_frac": 0.2},  # of a handful of images
    "warmup": {**SMALL_TRAINING, "loop": {"evaluate_every": 2}},
}


def write_some_voc(raw: Path) -> None:
    write_voc(raw, {"train": [f"2007_00{number:04d}" for number in range(6)], "val": ["2007_001000"]})


LAYOUTS = {"voc": write_some_voc, "coco": write_some_coco}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", STEPS)
def test_a_preset_runs_on_files_in_its_layout(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage of the recipe, on files in the data set's layout; only networks, lengths and sides are small."""
    monkeypatch.chdir(tmp_path)
    paths = RunPaths(dataset, labeled_pct=100, seed=0)
    paths.raw.parent.mkdir(parents=True)
    LAYOUTS[dataset](paths.raw)
    written = yaml.load((ROOT / "params" / f"p2seg_{dataset}.yaml").read_text(encoding="utf-8"))
    Path("params.yaml").write_text(json.dumps(merged(written, SMALL)))
    assert len(STAGES) == 5
    for name in STAGES:
        options = [] if name in ("stages.prepare", "stages.nnec") else ["--device", "cpu"]
        options += ["--workers", "1", "--cache", "cache"] if name == "stages.annotate" else []
        options += ["--labeled-pct", "100"] if name.startswith("stages.segmenter.") else []
        done = CliRunner().invoke(importlib.import_module(name).app, ["--dataset", dataset, *options])
        assert done.exit_code == 0, f"{name}: {done.output} {done.exception!r}"
    store = MaskStore.open(paths.annotate)
    assert store.provenance.algorithm == "p2seg"
    assert sum(store.n_instances(image_id) for image_id in store.image_ids) > 0
    figures = json.loads(paths.metrics.read_text())
    for key in ("ap", "ap_50", "voc_ap_25", "voc_ap_50", "voc_ap_70", "voc_ap_75", "annotate_mean_iou"):
        assert 0 <= figures[key] <= 1, key
