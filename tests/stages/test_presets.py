"""params/*.yaml for the papers' data sets: complete, as the reference has them, and fit to train on those layouts."""

import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML
from typer.testing import CliRunner

from stages import annotate, judge, nnec, prepare, pseudo_label, retrain, warmup
from stages.params import load_params
from stages.paths import RunPaths
from tests.datasets.fake_layouts import POINTS, write_jhu, write_qnrf, write_shanghaitech
from tests.stages.test_params import leaves

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "presets.md"
yaml = YAML(typ="safe", pure=True)

TRAINING_IMAGES = {"sha": 300, "qnrf": 1201, "jhu": 2272}
BATCH = 16
REFERENCE = {
    # w_bg, w_fg, epochs of the last phase, its learning rate, weight decay, tau and lambda of pseudo-labels
    ("sha", 5): (0, 0.005, 100, 5e-5, 1e-4, 0.8, 0.6),
    ("sha", 10): (0, 0.005, 100, 5e-6, 1e-4, 0.8, 0.6),
    ("sha", 40): (0.1, 0.005, 75, 1e-5, 1e-4, 0.95, 0.4),
    ("qnrf", 5): (0.05, 0.0025, 50, 1e-5, 1e-4, 0.8, 0.6),
    ("qnrf", 10): (0, 0, 500, 1e-5, 5e-4, 0.8, 0.6),
    ("qnrf", 40): (0.01, 0, 2000, 5e-6, 1e-5, 0.8, 0.6),
    ("jhu", 5): (0.05, 0, 300, 1e-5, 1e-6, 0.8, 0.6),
    ("jhu", 10): (0.05, 0, 300, 1e-5, 1e-4, 0.8, 0.6),
    ("jhu", 40): (0.05, 0, 300, 1e-5, 1e-5, 0.8, 0.6),
}
PRESETS = sorted(TRAINING_IMAGES)


def preset(name: str) -> Path:
    return ROOT / "params" / f"{name}.yaml"


def shown_commands(name: str) -> dict[int, list[str]]:
    """Share → overrides of the page's ``dvc exp run`` lines below ``cp params/NAME.yaml params.yaml``."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    block = next(one for one in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if f"cp params/{name}.yaml" in one)
    found = {}
    for line in block.splitlines():
        if line.startswith("dvc exp run"):
            overrides = [word.strip("'") for word in re.findall(r"-S (\S+)", line)]
            found[int(re.findall(r"labeled_pct=\[(\d+)\]", line)[0])] = overrides
    return found


def test_there_is_a_preset_for_each_data_set() -> None:
    systems = {path.stem: yaml.load(path.read_text(encoding="utf-8"))["system"] for path in (ROOT / "params").iterdir()}
    assert sorted(name for name, system in systems.items() if system == "crowd") == PRESETS
    assert set(systems.values()) == {"crowd", "segmenter"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_every_key_and_none_unknown(name: str) -> None:
    params = load_params(preset(name))
    assert (params.datasets, params.labeled_pct) == ((name,), (10,))
    written, whole = (
        leaves(yaml.load(path.read_text(encoding="utf-8"))) for path in (preset(name), ROOT / "params.yaml")
    )
    assert sorted(whole.keys() ^ written.keys()) == [], "DVC wants every key that dvc.yaml lists"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_schedule_of_the_reference(name: str) -> None:
    params = load_params(preset(name))
    per_epoch = math.ceil(TRAINING_IMAGES[name] / BATCH)
    teacher, student, model = params.warmup, params.retrain, params.model
    assert teacher.count.steps + student.count.steps == 1500 * per_epoch
    assert student.mask.steps == 500 * per_epoch
    assert student.unlabeled.delay_steps == 50 * per_epoch == teacher.count.steps
    assert student.unlabeled.weight_max / student.unlabeled.ramp_steps == pytest.approx(0.01 / per_epoch)
    assert (student.unlabeled.weight_start, student.unlabeled.weight_max, student.teacher) == (0.1, 2.0, "ema")
    assert (model.backbone, model.pretrained, model.width, model.mask_width) == ("vgg16_bn", True, 256, 256)
    for phase in (teacher.count, student.count):
        assert (phase.learning_rate, phase.encoder_learning_rate) == (5e-5, 1e-5)
    for phase in (teacher.mask, student.mask):
        assert phase.learning_rate == 5e-6
    for stage in (teacher, student):
        assert (stage.crops.size_px, stage.crops.batch, stage.loop.ema_decay, stage.loop.clip_norm) == (
            256,
            16,
            0.998,
            5,
        )
        assert stage.labeled_colors.jitter_prob == stage.labeled_colors.gray_prob == stage.labeled_colors.blur_prob == 0
        for phase in (stage.count, stage.mask, student.constraint):
            assert (phase.decay, phase.ramp_steps) == ("constant", 0)
    text = preset(name).read_text(encoding="utf-8")
    sums = re.findall(rf": (\d+) +# ([\d,]+) × {per_epoch}\b", text)
    assert len(sums) == 9, "arithmetic beside five lengths, two intervals, ramp and delay"
    assert all(int(steps) == int(epochs.replace(",", "")) * per_epoch for steps, epochs in sums)


@pytest.mark.parametrize("name", PRESETS)
def test_the_shown_commands_set_what_differs_by_share(name: str, tmp_path: Path) -> None:
    commands = shown_commands(name)
    assert list(commands) == [5, 10, 40]
    path = tmp_path / "params.yaml"
    shutil.copy(preset(name), path)
    for pct in (40, 5, 10, 5, 40):  # one after the other, in any order
        apply_overrides(path, commands[pct])
        check_share(name, pct, path)
    check_share(name, 10, preset(name))


def check_share(name: str, pct: int, path: Path) -> None:
    params = load_params(path)
    teacher, student, energy = params.warmup, params.retrain, params.pseudo_label.energy
    w_bg, w_fg, epochs, rate, decay, tau, lambda_geo = REFERENCE[name, pct]
    assert params.labeled_pct == (pct,)
    assert (student.w_bg, student.w_fg) == (w_bg, w_fg)
    assert student.constraint.steps == epochs * math.ceil(TRAINING_IMAGES[name] / BATCH)
    assert student.constraint.learning_rate == rate
    phases = teacher.count, teacher.mask, student.count, student.mask, student.constraint
    assert {phase.weight_decay for phase in phases} == {decay}
    assert (energy.tau, energy.lambda_geo) == (tau, lambda_geo)


STEP = {"steps": 1}
SMALL_LOOP = {"evaluate_every": 2, "log_every": 1, "load_workers": 1, "tile_px": 128, "halo_px": 16}
SMALL: dict[str, Any] = {
    "model": {"backbone": "", "pretrained": False, "width": 8, "mask_width": 8, "embed_dim": 4, "prior_prob": 0.4},
    "annotate": {"method": "disc"},
    "warmup": {"count": {"steps": 2}, "mask": STEP, "crops": {"size_px": 32, "batch": 2}, "loop": SMALL_LOOP},
    "pseudo_label": {"tile_px": 128, "halo_px": 16},
    "retrain": {
        "count": {"steps": 2}, "mask": STEP, "constraint": STEP, "crops": {"size_px": 32, "batch": 2},
        "loop": SMALL_LOOP, "unlabeled": {"delay_steps": 0},
        "gate": {"max_error_ratio": 1e9, "min_count_ratio": 0.0, "max_count_ratio": 1e9},
    },
}  # fmt: skip
HEADS = [POINTS, POINTS[:1], POINTS[:2]]  # counts differ, or guessing their mean would be a perfect counter
LAYOUTS = {
    "sha": lambda raw: write_shanghaitech(raw, part="part_A", points={"train": HEADS, "test": [POINTS]}),
    "qnrf": lambda raw: write_qnrf(raw, train=HEADS),
    "jhu": write_jhu,
}
BACKBONES = {"sha": "vgg16_bn", "qnrf": "resnet10t", "jhu": "resnet10t"}  # the presets' own once: it takes seconds


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: merged(base[key], change[key]) if isinstance(change[key], Mapping) else change[key] for key in change}
    assert base.keys() >= change.keys()
    return {**base, **both}


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains_on_files_in_its_layout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage before evaluate, on files in the data set's layout; only lengths, widths and crops are small."""
    monkeypatch.chdir(tmp_path)
    paths = RunPaths(name, labeled_pct=50, seed=0)
    paths.raw.parent.mkdir(parents=True)
    LAYOUTS[name](paths.raw)
    small = merged(SMALL, {"model": {"backbone": BACKBONES[name]}})
    Path("params.yaml").write_text(json.dumps(merged(yaml.load(preset(name).read_text(encoding="utf-8")), small)))
    for stage in (prepare, nnec, annotate, warmup, pseudo_label, judge, retrain):
        options = [] if stage in (prepare, nnec, judge) else ["--device", "cpu"]
        options += ["--labeled-pct", "50"] if stage in (warmup, pseudo_label, judge, retrain) else []
        options += ["--workers", "1"] if stage is annotate else []
        options += ["--cache", "cache"] if stage is annotate else []
        done = CliRunner().invoke(stage.app, ["--dataset", name, *options])
        assert done.exit_code == 0, f"{stage.__name__}: {done.output} {done.exception!r}"
    teacher, student = (json.loads((folder / "metrics.json").read_text()) for folder in (paths.warmup, paths.retrain))
    assert (teacher["last_step"], student["last_step"]) == (3, 4)
    assert math.isfinite(student["held_out_mae"])
    record = json.loads((paths.retrain / "model.json").read_text())
    assert record["architecture"]["backbone"] == BACKBONES[name]
