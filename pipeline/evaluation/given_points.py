"""How well masks fit that were asked for with the points of the test images; every name says so."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.masks.overlap import mask_iou
from pipeline.masks.store import MaskStore


@dataclass(frozen=True)
class GivenPoints:
    """Prompted masks against the true masks of the same points.

    Args:
        mean_iou: Mean IoU over true instances; one whose point gave no mask counts 0. NaN without any.
        mean_iou_by_class: Class name → the same; NaN where a class has no instance.
        n_points: Number of true instances.
    """

    mean_iou: float
    mean_iou_by_class: Mapping[str, float]
    n_points: int

    def metrics(self) -> dict[str, float | int | None]:
        """Give every figure under its name in ``metrics.json``; None where it is undefined."""
        by_class = {f"mean_iou_class_{'_'.join(name.split())}": v for name, v in self.mean_iou_by_class.items()}
        return {
            **{
                f"{name}_given_points": float(f"{value:.6g}") if math.isfinite(value) else None
                for name, value in {"mean_iou": self.mean_iou, **by_class}.items()
            },
            "n_points_given_points": self.n_points,
        }


def mean_iou_given_points(
    prompted: MaskStore, truth: MaskStore, image_ids: Sequence[str], *, class_names: Sequence[str]
) -> GivenPoints:
    """Compare each point's mask with the point's true mask: the rows of one ``point_id``.

    True rows that are not ``ok`` (crowd regions) or have no pixels are left out.

    Args:
        prompted: One row for each point.
        truth: True masks.
        image_ids: Images to evaluate; both stores have them.
        class_names: Names of the classes 0, 1, ….

    Raises:
        PipelineError: If an image is missing or of two sizes, or a true class has no name.
    """
    ious: list[list[float]] = [[] for _ in class_names]
    for image_id in sorted(image_ids):
        found, true = prompted.instances(image_id), truth.instances(image_id)
        if found.size_hw != true.size_hw:
            raise PipelineError(
                f"{prompted.path}: {image_id} is {found.size_hw} pixels (height, width), but {true.size_hw} in "
                f"{truth.path}; run the stage that makes the masks again, on the same prepared tables"
            )
        row_of = {point_id: row for row, point_id in enumerate(found.point_id.tolist())}
        for row in ((true.area_px > 0) & (true.status == "ok")).nonzero()[0].tolist():
            class_id = int(true.class_id[row])
            if not 0 <= class_id < len(class_names):
                raise PipelineError(
                    f"{truth.path}: {image_id} has an instance of class {class_id}, expected 0 to "
                    f"{len(class_names) - 1}; run prepare again"
                )
            own = row_of.get(int(true.point_id[row]))
            ious[class_id].append(0.0 if own is None else mask_iou(found, own, true, row))
    every = [iou for of_class in ious for iou in of_class]
    return GivenPoints(
        mean_iou=_mean(every),
        mean_iou_by_class={name: _mean(of_class) for name, of_class in zip(class_names, ious, strict=True)},
        n_points=len(every),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
