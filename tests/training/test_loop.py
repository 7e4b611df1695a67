import json
import math
from dataclasses import replace

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

from pipeline.compute.progress import JsonLines
from pipeline.errors import PipelineError
from pipeline.training.checkpoint import ResumeFile
from pipeline.training.loop import Training
from pipeline.training.options import LoopOptions, PhaseOptions
from pipeline.training.phases import Phase
from pipeline.training.segment_options import SegmentPhaseOptions

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
SGD = SegmentPhaseOptions(steps=5, learning_rate=0.01, decay="steps", drop_at_frac=(0.5,), ramp_steps=1)
SGD_PHASES = [
    Phase("both", SGD, ("encoder", "head"), make_batch, squared_error),
    Phase("head", replace(SGD, steps=4, optimizer="adam"), ("head",), make_batch, squared_error),
]
OPTIONS = LoopOptions(evaluate_every=2, log_every=2, checkpoint_every=3, choose_from_frac=0.5)


def held_out_error(teacher, phase):
    x, y = make_batch(10**6)
    return {"mae": float((teacher(x) - y).abs().mean())}


def no_rescue(good):
    pytest.fail("diverged")


def make_training(
    folder, *, phases=PHASES, evaluate=held_out_error, digest="d", append=False, options=OPTIONS, rescue=no_rescue,
    oracle=None,
):  # fmt: skip
    return Training(
        TinyNet(),
        phases,
        options=options,
        fabric=Fabric(accelerator="cpu", devices=1),
        evaluate=evaluate,
        error_name="mae",
        resume=ResumeFile(folder / "resume", digest=digest),
        log=JsonLines(folder / "log.jsonl", append=append),
        rescue=rescue,
        oracle=oracle,
    )


def same(a, b):
    assert a.curves == b.curves
    for x, y in ((a.chosen, b.chosen), (a.last, b.last)):
        assert (x.step, x.metrics) == (y.step, y.metrics)
        assert x.weights.keys() == y.weights.keys()
        assert all(torch.equal(x.weights[name], y.weights[name]) for name in x.weights)


@pytest.mark.parametrize(
    ("killed_at", "phases"), [*((at, PHASES) for at in range(1, 10)), (5, SGD_PHASES), (8, SGD_PHASES)]
)
def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch, killed_at, phases):
    unbroken = make_training(tmp_path / "unbroken", phases=phases).run("train")

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
            make_training(tmp_path / "killed", phases=phases).run("train")
    steps = []
    monkeypatch.setattr(Training, "_step", lambda self, *args: (steps.append(1), step(self, *args))[1])
    same(make_training(tmp_path / "killed", phases=phases, append=True).run("train"), unbroken)
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


@pytest.mark.parametrize("keeps_start", [False, True])
def test_a_phase_that_only_harms_is_kept_only_where_phases_choose_anew(tmp_path, keeps_start):
    harmful = [PHASES[0], replace(PHASES[2], keeps_start=keeps_start)]
    trained = make_training(
        tmp_path, phases=harmful, evaluate=lambda teacher, phase: {"mae": 1.0 if phase == "both" else 2.0}
    ).run("t")
    assert trained.chosen.step == (5 if keeps_start else 9)
    assert trained.last.step == 9


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


def spoilt_from(spoilt_step, spoil):
    """Give a phase whose loss or gradient is spoilt from a step on."""

    def loss(student, teacher, batch, phase_step):
        value = squared_error(student, teacher, batch, phase_step)["loss"]
        return {"loss": spoil(value, student) if phase_step >= spoilt_step else value}

    return Phase("head", PhaseOptions(steps=9), ("head",), make_batch, loss, "step {}".format)


SPOILERS = {
    "loss": lambda value, student: value * math.nan,
    "infinite": lambda value, student: value * math.inf,
    # a finite loss with an infinite gradient: sqrt at 0
    "gradient": lambda value, student: value + (student.head.bias * 0.0).abs().sqrt().sum(),
}


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("spoilt_step", [0, 4, 7])
def test_a_loss_that_is_no_number_stops_before_it_spoils_weights(tmp_path, spoil, spoilt_step):
    rescued = []

    def rescue(good):
        rescued.append(good)
        return tmp_path / "last_good.safetensors"

    phases = [spoilt_from(spoilt_step, SPOILERS[spoil])]
    message = (
        rf"phase 'head' is no longer a number at step {spoilt_step + 1} .* on step {spoilt_step}; the last "
        r"good weights are in .*last_good.safetensors: lower warmup.head.learning_rate in params.yaml"
    )
    training = make_training(tmp_path, phases=phases, rescue=rescue)
    with pytest.raises(PipelineError, match=message):
        training.run("warmup")
    assert rescued[0].step == (6 if spoilt_step == 7 else spoilt_step)  # the first look that competes is after step 6
    assert all(value.isfinite().all() for value in rescued[0].weights.values())
    state = ResumeFile(tmp_path / "resume", digest="d").load(CPU)
    assert state["state"]["step"] == spoilt_step
    assert all(value.isfinite().all() for value in state["net"].values())
    with pytest.raises(PipelineError, match=message):  # again, at once
        make_training(tmp_path, phases=phases, rescue=rescue).run("warmup")


def test_training_goes_on_where_it_diverged_once_the_cause_is_mended(tmp_path):
    sound = [spoilt_from(99, SPOILERS["loss"])]
    unbroken = make_training(tmp_path / "unbroken", phases=sound).run("train")
    spoilt = [spoilt_from(5, SPOILERS["loss"])]
    with pytest.raises(PipelineError, match="no longer a number at step 6"):
        make_training(tmp_path / "broken", phases=spoilt, rescue=lambda good: tmp_path).run("train")
    same(make_training(tmp_path / "broken", phases=sound, append=True).run("train"), unbroken)


def looks_of(errors):
    """Give an evaluation with these errors, and what it says is asked for."""
    given = iter(errors)
    return lambda *_: {"mae": float(next(given))}


@pytest.mark.parametrize(
    ("patience", "errors", "last_step", "chosen_step"),
    [
        (0, [0, 0, 9, 1, 2, 2], 12, 8),
        (1, [0, 0, 2, 3], 8, 6),  # the first two looks do not compete
        (2, [0, 0, 2, 3, 1, 0], 12, 12),  # a better look, and patience begins anew
        (2, [0, 0, 2, 2, 2], 10, 10),  # equals are chosen, but are not better
    ],
)
def test_a_phase_ends_early_when_looks_no_longer_improve(tmp_path, patience, errors, last_step, chosen_step):
    phases = [Phase("head", PhaseOptions(steps=12), ("head",), make_batch, squared_error)]
    options = replace(OPTIONS, patience=patience, log_every=5)
    trained = make_training(tmp_path, phases=phases, evaluate=looks_of(errors), options=options).run("train")
    assert (trained.last.step, trained.chosen.step) == (last_step, chosen_step)
    logged = [step for step, row in trained.curves if "head/loss" in row]
    assert logged == sorted({*range(5, last_step + 1, 5), last_step})  # the rest of the curve is not lost


@pytest.mark.parametrize("killed_at", [5, 6, 7, 8, 9])
def test_a_training_that_ends_phases_early_resumes_exactly(tmp_path, monkeypatch, killed_at):
    phases = [
        Phase("head", PhaseOptions(steps=9, ramp_steps=0), ("head",), make_batch, squared_error),
        Phase("both", PhaseOptions(steps=9, ramp_steps=0), ("encoder", "head"), make_batch, squared_error),
    ]
    options = replace(OPTIONS, patience=1, evaluate_every=1, checkpoint_every=1, choose_from_frac=0.3)

    unbroken = make_training(tmp_path / "one", phases=phases, evaluate=lambda *_: {"mae": 1.0}, options=options)
    unbroken = unbroken.run("train")
    assert unbroken.last.step == 8  # looks compete from the third step of nine; the fourth is not better
    step, seen = Training._step, []

    def step_or_die(self, *args):
        if len(seen) == killed_at - 1:
            raise KeyboardInterrupt
        seen.append(1)
        return step(self, *args)

    arguments = {"phases": phases, "evaluate": lambda *_: {"mae": 1.0}, "options": options}
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", step_or_die)
        if killed_at <= 8:
            with pytest.raises(KeyboardInterrupt):
                make_training(tmp_path / "two", **arguments).run("train")
    same(make_training(tmp_path / "two", append=True, **arguments).run("train"), unbroken)


def test_the_oracle_is_reported_and_chooses_nothing(tmp_path):
    plain = make_training(tmp_path / "plain").run("train")
    seen = iter([5.0, 2.0, 3.0, 2.0, 7.0])

    def oracle(teacher):
        return {"mae": next(seen), "rmse": 8.0}

    trained = make_training(tmp_path / "oracle", oracle=oracle).run("train")
    assert plain.oracle is None
    assert trained.oracle == {"mae": 2.0, "rmse": 8.0, "step": 4}
    for a, b in ((trained.chosen, plain.chosen), (trained.last, plain.last)):
        assert (a.step, a.metrics) == (b.step, b.metrics)
        assert all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)
    assert [row["oracle_best/mae"] for _, row in trained.curves if "oracle_best/mae" in row] == [
        5.0,
        2.0,
        2.0,
        2.0,
        2.0,
    ]


def test_frozen_normalisation_stands_still_and_its_weights_learn(tmp_path):
    start = TinyNet().state_dict()
    phases = [Phase("both", PhaseOptions(steps=3), ("encoder", "head"), make_batch, squared_error)]
    options = replace(OPTIONS, frozen_norm=True)
    weights = make_training(tmp_path, phases=phases, options=options).run("train").last.weights
    still = {name for name in start if torch.equal(start[name], weights[name])}
    assert still == {"encoder.1.running_mean", "encoder.1.running_var", "encoder.1.num_batches_tracked"}


def test_the_teachers_buffers_are_averaged_where_asked_for(tmp_path):
    phases = [Phase("both", PhaseOptions(steps=3), ("encoder", "head"), make_batch, squared_error)]
    copied = make_training(tmp_path / "a", phases=phases).run("train").last.weights
    options = replace(OPTIONS, ema_buffers=True)
    averaged = make_training(tmp_path / "b", phases=phases, options=options).run("train").last.weights
    differing = {name for name in copied if not torch.equal(copied[name], averaged[name])}
    assert differing == {"encoder.1.running_mean", "encoder.1.running_var"}


def test_a_figure_that_some_steps_lack_is_averaged_over_the_others(tmp_path):
    def sometimes(student, teacher, batch, phase_step):
        loss = squared_error(student, teacher, batch, phase_step)["loss"]
        return {"loss": loss, "joined": torch.tensor(7.0)} if phase_step == 1 else {"loss": loss}

    phases = [Phase("head", PhaseOptions(steps=2), ("head",), make_batch, sometimes)]
    curves = make_training(tmp_path, phases=phases).run("train").curves
    assert [row["head/joined"] for _, row in curves if "head/joined" in row] == [7.0]


def test_nothing_to_train(tmp_path):
    with pytest.raises(PipelineError, match="every phase has 0 steps"):
        make_training(tmp_path, phases=[PHASES[1]])
