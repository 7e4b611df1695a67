import json

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

from pipeline.training.checkpoint import read_record, read_weights
from pipeline.training.options import LoopOptions, PhaseOptions
from pipeline.training.phases import Phase
from pipeline.training.training_run import TrainingRun
from tests.training.shapes_home import place_below


def loss(student, teacher, batch, phase_step):
    return {"loss": (student(batch) - 1).square().mean()}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        return self.head(x)


def train(root, *, seed=0, evaluate=lambda net, phase: {"error": 1.0}):
    run = TrainingRun(
        kind="tiny", architecture={"size": 3}, parameters={"seed": seed}, inputs={"data": "d"},
        options=LoopOptions(evaluate_every=1, log_every=1, checkpoint_every=1, choose_from_frac=0.0),
        place=place_below(root, "warmup"), description="warmup",
    )  # fmt: skip
    phase = Phase("train", PhaseOptions(steps=4, optimizer="adam"), ("head",), lambda step: torch.ones(2, 3), loss)
    return run.train(
        Net(), [phase], fabric=Fabric(accelerator="cpu", devices=1), evaluate=evaluate, error_name="error",
        early={1: "early_1.safetensors", 3: "early_2.safetensors"}, extra_figures=lambda: {"n": 7},
    )  # fmt: skip


def test_a_run_leaves_weights_records_curves_and_figures(tmp_path):
    figures = train(tmp_path)
    out = tmp_path / "warmup"
    assert json.loads((out / "metrics.json").read_text()) == figures
    assert (figures["chosen_step"], figures["last_step"], figures["n"]) == (4, 4, 7)
    assert figures["held_out_error"] == 1.0
    for name, step in (("model", 4), ("last", 4), ("early_1", 1), ("early_2", 3)):
        record = read_record(out / f"{name}.safetensors", kind="tiny")
        assert (record.step, dict(record.architecture), dict(record.parameters)) == (step, {"size": 3}, {"seed": 0})
    weights = [read_weights(out / f"{name}.safetensors")["head.weight"] for name in ("early_1", "early_2", "last")]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert not (tmp_path / "resume").exists() or not any((tmp_path / "resume").rglob("*.pt"))


def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path):
    train(tmp_path / "whole")
    looks = []

    def stop(net, phase):
        looks.append(1)
        if len(looks) == 3:
            raise KeyboardInterrupt
        return {"error": 1.0}

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", evaluate=stop)
    assert not (tmp_path / "stopped" / "warmup").exists()
    train(tmp_path / "stopped")
    for path in (tmp_path / "whole" / "warmup").rglob("*.*"):
        if path.is_file():
            other = tmp_path / "stopped" / path.relative_to(tmp_path / "whole")
            assert other.read_bytes() == path.read_bytes(), path.name


def test_a_state_of_other_parameters_is_not_taken_up(tmp_path):
    def stop(net, phase):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, evaluate=stop)
    assert train(tmp_path, seed=1)["last_step"] == 4
