from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.losses.point_to_region import point_to_region_loss
from pipeline.models.crowd_net import CrowdOutput
from pipeline.pseudo_labels.energy import EnergyOptions
from pipeline.training.crops import CropBatch
from pipeline.training.crowd_batches import CrowdBatch, UnlabeledBatch
from pipeline.training.crowd_losses import (
    CrowdLoss,
    constraint_loss,
    count_loss,
    labeled_targets,
    mask_loss,
    pseudo_targets,
    teacher_labels,
    unlabeled_weight,
)
from pipeline.training.options import ExclusivityOptions, UnlabeledOptions
from tests.training.conftest import CPU

SIDE = 32


def crop_batch(points, probs=None):
    """One crop with square instances of 8 px around its points."""
    label_map = torch.zeros(SIDE, SIDE, dtype=torch.int64)
    for k, (x, y) in enumerate(points):
        label_map[max(0, y - 4) : y + 4, max(0, x - 4) : x + 4] = k + 1
    xy = torch.tensor(points, dtype=torch.float32).reshape(-1, 2)
    prob = torch.ones(len(points)) if probs is None else torch.tensor(probs)
    generator = torch.Generator().manual_seed(len(points))
    images = torch.randn(1, 3, SIDE, SIDE, generator=generator)
    return CropBatch(images, (xy,), (prob,), (torch.arange(1, len(points) + 1),), label_map[None])


class Student(nn.Module):
    """Logits from the picture's brightness; a trainable factor."""

    def __init__(self, bias=0.0):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(2))
        self.bias = bias
        self.seen = []

    def forward(self, images):
        self.seen.append(len(images))
        cells = nn.functional.avg_pool2d(images, 4)
        embedding = nn.functional.normalize(cells + self.factor[1], dim=1)
        return CrowdOutput(cells.sum(dim=1) * self.factor[0] + self.bias, embedding)


POINTS = [(8, 8), (24, 10), (12, 25)]
PROBS = [0.95, 0.6, 0.3]


def test_a_persons_labels_are_all_sure():
    targets = labeled_targets(crop_batch(POINTS))
    assert targets.points_xy[0].tolist() == [list(point) for point in POINTS]
    assert targets.sure_labels[0].tolist() == [1, 2, 3]
    assert targets.unsure_xy is None
    assert targets.cut_out is None


def test_pseudo_labels_are_sorted_by_how_sure_they_are():
    cut_out = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    targets = pseudo_targets(crop_batch(POINTS, PROBS), cut_out, point_prob=0.5, confident_prob=0.9)
    assert targets.points_xy[0].tolist() == [[8, 8], [24, 10]]
    assert targets.unsure_xy[0].tolist() == [[24, 10], [12, 25]]
    assert targets.sure_labels[0].tolist() == [1]
    assert targets.cut_out is targets.hidden is cut_out
    assert targets.ignored is targets.cell_weights is None


def test_an_instance_is_sure_when_a_sure_head_falls_on_it():
    batch = crop_batch([(8, 8), (11, 8)], [0.95, 0.3])  # the second's square covers the first's point
    cut_out = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    targets = pseudo_targets(batch, cut_out, point_prob=0.5, confident_prob=0.9)
    assert targets.sure_labels[0].tolist() == [2]


def judged_targets(ignored=None, cell_weights=None, cut_out=None):
    """Two kept heads and one that is not, as scenes of a judged store give them."""
    batch = replace(crop_batch(POINTS, [float("inf"), float("inf"), 0.0]), ignored=ignored, cell_weights=cell_weights)
    cut_out = torch.zeros(1, SIDE, SIDE, dtype=torch.bool) if cut_out is None else cut_out
    return pseudo_targets(batch, cut_out, point_prob=0.5, confident_prob=1.0)


def test_kept_rows_are_confident_heads_and_others_are_unsure():
    targets = judged_targets()
    assert targets.points_xy[0].tolist() == [[8, 8], [24, 10]]
    assert targets.unsure_xy[0].tolist() == [[12, 25]]
    assert targets.sure_labels[0].tolist() == [1, 2]


def test_no_loss_looks_at_ignored_pixels():
    """Logits and embeddings there get no gradient in any phase, but they do elsewhere, and without an ignore region."""
    ignored = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    ignored[0, 19:32, 5:20] = True  # around the third head, with edges inside cells
    generator = torch.Generator().manual_seed(4)
    cells = torch.zeros(1, 8, 8, dtype=torch.bool)
    cells[0, 5:8, 1:5] = True  # their centres, rounded, are ignored: 22, 26, 30 and 6, 10, 14, 18
    for branch in (count_loss, constraint_loss(w_fg=0.0, w_bg=1.0)):
        logits = torch.randn(1, 8, 8, generator=generator).add(1.0).requires_grad_()
        for region in (ignored, None):
            (grad,) = torch.autograd.grad(branch(logits, torch.zeros(1), judged_targets(region))["loss"], logits)
            inner = grad[cells] if branch is count_loss else grad[0, 6:8, 2:4]  # upsampling mixes neighbours
            assert bool((inner == 0).all()) == (region is not None)
            assert (grad[~cells] != 0).any()


def test_exclusivity_keeps_away_from_ignored_pixels():
    generator = torch.Generator().manual_seed(5)
    embedding = nn.functional.normalize(torch.randn(1, 4, 8, 8, generator=generator), dim=1)
    logits = torch.full((1, 8, 8), -1.0)
    logits[0, 2, 2] = 1.0
    ignored = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    ignored[0, :, 12:] = True
    loss = mask_loss(ExclusivityOptions())
    hidden = judged_targets(cut_out=ignored)
    by_ignoring = loss(logits, embedding, judged_targets(ignored))["loss"]
    assert torch.equal(by_ignoring, loss(logits, embedding, hidden)["loss"])
    assert not torch.equal(by_ignoring, loss(logits, embedding, judged_targets())["loss"])


def test_ignored_pixels_and_the_cut_out_are_both_hidden():
    ignored, cut_out = (torch.zeros(1, SIDE, SIDE, dtype=torch.bool) for _ in range(2))
    ignored[0, :8, :8], cut_out[0, 16:24, 16:24] = True, True
    targets = judged_targets(ignored, cut_out=cut_out)
    assert torch.equal(targets.hidden, ignored | cut_out)
    assert targets.hidden_cells.nonzero().tolist() == [
        [0, *cell] for cell in ((0, 0), (0, 1), (1, 0), (1, 1), (4, 4), (4, 5), (5, 4), (5, 5))
    ]
    assert targets.hidden_cells.shape == (1, 8, 8)


def test_cells_are_weighed_in_point_to_region_alone():
    generator = torch.Generator().manual_seed(6)
    logits, weights = torch.randn(1, 8, 8, generator=generator), torch.rand(1, 8, 8, generator=generator)
    embedding = nn.functional.normalize(torch.randn(1, 4, 8, 8, generator=generator), dim=1)
    plain, weighed = judged_targets(), judged_targets(cell_weights=weights)
    expected = point_to_region_loss(logits, plain.points_xy, cell_weights=weights)
    assert torch.equal(count_loss(logits, embedding, weighed)["loss"], expected)
    assert expected < count_loss(logits, embedding, plain)["loss"]
    exclusivity = mask_loss(ExclusivityOptions())
    assert torch.equal(exclusivity(logits, embedding, weighed)["loss"], exclusivity(logits, embedding, plain)["loss"])
    constraint = constraint_loss(w_fg=1.0, w_bg=1.0)
    one, two = (constraint(logits, embedding, targets) for targets in (weighed, plain))
    assert torch.equal(one["foreground"], two["foreground"])
    torch.testing.assert_close(one["loss"] - expected, one["foreground"] + one["background"])


@pytest.mark.parametrize("phase", range(3))
def test_an_empty_ignore_region_and_weights_of_one_change_no_loss(phase):
    branch = (count_loss, mask_loss(ExclusivityOptions()), constraint_loss(w_fg=1.0, w_bg=1.0))[phase]
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(1, 8, 8, generator=generator)
    embedding = nn.functional.normalize(torch.randn(1, 4, 8, 8, generator=generator), dim=1)
    nothing, ones = torch.zeros(1, SIDE, SIDE, dtype=torch.bool), torch.ones(1, 8, 8)
    one, two = (branch(logits, embedding, each)["loss"] for each in (judged_targets(), judged_targets(nothing, ones)))
    assert torch.equal(one, two)


def test_cells_under_the_cut_out_weigh_nothing():
    logits = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    cut_out = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    cut_out[0, 8:16, 4:20] = True
    batch = crop_batch(POINTS, PROBS)
    targets = pseudo_targets(batch, cut_out, point_prob=0.5, confident_prob=0.9)
    cells = torch.zeros(1, 8, 8, dtype=torch.bool)
    cells[0, 2:4, 1:5] = True
    expected = point_to_region_loss(logits, targets.points_xy, cut_out=cells)
    assert torch.equal(count_loss(logits, torch.zeros(1), targets)["loss"], expected)
    assert not torch.equal(expected, point_to_region_loss(logits, targets.points_xy))


@pytest.mark.parametrize(
    ("branch", "moved"),
    [
        (count_loss, [True, False]),
        (mask_loss(ExclusivityOptions()), [False, True]),
        (constraint_loss(w_fg=1.0, w_bg=1.0), [True, False]),
    ],
)
def test_each_phase_teaches_its_own_path(branch, moved):
    student = Student()
    loss = CrowdLoss(branch, CPU)(student, student, CrowdBatch(crop_batch(POINTS)), 0)["loss"]
    loss.backward()
    grad = student.factor.grad
    assert [bool(value != 0) for value in grad] == moved


def test_the_constraint_adds_its_weighted_terms():
    student = Student()
    logits, embedding = student(crop_batch(POINTS).images)
    targets = labeled_targets(crop_batch(POINTS))
    terms = constraint_loss(w_fg=0.5, w_bg=0.25)(logits, embedding, targets)
    points = count_loss(logits, embedding, targets)["loss"]
    torch.testing.assert_close(terms["loss"], points + 0.5 * terms["foreground"] + 0.25 * terms["background"])
    assert terms["foreground"] > 0


@pytest.mark.parametrize(
    ("branch", "figure"),
    [(mask_loss(ExclusivityOptions()), "misplaced_share"), (constraint_loss(w_fg=1.0, w_bg=1.0), "positives_error")],
)
def test_counts_of_decisions_are_logged_for_each_branch_without_a_gradient(branch, figure):
    student = Student()
    batch = CrowdBatch(crop_batch(POINTS), unlabeled_batch())
    figures = CrowdLoss(branch, CPU, UnlabeledOptions(ramp_steps=1), EnergyOptions())(student, student, batch, 0)
    for name in ("labeled", "unlabeled"):
        assert not figures[f"{name}_{figure}"].requires_grad
        assert float(figures[f"{name}_{figure}"]) > 0


def unlabeled_batch(points=POINTS, probs=PROBS):
    weak = crop_batch(points, probs)
    strong = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
    return UnlabeledBatch(weak, strong, torch.zeros(1, SIDE, SIDE, dtype=torch.bool))


def test_branches_are_weighed():
    student = Student()
    batch = CrowdBatch(crop_batch(POINTS[:2]), unlabeled_batch())
    options = UnlabeledOptions(weight_max=2.0, ramp_steps=4, delay_steps=0, point_prob=0.5)
    loss = CrowdLoss(count_loss, CPU, options, EnergyOptions())
    figures = loss(student, student, batch, phase_step=1)
    labeled = count_loss(*student(batch.labeled.images), labeled_targets(batch.labeled))["loss"]
    targets = pseudo_targets(batch.unlabeled.weak, batch.unlabeled.cut_out, point_prob=0.5, confident_prob=0.9)
    unlabeled = count_loss(*student(batch.unlabeled.strong), targets)["loss"]
    torch.testing.assert_close(figures["loss"], (labeled + 1.0 * unlabeled) / 2.0)
    torch.testing.assert_close(figures["unlabeled_loss"], unlabeled)


def test_without_weight_unlabelled_crops_do_not_pass_the_student():
    student = Student()
    options = UnlabeledOptions(delay_steps=5)
    batch = CrowdBatch(crop_batch(POINTS), unlabeled_batch())
    CrowdLoss(count_loss, CPU, options, EnergyOptions())(student, student, batch, phase_step=4)
    CrowdLoss(count_loss, CPU, options, EnergyOptions())(student, student, batch, phase_step=5)
    assert student.seen == [1, 2]


def test_the_ema_teacher_takes_the_place_of_stored_labels():
    student, teacher = Student(), Student(bias=3.0)
    options = UnlabeledOptions(ramp_steps=1)
    loss = CrowdLoss(count_loss, CPU, options, EnergyOptions(), from_ema=True)
    stored = unlabeled_batch()
    other_labels = replace(crop_batch(POINTS[:1], PROBS[:1]), images=stored.weak.images)
    one, two = (
        loss(student, teacher, CrowdBatch(crop_batch(POINTS), replace(stored, weak=weak)), 0)["unlabeled_loss"]
        for weak in (stored.weak, other_labels)
    )
    assert torch.equal(one, two)
    from_store = CrowdLoss(count_loss, CPU, options, EnergyOptions())
    assert not torch.equal(
        from_store(student, teacher, CrowdBatch(crop_batch(POINTS), stored), 0)["unlabeled_loss"], one
    )


def test_the_ema_teachers_labels_belong_together():
    fresh = teacher_labels(Student(bias=3.0), crop_batch(POINTS), EnergyOptions())
    assert len(fresh.points_xy[0]) == len(fresh.point_prob[0]) == len(fresh.labels[0]) > 1
    assert (fresh.point_prob[0] >= 0.1).all()
    assert 1 < len(fresh.label_maps.unique()) <= len(fresh.labels[0]) + 1


@pytest.mark.parametrize(
    ("step", "start", "weight"),
    [(0, 0.0, 0.0), (4, 0.0, 0.0), (5, 0.0, 0.2), (14, 0.0, 2.0), (99, 0.0, 2.0), (0, 0.1, 0.1), (5, 0.1, 1.1)],
)
def test_the_weight_of_the_unlabelled_branch_rises(step, start, weight):
    options = UnlabeledOptions(weight_max=2.0, ramp_steps=10, delay_steps=5)
    assert unlabeled_weight(options, step, start=start) == pytest.approx(weight)
