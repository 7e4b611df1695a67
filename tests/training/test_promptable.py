import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.datasets.crowd_scene.scene import Scene, render_scene
from pipeline.geometry.nnec import nnec_radii
from pipeline.models.compact_sam import INPUT_PX, build_compact_sam
from pipeline.training.promptable import (
    LOGIT_PX,
    OFFSET_UNIT_PX,
    CrowdPrompts,
    LayoutHead,
    PromptableOptions,
    PromptBatch,
    decode_prompts,
    layout_loss,
    promptable_loss,
    sample_prompts,
    train_compact_sam,
)

CPU = torch.device("cpu")
TINY = PromptableOptions(
    steps=3, images_per_step=1, prompts_per_image=2, warmup_steps=2, checkpoint_every=2, bf16=False
)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return render_scene(np.random.default_rng(2), size_hw=(128, 128), n_heads=14)


@pytest.mark.parametrize("seed", range(8))
def test_prompts_fit_their_targets(scene: Scene, seed) -> None:
    batch = sample_prompts(np.random.default_rng(seed), scene, 6)
    assert batch.image.shape == (3, INPUT_PX, INPUT_PX)
    assert batch.image.dtype == torch.uint8
    assert batch.points_xy.shape == (6, 2)
    assert batch.boxes_xyxy.shape == (6, 4)
    assert batch.targets.shape == batch.circles.shape == (6, LOGIT_PX, LOGIT_PX)
    assert batch.kind in ("point", "box", "both")
    assert ((batch.points_xy >= 0) & (batch.points_xy <= INPUT_PX - 1)).all()
    assert ((batch.boxes_xyxy >= 0) & (batch.boxes_xyxy <= INPUT_PX - 1)).all()
    assert ((batch.targets >= 0) & (batch.targets <= 1)).all()
    cells = (batch.points_xy / 2).round().long().clamp(max=LOGIT_PX - 1)
    for target, circle, (x, y) in zip(batch.targets, batch.circles, cells, strict=True):
        near = np.s_[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        assert target[near].max() > 0  # the prompt lies on its person…
        assert circle[near].any()  # …inside or beside its circle
    people = batch.layout[0] > 0.5
    covered = batch.targets.max(0).values
    assert people[covered == 1].all()
    assert (batch.targets.sum(0) <= 1 + 1e-6).all()  # no two people share a pixel


def test_the_layout_points_to_the_heads(scene: Scene) -> None:
    batch = sample_prompts(np.random.default_rng(1), scene, len(scene.points_xy))
    person = batch.layout[0]
    assert set(np.unique(person)) == {0, 1}
    assert not batch.layout[1:, person == 0].any()
    rows, columns = np.nonzero(person.numpy())
    offsets_px = batch.layout[1:, rows, columns].T.numpy() * OFFSET_UNIT_PX
    whole = (np.abs(offsets_px) < 4 * OFFSET_UNIT_PX - 0.01).all(1)  # farther ones are cut short
    found_xy = (np.stack([columns, rows], 1) * 2 + offsets_px)[whole]
    heads_xy = (scene.points_xy + 0.5) * 2 - 0.5
    mirrored_xy = heads_xy * [-1, 1] + [INPUT_PX - 1, 0]
    distance = [np.hypot(*(found_xy[:, None] - one[None]).transpose(2, 0, 1)) for one in (heads_xy, mirrored_xy)]
    nearest = min(distance, key=lambda one: one.min(1).sum())
    assert nearest.min(1).max() < 0.01
    assert len(set(nearest.argmin(1))) == len(scene.points_xy)


def test_a_mirrored_image_has_mirrored_prompts(scene: Scene) -> None:
    batches = [sample_prompts(np.random.default_rng(seed), scene, 3) for seed in range(12)]
    first = batches[0].image
    images = [torch.equal(batch.image, first) for batch in batches]
    mirrored = [torch.equal(batch.image.flip(2), first) for batch in batches]
    assert [a != b for a, b in zip(images, mirrored, strict=True)] == [True] * 12
    assert any(images[1:])
    assert any(mirrored)
    for batch, turned in zip(batches, mirrored, strict=True):
        expected = batches[0].layout[0]
        same = expected.flip(1) if turned else expected
        assert (batch.layout[0] == same).float().mean() > 0.97  # cells begin at the other pixel of a pair


def test_fewer_people_than_prompts() -> None:
    alone = render_scene(np.random.default_rng(0), size_hw=(96, 96), n_heads=1)
    batch = sample_prompts(np.random.default_rng(0), alone, 8)
    assert len(batch.points_xy) == len(batch.targets) == 1


def test_circles_are_those_of_the_annotator(scene: Scene) -> None:
    batch = sample_prompts(np.random.default_rng(3), scene, len(scene.points_xy))
    radii = nnec_radii(scene.points_xy, size_hw=(128, 128)).radius_px * INPUT_PX / 128
    area = batch.circles.sum((1, 2)) * 4
    inside = np.sort(np.pi * (np.sort(radii)) ** 2)
    # Cells that a circle only touches count whole; circles at the border are cut.
    assert (np.sort(area.numpy()) <= inside * 1.5 + 60).all()
    assert area.max() >= 0.7 * inside.max() / 4


def test_a_step_is_a_pure_function_of_seed_and_number() -> None:
    options = dataclasses.replace(TINY, steps=8)
    forward = [CrowdPrompts(options)[step] for step in range(4)]
    back = CrowdPrompts(options)
    for step in (3, 0, 2):
        for one, other in zip(forward[step], back[step], strict=True):
            assert one.kind == other.kind
            for name in ("image", "points_xy", "boxes_xyxy", "targets", "circles", "layout"):
                assert torch.equal(getattr(one, name), getattr(other, name))
    assert not torch.equal(forward[0][0].points_xy, forward[1][0].points_xy)
    assert len(back) == 8
    assert len(list(DataLoader(back, batch_size=None, sampler=[2]))) == 1


def literal_batch(target: torch.Tensor, circle: torch.Tensor) -> PromptBatch:
    nothing = torch.zeros(1)
    return PromptBatch(nothing, nothing, nothing, "point", target, circle, nothing)


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
    return sum(map(min, each)) / len(each) + 0.15 * mean + sum(squares) / len(squares), best


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
    assert float(loss) == pytest.approx(1.15 * (5 * math.log(2) + 1 - 5 / 7) + 1)
    assert iou.tolist() == [0.0]


def test_literal_layout_loss() -> None:
    layout = torch.zeros(1, 3, 2, 2)
    layout[0, :, 0, 0] = torch.tensor([1.0, 0.5, -0.5])
    predicted = torch.zeros(1, 3, 2, 2)
    # smooth L1 with beta 0.1: 0.5 - 0.05 for each axis of the only person's cell
    assert float(layout_loss(predicted, layout)) == pytest.approx(math.log(2) + 0.9)
    assert float(layout_loss(predicted, layout * 0)) == pytest.approx(math.log(2))
    assert LayoutHead()(torch.zeros(2, 128, 32, 32)).shape == (2, 3, LOGIT_PX, LOGIT_PX)


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
    sam, head = build_compact_sam().train(), LayoutHead()
    with torch.no_grad():
        for value in sam.parameters():  # some begin at zero, which stops the gradient of what stands before them
            value.add_(0.01 * torch.randn(value.shape))
    batch = dataclasses.replace(sample_prompts(np.random.default_rng(0), scene, 2), kind="both")
    tokens = sam.image_encoder(sam.preprocess(torch.stack([batch.image, batch.image]).float()))
    loss, _ = promptable_loss(*decode_prompts(sam, tokens[0], batch), batch, 1.0)
    (loss + layout_loss(head(tokens), torch.stack([batch.layout] * 2))).backward()
    without = {
        name
        for name, value in [*sam.named_parameters(), *head.named_parameters()]
        if value.grad is None or not value.grad.any()
    }
    # Masks as prompts and single-mask output are Segment Anything's, not used here; a fourth token goes with them.
    unused = (
        "prompt_encoder.mask_downscaling",
        "mask_decoder.output_hypernetworks_mlps.0",
        "prompt_encoder.point_embed",
    )
    assert {name for name in without if not name.startswith(unused)} <= KEY_BIASES | {
        "prompt_encoder.not_a_point_embed.weight"
    }


KEY_BIASES = {
    f"mask_decoder.transformer.{place}.k_proj.bias"
    for place in (
        "layers.0.self_attn", "layers.0.cross_attn_token_to_image", "layers.0.cross_attn_image_to_token",
        "layers.1.self_attn", "layers.1.cross_attn_token_to_image", "layers.1.cross_attn_image_to_token",
        "final_attn_token_to_image",
    )
}  # fmt: skip
"""A bias on all keys shifts every attention score alike: its gradient is nothing but rounding."""


class KilledError(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path) -> None:
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
