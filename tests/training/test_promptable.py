import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from pipeline.datasets.crowd_scene.scene import Scene, render_scene
from pipeline.models.compact_sam import build_compact_sam
from pipeline.training.prompt_scenes import PromptableOptions, PromptBatch, sample_prompts
from pipeline.training.promptable import decode_prompts, layout_loss, promptable_loss, train_compact_sam

CPU = torch.device("cpu")
TINY = PromptableOptions(
    steps=3, images_per_step=1, prompts_per_image=2, warmup_steps=2, checkpoint_every=2, bf16=False
)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return render_scene(np.random.default_rng(2), size_hw=(128, 128), n_heads=14)


def literal_batch(target: torch.Tensor, circle: torch.Tensor) -> PromptBatch:
    nothing = torch.zeros(1)
    return PromptBatch(nothing, nothing, nothing, nothing, "point", target, circle, nothing)


def oracle(logits, estimates, target, circle, outside_weight) -> tuple[float, list[float]]:
    """The loss, cell by cell, in double precision."""
    each, squares, best = [], [], []
    for p in range(len(logits)):
        row, ious = [], []
        n_in = sum(map(sum, circle[p]))
        n_out = sum(len(line) for line in circle[p]) - n_in
        for c in range(len(logits[p])):
            bce = weights = overlap = drawn = wanted = both = either = 0.0
            for y, line in enumerate(circle[p]):
                for x, inside in enumerate(line):
                    z, t = logits[p][c][y][x], target[p][y][x]
                    prob = 1 / (1 + math.exp(-z))
                    weight = 1.0 if inside else outside_weight * n_in / n_out
                    bce -= weight * (t * math.log(prob) + (1 - t) * math.log(1 - prob))
                    weights += weight
                    overlap, drawn, wanted = overlap + inside * prob * t, drawn + inside * prob, wanted + inside * t
                    both += inside and z > 0 and t > 0.5
                    either += inside and (z > 0 or t > 0.5)
            row.append(5 * bce / weights + 1 - (2 * overlap + 1) / (drawn + wanted + 1))
            ious.append(both / max(either, 1))
        each.append(row)
        squares += [(e - iou) ** 2 for e, iou in zip(estimates[p], ious, strict=True)]
        best.append(max(ious))
    mean = sum(map(sum, each)) / sum(map(len, each))
    return 0.5 * (sum(map(min, each)) / len(each) + mean) + sum(squares) / len(squares), best


@pytest.mark.parametrize("outside_weight", [0.0, 1.0, 2.5])
def test_loss_agrees_with_the_plain_form(outside_weight) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 3, 6, 7, generator=generator).double() * 2
    estimates = torch.rand(3, 3, generator=generator).double()
    target = torch.rand(3, 6, 7, generator=generator).double()
    circle = torch.rand(3, 6, 7, generator=generator) < 0.4
    loss, iou = promptable_loss(logits, estimates, literal_batch(target, circle), outside_weight)
    wanted, best = oracle(logits.tolist(), estimates.tolist(), target.tolist(), circle.tolist(), outside_weight)
    assert float(loss) == pytest.approx(wanted, rel=1e-6)  # the weight outside is a single-precision quotient
    assert iou.tolist() == pytest.approx(best, rel=1e-6)


def test_literal_losses() -> None:
    circle = torch.zeros(1, 4, 4, dtype=torch.bool)
    circle[0, 1:3, 1:3] = True
    target = circle.double()
    perfect = torch.where(circle, 40.0, -40.0)[:, None].double().expand(1, 3, 4, 4)
    loss, iou = promptable_loss(perfect, torch.ones(1, 3).double(), literal_batch(target, circle), 1.0)
    assert float(loss) == pytest.approx(0.0, abs=1e-12)
    assert iou.tolist() == [1.0]
    # Undecided everywhere: 5 ln 2 + 1 - 5/7 for each; no pixel is drawn: the IoU is 0, its estimate of 1 off by 1.
    loss, iou = promptable_loss(perfect * 0, torch.ones(1, 3).double(), literal_batch(target, circle), 1.0)
    assert float(loss) == pytest.approx(5 * math.log(2) + 1 - 5 / 7 + 1)
    assert iou.tolist() == [0.0]


def test_literal_layout_loss() -> None:
    layout = torch.zeros(1, 6, 2, 2)
    layout[0, :, 0, 0] = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.5, -0.5])
    layout[0, :, 0, 1] = torch.tensor([1.0, 0.0, 0.0, 0.0, 3.0, 3.0])  # too far from its head to count
    seen = torch.zeros(1, 5, 2, 2)
    # smooth L1 with beta 0.25: 0.5 - 0.125 for each axis of the only near cell
    assert float(layout_loss(seen, layout)) == pytest.approx(3 * math.log(2) + 0.75)
    assert float(layout_loss(seen, layout * 0)) == pytest.approx(3 * math.log(2))


def test_gradients_agree_with_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 3, 3, generator=generator).double().requires_grad_()
    circle = torch.rand(2, 3, 3, generator=generator) < 0.5
    circle[:, 1, 1], circle[:, 0, 0] = True, False
    batch = literal_batch(torch.rand(2, 3, 3, generator=generator).double(), circle)
    estimates = torch.rand(2, 3, generator=generator).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: promptable_loss(a, b, batch, 1.0)[0], (logits, estimates))


def test_gradients_reach_the_model(scene: Scene) -> None:
    torch.manual_seed(0)
    sam = build_compact_sam().train()
    with torch.no_grad():
        for value in sam.parameters():  # some begin at zero, which stops the gradient of what stands before them
            value.add_(0.01 * torch.randn(value.shape))
    batch = dataclasses.replace(sample_prompts(np.random.default_rng(0), scene, 128, 2), kind="both")
    embeddings = sam.image_encoder(sam.preprocess(torch.stack([batch.image, batch.image]).float()))
    loss, _ = promptable_loss(*decode_prompts(sam, embeddings[0], batch), batch, 1.0)
    (loss + layout_loss(embeddings[:, -5:], torch.stack([batch.layout] * 2))).backward()
    without = {name for name, value in sam.named_parameters() if value.grad is None or not value.grad.any()}
    assert without == set()


class KilledError(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path) -> None:
    torch.set_num_threads(1)  # with more, sums differ in their last bits, and Muon's bfloat16 magnifies that
    rows = []
    whole = train_compact_sam(TINY, device=CPU, resume=tmp_path / "whole", report=rows.append, workers=0)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(math.isfinite(row["loss"]) and 0 <= row["iou"] <= 1 for row in rows)

    def kill(row) -> None:
        if row["step"] == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train_compact_sam(TINY, device=CPU, resume=tmp_path / "killed", report=kill, workers=0)
    (state,) = (tmp_path / "killed").glob("*.json")
    assert json.loads(state.read_text()) == {"step": 2}
    again: list[dict[str, float]] = []
    resumed = train_compact_sam(TINY, device=CPU, resume=tmp_path / "killed", report=again.append, workers=0)
    assert [row["step"] for row in again] == [3]
    assert [row["loss"] for row in again] == [row["loss"] for row in rows[2:]]
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    # Finished: nothing is left to do, and other options do not go on from here.
    train_compact_sam(TINY, device=CPU, resume=tmp_path / "killed", report=kill, workers=0)
    names = {path.name for path in (tmp_path / "killed").glob("*.pt")}
    assert names == {path.name for path in (tmp_path / "whole").glob("*.pt")}
