from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.store import MaskStore
from pipeline.training.refine_pairs import is_refinable, refine_pairs, rough_mask
from tests.training.blobs import write_masks
from tests.training.rough_scenes import SIZE_HW, as_rows

IMAGE = "train/00"


def bar(first, last):
    """A mask of rows 10 to 13, and these columns."""
    mask = np.zeros(SIZE_HW, bool)
    mask[10:14, first:last] = True
    return mask


LEFT, RIGHT, FAR = bar(0, 20), bar(20, 40), bar(60, 70)
TRUE = as_rows([LEFT, RIGHT, FAR], [(5, 11), (25, 11), (62, 11)], [0, 0, 1])


@pytest.fixture
def pairs_of(tmp_path, rough_run):
    def give(true, *rough, n_classes=2):
        stores = []
        for name, rows in (("true", true), *((f"rough_{k}", rows) for k, rows in enumerate(rough))):
            write_masks(tmp_path / name, {IMAGE: rows})
            stores.append(MaskStore.open(tmp_path / name))
        return refine_pairs(rough_run.prepared, stores[0], stores[1:], [IMAGE], n_classes=n_classes)

    return give


@pytest.mark.parametrize(
    ("mask", "point", "point_id", "class_id", "answer"),
    [
        (bar(2, 18), (5, 11), 0, 0, LEFT),
        (RIGHT, (5, 11), 0, 0, LEFT),  # spilled over to the neighbour: its point says what is meant
        (RIGHT, (5, 11), 7, 0, RIGHT),  # a prediction's number, no point of the truth
        (RIGHT, (50, 50), 0, 0, RIGHT),  # a point beside every mask
        (bar(15, 40), (50, 50), 9, 0, RIGHT),
        (bar(15, 62), (50, 50), 9, 1, FAR),  # the best of its own class, however little
        (bar(15, 40), (50, 50), 9, 1, None),
        (FAR, (62, 11), 2, 0, None),  # its own point, but another class
    ],
)
def test_a_rough_mask_stands_for_one_true_mask(pairs_of, mask, point, point_id, class_id, answer):
    rough = replace(as_rows([mask], [point], [class_id]), point_id=[point_id])
    pairs = pairs_of(TRUE, rough)
    if answer is None:
        assert pairs == []
        return
    (pair,) = pairs
    true = as_rows([answer], [(0, 0)], [0])
    assert (pair.image_id, pair.truth, pair.truth_px) == (IMAGE, true.rle[0], answer.sum())
    assert pair.rough == rough_mask(rough, 0)
    assert (pair.rough.class_id, pair.rough.point_xy, pair.rough.rle) == (class_id, point, rough.rle[0])


def test_rows_that_are_not_sure_are_left_out(pairs_of):
    rough = as_rows([LEFT, RIGHT, np.zeros(SIZE_HW, bool), FAR], [(5, 11), (25, 11), (25, 11), (62, 11)], [0, 0, 0, 1])
    rough = replace(rough, status=["ok", "fallback", "ok", "ok"])
    assert is_refinable(rough).tolist() == [True, False, False, True]
    assert [pair.truth_px for pair in pairs_of(TRUE, rough)] == [80, 40]
    regions = replace(TRUE, status=["ambiguous", "ok", "ok"])
    assert [pair.truth_px for pair in pairs_of(regions, rough)] == [40]


def test_every_checkpoint_gives_its_pairs(pairs_of):
    one = as_rows([LEFT, FAR], [(5, 11), (62, 11)], [0, 1])
    pairs = pairs_of(TRUE, one, one[:1], Instances.empty(SIZE_HW))
    assert [pair.truth_px for pair in pairs] == [80, 40, 80]


def test_images_that_a_checkpoint_lacks_are_passed_over(rough_run):
    two = refine_pairs(rough_run.prepared, rough_run.truth, rough_run.rough, [IMAGE], n_classes=2)
    assert len(two) > 4
    write_masks(rough_run.root / "none", {})
    nothing = MaskStore.open(rough_run.root / "none")
    pairs = refine_pairs(rough_run.prepared, rough_run.truth, [nothing, *rough_run.rough], [IMAGE], n_classes=2)
    assert pairs == two


@pytest.mark.parametrize(
    ("rough", "n_classes", "message"),
    [
        (replace(TRUE, class_id=[0, 1, 2]), 2, "train/00 has rows of class 0 to 2, expected 0 to 1"),
        (Instances.empty((9, 9)), 2, r"train/00 is \(9, 9\) pixels .* \(72, 96\) in"),
    ],
)
def test_stores_that_do_not_fit_are_refused(pairs_of, rough, n_classes, message):
    with pytest.raises(PipelineError, match=message):
        pairs_of(TRUE, rough, n_classes=n_classes)
