import json
import math

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

from pipeline.compute.progress import JsonLines
from pipeline.errors import PipelineError
from pipeline.training import loop as loop_module
from pipeline.training.checkpoint import ResumeFile
from pipeline.training.loop import Phase, Training, rate_share
from pipeline.training.options import LoopOptions, PhaseOptions

CPU = torch.device("cpu")


class TinyNet(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(torch.relu(self.encoder(x)))


def make_batch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 4, generator=generator)
    return x, x.sum(dim=1, keepdim=True)


def squared_error(student, teacher, batch, phase_step):
    loss = (student(batch[0]) - batch[1]).square().mean()
    return {"loss": loss, "twice": 2 * loss}


PHASES = [
    Phase("both", PhaseOptions(steps=5, ramp_steps=1), ("encoder", "head"), make_batch, squared_error),
    Phase("none", PhaseOptions(steps=0), ("head",), make_batch, squared_error),
    Phase("head", PhaseOptions(steps=4, ramp_steps=0), ("head",), make_batch, squared_error),
]
OPTIONS = LoopOptions(evaluate_every=2, log_every=2, checkpoint_every=3, choose_from_frac=0.5)


def held_out_error(teacher, phase):
    x, y = make_batch(10**6)
    return {"mae": float((teacher(x) - y).abs().mean())}


def make_training(folder, *, phases=PHASES, evaluate=held_out_error, digest="d", append=False, options=OPTIONS):
    return Training(
        TinyNet(),
        phases,
        options=options,
        fabric=Fabric(accelerator="cpu", devices=1),
        evaluate=evaluate,
        error_name="mae",
        resume=ResumeFile(folder / "resume", digest=digest),
        log=JsonLines(folder / "log.jsonl", append=append),
    )


def same(a, b):
    assert a.curves == b.curves
    for x, y in ((a.chosen, b.chosen), (a.last, b.last)):
        assert (x.step, x.metrics) == (y.step, y.metrics)
        assert x.weights.keys() == y.weights.keys()
        assert all(torch.equal(x.weights[name], y.weights[name]) for name in x.weights)


@pytest.mark.parametrize("killed_at", range(1, 10))
def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch, killed_at):
    unbroken = make_training(tmp_path / "unbroken").run("train")

    step = Training._step
    seen = []

    def step_or_die(self, *args):
        if len(seen) == killed_at - 1:
            raise KeyboardInterrupt
        seen.append(1)
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", step_or_die)
        with pytest.raises(KeyboardInterrupt):
            make_training(tmp_path / "killed").run("train")
    steps = []
    monkeypatch.setattr(Training, "_step", lambda self, *args: (steps.append(1), step(self, *args))[1])
    same(make_training(tmp_path / "killed", append=True).run("train"), unbroken)
    assert len(steps) == 9 - (killed_at - 1) // 3 * 3  # from the last state, saved after every third step


def test_a_finished_training_is_not_repeated(tmp_path, monkeypatch):
    first = make_training(tmp_path).run("train")
    monkeypatch.setattr(Training, "_step", lambda *args: pytest.fail("trained again"))
    same(make_training(tmp_path).run("train"), first)


def test_a_state_of_other_inputs_is_not_taken_up(tmp_path, monkeypatch):
    make_training(tmp_path, digest="one").run("train")
    steps = []
    step = Training._step
    monkeypatch.setattr(Training, "_step", lambda self, *args: (steps.append(1), step(self, *args))[1])
    make_training(tmp_path, digest="two").run("train")
    assert len(steps) == 9


def test_only_what_is_to_learn_learns(tmp_path):
    start = TinyNet().state_dict()
    head_only = [Phase("head", PhaseOptions(steps=3), ("head",), make_batch, squared_error)]
    weights = make_training(tmp_path, phases=head_only).run("train").last.weights
    moved = {name for name in start if not torch.equal(start[name], weights[name])}
    assert moved == {"head.weight", "head.bias"}  # batch norm of the encoder stands still too


def test_the_encoder_has_its_own_rate(tmp_path):
    options = PhaseOptions(steps=3, encoder_learning_rate=0.0, weight_decay=0.0)
    start = TinyNet().state_dict()
    weights = make_training(
        tmp_path, phases=[Phase("both", options, ("encoder", "head"), make_batch, squared_error)]
    ).run("train").last.weights  # fmt: skip
    assert torch.equal(weights["encoder.0.weight"], start["encoder.0.weight"])
    assert not torch.equal(weights["head.weight"], start["head.weight"])


@pytest.mark.parametrize(
    ("errors", "chosen_step"),
    [
        ([1, 1, 9, 5, 7], 8),  # the first two looks do not compete
        ([1, 1, 5, 9, 5], 10),  # of equals the latest
        ([0, 0, 2, 1, 0], 10),
    ],
)
def test_the_least_error_of_the_later_looks_is_chosen(tmp_path, errors, chosen_step):
    given = iter(errors)
    phases = [Phase("head", PhaseOptions(steps=10), ("head",), make_batch, squared_error)]
    trained = make_training(tmp_path, phases=phases, evaluate=lambda *_: {"mae": float(next(given))}).run("train")
    assert trained.chosen.step == chosen_step
    assert trained.last.step == 10


def test_a_phase_goes_on_from_the_weights_chosen_before(tmp_path):
    errors = {"both": iter([9.0, 1.0, 2.0]), "head": iter([5.0, 5.0])}
    kept = {}

    def evaluate(teacher, phase):
        kept.setdefault(phase, []).append({name: value.clone() for name, value in teacher.state_dict().items()})
        return {"mae": next(errors[phase])}

    trained = make_training(tmp_path, evaluate=evaluate).run("train")
    chosen_first = kept["both"][1]["encoder.0.weight"]
    assert not torch.equal(chosen_first, kept["both"][2]["encoder.0.weight"])
    assert torch.equal(trained.last.weights["encoder.0.weight"], chosen_first)


def test_curves_are_means_since_the_last_point(tmp_path):
    losses = {}

    def evaluate(teacher, phase):
        return {"mae": 0.0}

    def counted(student, teacher, batch, phase_step):
        loss = squared_error(student, teacher, batch, phase_step)["loss"]
        losses[len(losses) + 1] = float(loss.detach())
        return {"loss": loss}

    phases = [Phase("head", PhaseOptions(steps=5), ("head",), make_batch, counted)]
    curves = make_training(tmp_path, phases=phases, evaluate=evaluate).run("train").curves
    points = [(step, row["head/loss"]) for step, row in curves if "head/loss" in row]
    expected = [(2, (losses[1] + losses[2]) / 2), (4, (losses[3] + losses[4]) / 2), (5, losses[5])]
    assert [step for step, _ in points] == [2, 4, 5]
    assert [value for _, value in points] == pytest.approx([value for _, value in expected])
    assert [step for step, row in curves if "held_out/mae" in row] == [2, 4, 5]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["head/loss"]) for line in lines if "head/loss" in line] == points


def test_a_loss_that_is_no_number_stops_the_training(tmp_path):
    phases = [
        Phase("head", PhaseOptions(steps=9), ("head",), make_batch,
              lambda student, teacher, batch, step: {"loss": student(batch[0]).mean() * math.nan})
    ]  # fmt: skip
    with pytest.raises(PipelineError, match="phase 'head' is no longer a number at step 2.*lower its learning_rate"):
        make_training(tmp_path, phases=phases).run("train")
    assert not (tmp_path / "resume").exists()


def test_nothing_to_train(tmp_path):
    with pytest.raises(PipelineError, match="every phase has 0 steps"):
        make_training(tmp_path, phases=[PHASES[1]])


@pytest.mark.parametrize(
    ("options", "step", "share"),
    [
        (PhaseOptions(steps=10, decay="constant", ramp_steps=0), 7, 1.0),
        (PhaseOptions(steps=10, decay="constant", ramp_steps=3), 0, 0.25),
        (PhaseOptions(steps=10, decay="cosine", ramp_steps=0), 0, 1.0),
        (PhaseOptions(steps=10, decay="cosine", ramp_steps=0), 5, 0.505),
        (PhaseOptions(steps=10, decay="cosine", ramp_steps=0), 10, loop_module.FINAL_RATE),
    ],
)
def test_the_learning_rate_rises_and_falls(options, step, share):
    assert rate_share(options, step) == pytest.approx(share)
