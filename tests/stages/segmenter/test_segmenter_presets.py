"""params/coco.yaml and params/bdd100k.yaml: complete, as PointWSSIS's reference has them, and fit for those layouts."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.masks.store import MaskStore
from pipeline.models.refine_net import build_refine_net
from pipeline.models.solov2 import build_solov2
from stages import annotate, nnec, prepare
from stages.params import load_segmenter_params
from stages.paths import RunPaths
from stages.segmenter import evaluate, pseudo_label, refine, refiner, retrain, warmup
from stages.segmenter.sections import SegmenterParams
from tests.datasets.fake_masks import SQUARE, coco_annotation, coco_content, write_bdd100k, write_coco
from tests.stages.test_params import leaves
from tests.stages.test_presets import merged

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "presets.md"
yaml = YAML(typ="safe", pure=True)

COCO_IMAGES, BDD_IMAGES = 118_287, 7_000
TEACHER = {
    # strong share of COCO: steps, steps at which the rate drops, steps at which the refiner's weights are kept
    1: (10_000, (5_000, 8_000), (5_000, 9_999)),  # 10,000 there, which are the last
    2: (25_000, (15_000, 20_000), (10_000, 20_000)),
    5: (30_000, (20_000, 25_000), (15_000, 25_000)),
    10: (45_000, (35_000, 40_000), (30_000, 40_000)),
    20: (120_000, (90_000, 110_000), (70_000, 100_000)),
    30: (160_000, (120_000, 150_000), (100_000, 130_000)),
    40: (215_000, (165_000, 200_000), (140_000, 185_000)),  # ours: the middle of 30 and 50 %
    50: (270_000, (210_000, 250_000), (180_000, 240_000)),
}
STUDENT = {"coco": (270_000, (210_000, 250_000)), "bdd100k": TEACHER[5][:2]}
SHARES = {"coco": list(TEACHER), "bdd100k": [5, 10, 20, 30, 50]}
PRESETS = sorted(SHARES)


def preset(name: str) -> Path:
    return ROOT / "params" / f"{name}.yaml"


def shown_commands(name: str, recipe: str = "pointwssis") -> dict[int, list[str]]:
    """Share → overrides of the page's ``dvc exp run`` lines below the line that copies the preset."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    copies = f"cp params/{name}.yaml recipes/{recipe}/params.yaml\ncd recipes/{recipe}\n"
    [block] = [one for one in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if one.startswith(copies)]
    found = {}
    for line in block.splitlines():
        if line.startswith("dvc exp run"):
            overrides = [word.strip("'") for word in re.findall(r"-S (\S+)", line)]
            found[int(re.findall(r"labeled_pct=\[(\d+)\]", line)[0])] = overrides
    return found


def nearest_share_of_coco(n_strong: int) -> int:
    return min(TEACHER, key=lambda pct: abs(math.log(n_strong / (COCO_IMAGES * pct / 100))))


def test_there_are_presets_of_these_data_sets_alone() -> None:
    files = {path.stem: yaml.load(path.read_text(encoding="utf-8")) for path in (ROOT / "params").iterdir()}
    systems = {name: file["system"] for name, file in files.items() if file["annotate"]["method"] != "p2seg"}
    found = sorted(name for name, system in systems.items() if system == "segmenter" and not name.endswith("_pldc"))
    assert found == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_every_key_and_none_unknown(name: str) -> None:
    params = load_segmenter_params(preset(name))
    assert (params.datasets, params.labeled_pct, params.annotate.method) == ((name,), (10,), "truth")
    written = leaves(yaml.load(preset(name).read_text(encoding="utf-8")))
    other_methods = ("annotate.weights", "annotate.edp_sam.", "annotate.superpixel.", "annotate.p2seg.")
    assert (
        sorted(key for key in leaves(SegmenterParams()).keys() ^ written.keys() if not key.startswith(other_methods))
        == []
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_values_of_the_reference(name: str) -> None:
    """Sections 2 to 5 of the specification."""
    params = load_segmenter_params(preset(name))
    teacher, student, refiner_options = params.warmup, params.retrain.learn, params.refiner
    assert teacher.network.grids == (80, 64, 32, 24, 12)
    assert teacher.ranges_px == ((1, 72), (72, 144), (144, 288), (288, 584), (584, 2048))
    assert student.network.grids == (40, 36, 24, 16, 12)
    assert student.ranges_px == ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
    assert (teacher.train.learning_rate, teacher.train.ramp_steps) == (0.05, 3000)
    assert (student.train.learning_rate, student.train.ramp_steps) == (0.01, 1000)
    for learn in (teacher, student):
        net, train, views, loop = learn.network, learn.train, learn.views, learn.loop
        assert net.backbone.split(".")[0] == "resnet101"
        assert net.pretrained
        assert (net.fpn_width, net.tower_width, net.tower_depth) == (256, 512, 4)
        assert (net.kernel_dim, net.mask_width, net.prior_prob) == (256, 128, 0.01)
        assert (train.optimizer, train.momentum, train.weight_decay, train.decay) == ("sgd", 0.9, 1e-4, "steps")
        assert (train.encoder_rate_share, learn.dice_weight) == (1.0, 3.0)
        assert (views.batch, views.short_side_min_px, views.short_side_max_px) == (16, 640, 800)
        assert (views.long_side_px, views.test_short_side_px, views.flip_prob) == (1333, 800, 0.5)
        assert views.colors.jitter_prob == views.colors.gray_prob == views.colors.blur_prob == 0
        assert (loop.ema_decay, loop.choose_from_frac, loop.patience, loop.frozen_norm) == (0, 1, 0, True)
        assert loop.clip_norm >= 1e6
    assert (params.retrain.start, params.retrain.weak, params.retrain.masks) == ("fresh", True, "refined")
    net, crops, train = refiner_options.network, refiner_options.crops, refiner_options.train
    assert net.backbone.split(".")[0] == "resnet101"
    assert (net.pretrained, net.context_width, net.context_rates) == (True, 512, (3, 6, 9))
    assert net.decoder_widths == (256, 128, 64, 64)
    assert (crops.size_px, crops.batch, crops.heat_sigma_px, crops.flip_prob) == (256, 16, 6.0, 0.5)
    assert (crops.context_max, crops.scale_min, crops.scale_max, crops.context) == (2.0, 0.5, 1.5, 2.0)
    assert (train.optimizer, train.learning_rate, train.decay, train.weight_decay) == ("adam", 1e-4, "cosine", 0)
    assert (train.steps, train.ramp_steps, refiner_options.ce_weight) == (200_000, 2000, 0)
    assert (params.pseudo_label.choose, params.pseudo_label.min_area) == ("best", (8, 8, 16, 32, 32))
    detect = params.evaluate.detect
    assert (detect.class_thr, detect.min_area, detect.max_candidates) == (0.1, (8, 8, 16, 32, 32), 500)
    assert (detect.nms, detect.sigma, detect.score_thr, detect.max_detections) == ("matrix", 2.0, 0.05, 100)
    assert params.evaluate.prompt == "none"


@pytest.mark.parametrize("name", PRESETS)
def test_the_shown_commands_set_what_differs_by_share(name: str, tmp_path: Path) -> None:
    commands = shown_commands(name)
    assert list(commands) == SHARES[name]
    path = tmp_path / "params.yaml"
    shutil.copy(preset(name), path)
    for pct in (*reversed(SHARES[name]), SHARES[name][-1]):  # one after the other, in any order
        apply_overrides(path, commands[pct])
        check_share(name, pct, path)
    check_share(name, 10, preset(name))


def check_share(name: str, pct: int, path: Path) -> None:
    params = load_segmenter_params(path)
    teacher, student = params.warmup, params.retrain.learn
    share = pct if name == "coco" else nearest_share_of_coco(BDD_IMAGES * pct // 100)
    steps, drops, early = TEACHER[share]
    assert params.labeled_pct == (pct,)
    assert (teacher.train.steps, steps_reached(teacher.train), teacher.early_steps) == (steps, drops, early)
    assert (student.train.steps, steps_reached(student.train)) == STUDENT[name]
    assert student.early_fracs == ()


def steps_reached(train: Any) -> tuple[int, ...]:
    """The first steps that are not before the shares of the phase."""
    return tuple(math.ceil(frac * train.steps) for frac in train.drop_at_frac)


def test_lengths_without_a_script_follow_their_rules() -> None:
    middle = tuple((a + b) // 2 for a, b in zip(flat(TEACHER[30]), flat(TEACHER[50]), strict=True))
    assert flat(TEACHER[40]) == middle
    assert nearest_share_of_coco(BDD_IMAGES) == 5


def flat(values: Any) -> tuple[int, ...]:
    return tuple(np.hstack(values).tolist())


def test_the_networks_can_be_built_at_their_own_size() -> None:
    """On a device without memory; millions of parameters."""
    params, other = (load_segmenter_params(preset(name)) for name in PRESETS)
    assert (params.retrain.learn.network, params.refiner.network) == (
        other.retrain.learn.network,
        other.refiner.network,
    )
    n_classes = 80
    with torch.device("meta"):
        solo = build_solov2(replace(params.retrain.learn.network, pretrained=False), n_classes)
        mender = build_refine_net(replace(params.refiner.network, pretrained=False), n_classes)
    for net, millions in ((solo, 66), (mender, 80)):
        assert round(sum(values.numel() for values in net.parameters()) / 1e6) == millions


SMALL_NETWORK = {
    "backbone": "compact", "pretrained": False, "fpn_width": 8, "tower_width": 8, "tower_depth": 1, "kernel_dim": 8,
    "mask_width": 8, "grids": [10, 8, 6, 4, 3],
}  # fmt: skip
SMALL_LOOP = {"evaluate_every": 2, "log_every": 1, "load_workers": 1}
SMALL_TRAINING = {
    "network": SMALL_NETWORK,
    "ranges_px": [[1, 12], [12, 24], [24, 36], [36, 48], [48, 128]],
    "train": {"steps": 3},
    "views": {"batch": 2, "short_side_min_px": 48, "short_side_max_px": 64, "long_side_px": 96,
              "test_short_side_px": 64},
    "loop": SMALL_LOOP,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "warmup": SMALL_TRAINING,
    "refiner": {
        "network": {"backbone": "small", "pretrained": False, "small_widths": [8, 8, 8, 8], "context_width": 8,
                    "decoder_widths": [8, 8, 8]},
        "crops": {"size_px": 32, "batch": 2},
        "train": {"steps": 2},
        "loop": {**SMALL_LOOP, "precision": "32-true"},  # no processor has 16-mixed
    },
    "retrain": {"learn": SMALL_TRAINING},
}  # fmt: skip


def write_some_coco(raw: Path) -> None:
    """Eight training images and one to test on, two objects of other classes in each; category ids have gaps."""

    def content(numbers: range) -> dict[str, Any]:
        images = [{"id": k, "file_name": f"{k:012d}.jpg", "height": 24, "width": 32} for k in numbers]
        big = [[12.0, 4.0, 30.0, 4.0, 30.0, 22.0, 12.0, 22.0]]
        annotations = [
            annotation
            for k in numbers
            for annotation in (coco_annotation(2 * k, k, 1, SQUARE), coco_annotation(2 * k + 1, k, 90, big, bbox=None))
        ]
        return coco_content(images=images, annotations=annotations)

    write_coco(raw, content(range(8)), content(range(8, 9)))


LAYOUTS = {"coco": write_some_coco, "bdd100k": lambda raw: write_bdd100k(raw, train=8)}


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_runs_on_files_in_its_layout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage of the recipe, on files in the data set's layout; only lengths, widths, sides and crops are small."""
    monkeypatch.chdir(tmp_path)
    paths = RunPaths(name, labeled_pct=50, seed=0)
    paths.raw.parent.mkdir(parents=True)
    LAYOUTS[name](paths.raw)
    Path("params.yaml").write_text(json.dumps(merged(yaml.load(preset(name).read_text(encoding="utf-8")), SMALL)))
    told = ""
    for stage in (prepare, nnec, annotate, warmup, pseudo_label, refiner, refine, retrain, evaluate):
        options = [] if stage in (prepare, nnec) else ["--device", "cpu"]
        options += ["--workers", "1", "--cache", "cache"] if stage is annotate else []
        options += [] if stage in (prepare, nnec, annotate) else ["--labeled-pct", "50"]
        done = CliRunner().invoke(stage.app, ["--dataset", name, *options])
        assert done.exit_code == 0, f"{stage.__name__}: {done.output} {done.exception!r}"
        told += done.output if stage is warmup else ""
    teacher, student = (json.loads((folder / "metrics.json").read_text()) for folder in (paths.warmup, paths.retrain))
    assert (teacher["last_step"], teacher["chosen_step"], student["last_step"]) == (3, 3, 3)
    assert (teacher["n_strong"], student["n_weak"]) == (3, 4)
    unseen = {"coco": ("dog", 1), "bdd100k": ("rider, truck, bus, train, motorcycle, bicycle", 6)}[name]
    assert f"no strong image shows {unseen[0]} ({unseen[1]} of " in told
    assert teacher["classes_unseen"] == unseen[1]
    assert len(MaskStore.open(paths.refined)) == 4
    figures = json.loads(paths.metrics.read_text())
    for key in ("ap", "ap_50", "ap_75", "teacher_ap", "pseudo_label_mean_iou"):
        assert 0 <= figures[key] <= 1, key
