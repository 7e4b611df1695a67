import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.datasets.prepare import prepare_dataset
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.radii import compute_radii, read_radii, write_radii
from pipeline.datasets.synthetic import SyntheticReader
from pipeline.geometry.nnec import NnecOptions
from pipeline.masks.store import MaskStore
from stages.annotate import app
from tests.datasets.fake_layouts import tree_digest

SCENES = "splits: {train: {images: 2, height_px: 48, width_px: 64, heads: [3, 6]}}"
ROOT = Path("data/crowd")
runner = CliRunner()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prepared synthetic data set with its circles, in the working directory."""
    monkeypatch.chdir(tmp_path)
    put_method("disc")
    (ROOT / "raw").mkdir(parents=True)
    (ROOT / "raw/scenes.yaml").write_text(SCENES)
    prepare_dataset(SyntheticReader(), ROOT / "raw", ROOT / "prepared", ROOT, workers=1)
    write_radii(ROOT / "nnec/radii.parquet", compute_radii(Prepared.open(ROOT / "prepared"), NnecOptions()))
    return tmp_path


def put_method(method: str, more: str = "") -> None:
    Path("params.yaml").write_text(
        "datasets: [crowd]\nprepare: {sources: {crowd: {reader: synthetic}}}\n"
        f"annotate: {{method: {method}, weights: vit_b{more}}}\n"
    )


def run(*more: str, workers: int = 1):
    """Run the stage; more workers than one are processes, which take seconds to start."""
    return runner.invoke(app, ["--dataset", "crowd", "--device", "cpu", "--workers", str(workers), *more])


@pytest.mark.parametrize("method", ["disc", "superpixel", "truth"])
def test_masks_of_every_point(home: Path, method: str) -> None:
    put_method(method, ", superpixel: {segments_per_circle: 20.0}")
    result = run(workers=2 if method == "disc" else 1)
    assert result.exit_code == 0, result.output
    assert f"crowd: masks by {method}" in result.output
    store, prepared = MaskStore.open(ROOT / "annotate"), Prepared.open(ROOT / "prepared")
    radii = read_radii(ROOT / "nnec/radii.parquet")
    assert store.image_ids == [row.image_id for row in prepared.images]
    assert store.provenance.algorithm == method
    assert store.provenance.weights_sha256 is None
    assert store.provenance.params.get("segments_per_circle") == (20.0 if method == "superpixel" else None)
    for image_id in store.image_ids:
        rows = store.instances(image_id)
        np.testing.assert_array_equal(rows.points_xy, prepared.points(image_id).points_xy)
        np.testing.assert_array_equal(rows.radius_px, radii.of(image_id))
        assert (rows.status == "ok").all()
    log = [json.loads(line) for line in Path("logs/crowd/annotate.jsonl").read_text().splitlines()]
    assert sorted(line["image_id"] for line in log) == store.image_ids  # as they were finished
    before = tree_digest(ROOT)
    assert run().exit_code == 0
    assert tree_digest(ROOT) == before


def test_a_smaller_circle_cuts_the_truth(home: Path) -> None:
    put_method("truth")
    write_radii(
        ROOT / "nnec/radii.parquet",
        compute_radii(Prepared.open(ROOT / "prepared"), NnecOptions(max_radius_frac=0.07, min_radius_px=1.0)),
    )
    assert run().exit_code == 0
    rows = MaskStore.open(ROOT / "annotate").instances("train/0000")
    assert rows.area_px.max() <= np.pi * (0.07 * 48 + 1) ** 2


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("disc", ["--dataset", "nowhere"], "data/nowhere/prepared/images.parquet: no such file; run python -m"),
        ("disc", ["--device", "tpu"], "expected auto, cpu, cuda or cuda:N"),
        ("disc", ["--params", "none.yaml"], "none.yaml: no such file"),
        ("discs", [], "annotate.method: expected one of edp_sam, superpixel, disc, truth, p2seg"),
        ("edp_sam", [], "nowhere/sam_vit_b_01ec64.pth: the weights 'vit_b' are not there; run python"),
    ],
)
def test_a_users_mistake_gives_one_message(home: Path, monkeypatch, method, arguments, message) -> None:
    monkeypatch.setenv("DOTMASK_WEIGHTS", "nowhere")
    put_method(method)
    before = tree_digest(home / "data")
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output
    assert tree_digest(home / "data") == before


def test_circles_must_have_been_made(home: Path) -> None:
    (ROOT / "nnec/radii.parquet").unlink()
    result = run()
    assert result.exit_code == 1
    assert "data/crowd/nnec/radii.parquet: no such file; run python -m stages.nnec first" in result.output
    assert not (ROOT / "annotate").exists()


def test_an_image_that_vanished_leaves_the_old_masks(home: Path) -> None:
    assert run().exit_code == 0
    before = tree_digest(ROOT / "annotate")
    image = Prepared.open(ROOT / "prepared").images[1].path
    image.unlink()
    result = run("--cache", "empty")
    assert result.exit_code == 1
    assert str(image) in result.output
    assert tree_digest(ROOT / "annotate") == before


def test_truth_needs_true_masks(home: Path) -> None:
    put_method("truth")
    (ROOT / "prepared/truth").rename(home / "elsewhere")
    result = run()
    assert result.exit_code == 1
    assert "annotate.method: truth needs true masks" in result.output


def test_help_explains_itself() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for word in ("--dataset", "--device", "--params", "--executor", "--workers", "--cache", "data/DATASET/annotate"):
        assert word in result.output


def test_p2seg_trains_on_the_points_first_and_once(home: Path) -> None:
    steps = "train: {steps: 2, ramp_steps: 0}"
    put_method(
        "p2seg",
        f", p2seg: {{seeds: {{{steps}}}, {steps}, network: {{width: 8, affinity_dim: 4}}, crops: {{size_px: 32}}}}",
    )
    result = run("--workers", "1")
    assert result.exit_code == 0, result.output
    assert "crowd: class maps, mean iou 0." in result.output
    assert "crowd: masks by p2seg" in result.output
    store, prepared = MaskStore.open(ROOT / "annotate"), Prepared.open(ROOT / "prepared")
    assert store.provenance.algorithm == "p2seg"
    assert store.provenance.weights_sha256
    for image_id in store.image_ids:
        rows, points = store.instances(image_id), prepared.points(image_id)
        assert rows.point_id.tolist() == points.point_id.tolist()
        assert set(rows.status.tolist()) <= {"ok", "fallback"}
    before = tree_digest(ROOT)
    trained = Path("logs/crowd/p2seg.jsonl").stat().st_mtime_ns
    assert run("--workers", "1").exit_code == 0
    assert tree_digest(ROOT) == before
    assert Path("logs/crowd/p2seg.jsonl").stat().st_mtime_ns == trained


def test_p2seg_names_a_map_that_is_missing(home: Path) -> None:
    put_method("p2seg", ", p2seg: {seeds: {source: folder, folder: maps}}")
    result = run()
    assert result.exit_code == 1
    assert "annotate.p2seg.seeds.folder: 2 of 2 class maps are not there (maps/train/0000.png" in result.output
    assert not (ROOT / "annotate").exists()
