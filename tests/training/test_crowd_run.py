"""What both trainings share; the trainings themselves are in test_crowd.py."""

from dataclasses import replace

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.training.crowd_run import CrowdRun
from pipeline.training.options import UnlabeledOptions
from pipeline.training.ranks import Ranks
from tests.training.conftest import WARMUP


def make_run(blob_run, **splits):
    place = blob_run.place("warmup")
    return CrowdRun(blob_run.prepared, replace(blob_run.splits, **splits), blob_run.masks, WARMUP, 0, place)


@pytest.mark.parametrize("name", ["labeled_train", "labeled_val"])
def test_nothing_to_learn_from_or_to_choose_by(blob_run, name):
    with pytest.raises(PipelineError, match=f"no image in {name}; label more images, or raise labeled_pct"):
        make_run(blob_run, **{name: ()})


def test_the_mean_count_is_the_simplest_guess(blob_run):
    run = make_run(blob_run)
    counts = {row.image_id: row.n_points for row in blob_run.prepared.images}
    mean = sum(counts[one] for one in run.splits.labeled_train) / len(run.splits.labeled_train)
    errors = [abs(counts[one] - mean) for one in run.splits.labeled_val]
    assert run.mean_count_mae() == pytest.approx(sum(errors) / len(errors))


class Rank:
    def __init__(self, rank, ranks):
        self.global_rank, self.world_size = rank, ranks


def test_ranks_divide_the_batch_that_one_process_has(blob_run):
    run = make_run(blob_run)
    whole, first, second = (
        run.batches(Rank(*one), pseudo=None, unlabeled=UnlabeledOptions())(5).labeled
        for one in ((0, 1), (0, 2), (1, 2))
    )
    assert torch.equal(torch.cat([first.images, second.images]), whole.images)
    assert torch.equal(torch.cat([first.label_maps, second.label_maps]), whole.label_maps)
    for a, b in zip([*first.points_xy, *second.points_xy], whole.points_xy, strict=True):
        assert torch.equal(a, b)


def test_a_batch_names_its_images(blob_run):
    run = make_run(blob_run)
    batches = run.batches(Rank(1, 2), pseudo=None, unlabeled=UnlabeledOptions())
    named = batches.describe(0).removeprefix("crops of the labelled images ").split(", ")
    assert len(named) == WARMUP.crops.batch
    assert set(named) <= set(run.splits.labeled_train)


def test_a_batch_for_too_many_ranks_is_refused(blob_run):
    run = replace(make_run(blob_run), place=replace(blob_run.place("warmup"), ranks=Ranks(3)))
    with pytest.raises(PipelineError, match="crops.batch: 2 crops cannot be divided among 3 processes"):
        run.launch()
