"""What labels cost: the literature's figures, and the sum over the images of a run."""

import pytest

from benchmarks.experiments.label_cost import LABEL_TIMES, Labels, annotation_hours, image_seconds
from pipeline.datasets.splits import split_images
from tests.training.shapes_home import write_shapes


def test_the_papers_own_sums_come_out():
    """VOC 2012 as the paper on points counts it: 20 classes, 1.5 in an image, 2.8 instances."""
    times = [one.seconds for one in LABEL_TIMES]
    absent, first, further, mask = times
    assert 18.5 * absent + 1.5 * first == pytest.approx(22.1)  # a point for each class: 22.1 s an image
    assert 18.5 * absent + 1.5 * first + 1.3 * further == pytest.approx(23.3, abs=0.05)  # for each instance: 23.3 s
    assert 18.5 * absent + 2.8 * mask == pytest.approx(239.7, abs=1)  # masks; there 79 s each: 239.7 s
    assert mask == pytest.approx(22 * 3600 / 1000)


@pytest.mark.parametrize(
    ("mark", "counts", "seconds"),
    [
        ("points", [3, 0, 1, 0], 2 * 1.0 + 2 * 2.4 + 2 * 0.9),
        ("dots", [3, 0, 1, 0], 2.4 + 3 * 0.9),
        ("masks", [3, 0, 1, 0], 2 * 1.0 + 4 * 79.2),
        ("nothing", [3, 0, 1, 0], 0.0),
        ("points", [0, 0], 2.0),
        ("dots", [0, 0], 0.0),
    ],
)
def test_one_image(mark, counts, seconds):
    assert image_seconds(mark, counts) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("labels", "pct", "text"),
    [
        (Labels("masks"), 5, "masks on 5 %"),
        (Labels("masks", "points"), 5, "masks on 5 %, points on 95 %"),
        (Labels("points", "points"), 20, "points on 100 %"),
        (Labels("masks"), 100, "masks on 100 %"),
        (Labels("dots"), 20, "dots on 20 %"),
    ],
)
def test_labels_are_said_in_words(labels, pct, text):
    assert labels.describe(pct) == text


def test_a_run_pays_for_its_share_and_for_the_rest(tmp_path):
    prepared = write_shapes(tmp_path)
    splits = split_images(prepared.images, labeled_pct=50, seed=1, held_out_frac=0.4)
    share = {*splits.labeled_train, *splits.labeled_val}
    assert len(share) == len(splits.unlabeled) == 3
    masks = points = 0.0
    for row in prepared.of_split("train"):
        classes = prepared.points(row.image_id).class_id.tolist()
        absent = 2 - len(set(classes))
        if row.image_id in share:
            masks += absent + 79.2 * len(classes)
        else:
            points += absent + 2.4 * len(set(classes)) + 0.9 * (len(classes) - len(set(classes)))

    def hours(labels):
        return annotation_hours(prepared, labels, labeled_pct=50, seed=1, held_out_frac=0.4)

    assert hours(Labels("masks")) == pytest.approx(masks / 3600)
    assert hours(Labels("masks", "points")) == pytest.approx((masks + points) / 3600)
    assert hours(Labels("nothing", "points")) == pytest.approx(points / 3600)
