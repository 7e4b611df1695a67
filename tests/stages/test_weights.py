import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from pipeline.annotators.disc import DiscAnnotator
from pipeline.datasets.crowd_scene.held_out import HeldOutScene
from pipeline.models.compact_sam import build_compact_sam
from pipeline.models.pretrained import WEIGHTS
from pipeline.training.promptable import save_compact_weights
from stages.weights import app

runner = CliRunner()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOTMASK_WEIGHTS", "mine")
    monkeypatch.setattr("pipeline.models.pretrained.SHIPPED_FOLDER", tmp_path / "shipped")
    return tmp_path


def test_list_names_files_places_and_sources(home: Path) -> None:
    (home / "mine").mkdir()
    (home / "mine/sam_vit_l_0b3195.pth").write_bytes(b"")
    result = runner.invoke(app, ["list"])
    assert result.exit_code == 0, result.output
    for name, weights in WEIGHTS.items():
        assert name in result.output
        assert weights.file_name[:8] in result.output
    cells = [[cell.strip() for cell in line.split("│")] for line in result.output.splitlines()]
    there = {row[1]: row[3] for row in cells if len(row) > 3 and row[1]}
    assert there == {"compact": "no", "vit_b": "no", "vit_l": "yes", "vit_h": "no"}


def test_verify_prints_the_digest(home: Path) -> None:
    (home / "shipped").mkdir()
    (home / "shipped/compact.safetensors").write_bytes(b"some weights")
    result = runner.invoke(app, ["verify", "compact", "--no-scenes"])
    assert result.exit_code == 0, result.output
    assert f"compact: SHA-256 {hashlib.sha256(b'some weights').hexdigest()}" in "".join(result.output.splitlines())


def test_verify_prints_figures_beside_the_discs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    save_compact_weights(build_compact_sam(), home / "shipped/compact.safetensors")
    plans = [HeldOutScene("sparse", 2, (1, 1))]
    monkeypatch.setattr("stages.weights.draw_held_out", lambda: [(plan, plan.render()) for plan in plans])
    result = runner.invoke(app, ["verify", "compact", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    for word in ("edp_sam, compact", "head prompts", "disc itself", "sparse", "all", "%"):
        assert word in result.output
    assert DiscAnnotator.name in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "vit_b"], "mine/sam_vit_b_01ec64.pth: the weights 'vit_b' are not there; run python -m stages."),
        (["verify", "compact"], "shipped/compact.safetensors: missing; it ships with the repository"),
        (["fetch", "vit_x"], "weights: 'vit_x' is unknown; expected one of compact, vit_b, vit_l, vit_h"),
        (["fetch", "compact"], "shipped/compact.safetensors: missing"),
        (["train-compact", "--device", "tpu"], "expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_users_mistake_gives_one_message(home: Path, arguments, message) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (home / "mine").exists()


def test_a_damaged_file_is_told(home: Path) -> None:
    (home / "mine").mkdir()
    (home / "mine/sam_vit_b_01ec64.pth").write_bytes(b"torn")
    for command in ("verify", "fetch"):
        result = runner.invoke(app, [command, "vit_b"])
        assert result.exit_code == 1
        assert "the file is damaged or another one: delete it" in result.output
    assert (home / "mine/sam_vit_b_01ec64.pth").read_bytes() == b"torn"


def test_train_compact_writes_weights_and_a_log(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def train(options, *, device, resume, report, workers):
        asked.append((options.steps, options.seed, device, resume, workers))
        report({"step": 1, "loss": 2.0})
        torch.manual_seed(options.seed)
        return build_compact_sam()

    monkeypatch.setattr("stages.weights.train_compact_sam", train)
    arguments = ["--steps", "1", "--seed", "3", "--workers", "0", "--device", "cpu", "--out", "here/new.safetensors"]
    for _ in range(2):
        result = runner.invoke(app, ["train-compact", *arguments])
        assert result.exit_code == 0, result.output
        assert "here/new.safetensors: 8." in result.output
    assert asked == [(1, 3, torch.device("cpu"), Path("resume/train-compact"), 0)] * 2
    assert len(load_file(home / "here/new.safetensors")) == len(build_compact_sam().state_dict())
    lines = (home / "logs/train-compact.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1, "loss": 2.0}] * 2


def test_help_explains_itself() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in ("list", "fetch", "verify", "train-compact"):
        assert command in result.output
