"""What people mark, and how long the literature says that it takes; nothing of that was measured here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.datasets.prepared import Prepared
from pipeline.datasets.splits import split_images

Mark = Literal["masks", "points", "dots", "nothing"]
"""Masks and points bear their class; dots are points without; nothing is an image that nobody looks at."""

POINTS_PAPER = "Bearman et al., What's the Point: Semantic Segmentation with Point Supervision, ECCV 2016"
COCO_PAPER = "Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014"


@dataclass(frozen=True)
class LabelTime:
    """How long one label takes.

    Args:
        what: The label.
        seconds: Seconds of one person.
        source: Where the figure is from.
    """

    what: str
    seconds: float
    source: str


ABSENT_CLASS = LabelTime("a class that is not in the image: seeing that", 1.0, POINTS_PAPER)
FIRST_POINT = LabelTime("the first point of a class in an image", 2.4, POINTS_PAPER)
FURTHER_POINT = LabelTime("each further point of that class", 0.9, POINTS_PAPER)
MASK = LabelTime("a mask, outlined by hand", 79.2, f"{COCO_PAPER}: 22 hours for 1,000 masks")
LABEL_TIMES = (ABSENT_CLASS, FIRST_POINT, FURTHER_POINT, MASK)


@dataclass(frozen=True)
class Labels:
    """What a training set is given.

    Args:
        share: What the labelled share of the images has.
        rest: What all others have.
    """

    share: Mark
    rest: Mark = "nothing"

    def describe(self, labeled_pct: int) -> str:
        """Say it: ``masks on 5 %, points on 95 %``."""
        if labeled_pct == 100 or self.share == self.rest:
            return f"{self.share} on 100 %"
        rest = "" if self.rest == "nothing" else f", {self.rest} on {100 - labeled_pct} %"
        return f"{self.share} on {labeled_pct} %{rest}"


def image_seconds(mark: Mark, class_counts: Sequence[int]) -> float:
    """Give the seconds that marking one image takes, by the model of the paper on points.

    A person goes through all classes of the data set: 1 s for one that is not there, and the time of its labels for one
    that is. Dots have one class, and nobody asks for others. Where a mask is drawn its class is known with it.

    Args:
        mark: What is marked.
        class_counts: Objects of each class of the data set, absent ones included.
    """
    if mark == "nothing":
        return 0.0
    if mark == "dots":
        class_counts = [total] if (total := sum(class_counts)) else []
    absent = sum(count == 0 for count in class_counts)
    present = [count for count in class_counts if count]
    if mark == "masks":
        objects = sum(present) * MASK.seconds
    else:
        objects = len(present) * FIRST_POINT.seconds + (sum(present) - len(present)) * FURTHER_POINT.seconds
    return absent * ABSENT_CLASS.seconds + objects


def annotation_hours(prepared: Prepared, labels: Labels, *, labeled_pct: int, seed: int, held_out_frac: float) -> float:
    """Give the hours that the labels of one run's training set take, those of held-out images included.

    Args:
        prepared: The data set.
        labels: What is marked.
        labeled_pct: The run's labelled share, percent.
        seed: Seed of the split.
        held_out_frac: As in the run's parameters.

    Raises:
        PipelineError: If the share gives no image.
    """
    splits = split_images(prepared.images, labeled_pct=labeled_pct, seed=seed, held_out_frac=held_out_frac)
    share = set(splits.labeled_train) | set(splits.labeled_val)
    seconds = 0.0
    for image_id in sorted(share | set(splits.unlabeled)):
        class_id = prepared.points(image_id).class_id
        counts = [int((class_id == one).sum()) for one in range(len(prepared.class_names))]
        seconds += image_seconds(labels.share if image_id in share else labels.rest, counts)
    return seconds / 3600
