"""COCO's mask AP of one mask store against another, streamed image by image through faster-coco-eval.

Each image is matched by the library as soon as it is read; what stays in memory is which detection found what, never a
mask. Recall and precision are then taken class by class.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.compute.progress import track
from pipeline.errors import PipelineError
from pipeline.evaluation.voc_precision import VocPrecision
from pipeline.masks.instances import Instances
from pipeline.masks.store import MaskStore

SIZE_LIMITS_PX = (32.0, 96.0)
"""√area at which COCO's small objects end and large ones begin."""
CROWD_STATUS = "ambiguous"
"""Status of the true rows that are regions, not instances."""
SIZES = ("small", "medium", "large")
WHOLE_RANGE_PX = 1e5**2
"""COCO's largest area."""


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's figures, 0 to 1; NaN where there is no true instance to find.

    Args:
        ap: Mean AP over IoU 0.50, 0.55 … 0.95 and over classes.
        ap_50: AP at IoU 0.5.
        ap_75: AP at IoU 0.75.
        ap_by_size: ``small``, ``medium``, ``large`` → AP of the true instances of that size.
        ar: Share of the true instances found, mean over the same IoUs and classes.
        ar_by_size: The same by size.
        ap_by_class: Class name → AP; empty where classes are not told apart.
        n_true: True instances, without crowd regions.
        n_detections: Detections.
        voc_ap: IoU → AP by VOC's rule, see :mod:`pipeline.evaluation.voc_precision`.
    """

    ap: float
    ap_50: float
    ap_75: float
    ap_by_size: Mapping[str, float]
    ar: float
    ar_by_size: Mapping[str, float]
    ap_by_class: Mapping[str, float] = field(default_factory=dict)
    n_true: int = 0
    n_detections: int = 0
    voc_ap: Mapping[float, float] = field(default_factory=dict)

    def metrics(self, *, class_agnostic: bool = False, given_points: bool = False) -> dict[str, float | int | None]:
        """Give every figure under its name in ``metrics.json``; None where it is undefined.

        Args:
            class_agnostic: Put ``_agnostic`` into the names: classes were not told apart.
            given_points: Put ``_given_points`` behind the names: the test images' points were prompts.
        """
        middle = "_agnostic" if class_agnostic else ""
        end = "_given_points" if given_points else ""
        figures = {"ap": self.ap, "ap_50": self.ap_50, "ap_75": self.ap_75, "ar": self.ar}
        for size in SIZES:
            figures[f"ap_{size}"] = self.ap_by_size[size]
            figures[f"ar_{size}"] = self.ar_by_size[size]
        for iou, value in self.voc_ap.items():
            figures[f"voc_ap_{round(100 * iou)}"] = value
        for name, value in self.ap_by_class.items():
            figures[f"ap_class_{'_'.join(name.split())}"] = value
        return {
            **{f"{name}{middle}{end}": float(f"{v:.6g}") if math.isfinite(v) else None for name, v in figures.items()},
            f"n_true_instances{middle}{end}": self.n_true,
            f"n_detections{middle}{end}": self.n_detections,
        }


def average_precision(
    detections: MaskStore,
    truth: MaskStore,
    image_ids: Sequence[str],
    *,
    class_names: Sequence[str],
    max_detections: int | None = None,
    class_agnostic: bool = False,
    size_limits_px: tuple[float, float] = SIZE_LIMITS_PX,
) -> AveragePrecision:
    """Compute COCO's mask AP.

    A true row of status ``ambiguous`` is a crowd region of its class (COCO's ``iscrowd``): detections that lie in it
    count neither way, however many. Rows without pixels, true or detected, do not count. The area of a true instance is
    the number of its pixels; COCO's own files give the area of polygons, which differs by a few pixels.

    Args:
        detections: Rows with ``score`` and ``class_id``.
        truth: True masks.
        image_ids: Images to evaluate; both stores have them.
        class_names: Names of the classes 0, 1, ….
        max_detections: Greatest number of detections counted for each image and class (for each image where classes are
            not told apart), best first; None counts all of them. COCO's own is 100.
        class_agnostic: Do not tell classes apart.
        size_limits_px: √area at which small ends and large begins, image pixels; objects on a limit are both.

    Raises:
        PipelineError: If an image is missing or of two sizes, a score is no number, a class has no name, masks are
            damaged, or there is no image.
    """
    if max_detections is not None and max_detections < 1:
        raise PipelineError(f"max_detections: expected at least 1, or none for all of them, got {max_detections}")
    if not 0 < size_limits_px[0] < size_limits_px[1]:
        raise PipelineError(f"size_limits_px: expected two lengths above 0, the smaller first, got {size_limits_px}")
    if not image_ids:
        raise PipelineError(f"{truth.path}: there are no images to evaluate; give the data set a test split")
    for store in (detections, truth):
        missing = [image_id for image_id in image_ids if image_id not in store]
        if missing:
            raise PipelineError(
                f"{store.path}: lacks {len(missing)} of the images to evaluate ({', '.join(missing[:5])} …); run the "
                "stage that makes it again"
            )
    pairs = (
        (_rows(detections, image_id, class_names, scored=True), _rows(truth, image_id, class_names))
        for image_id in track(sorted(image_ids), description="average precision")
    )
    return average_precision_of(
        pairs, class_names=class_names, max_detections=max_detections, class_agnostic=class_agnostic,
        size_limits_px=size_limits_px, name=str(truth.path),
    )  # fmt: skip


def average_precision_of(
    pairs: Iterable[tuple[Instances, Instances]],
    *,
    class_names: Sequence[str],
    max_detections: int | None = None,
    class_agnostic: bool = False,
    size_limits_px: tuple[float, float] = SIZE_LIMITS_PX,
    name: str = "the truth",
) -> AveragePrecision:
    """Compute COCO's mask AP of images that come one by one; see :func:`average_precision`.

    Args:
        pairs: Detections and true instances of each image, of known classes and with scores.
        class_names: Names of the classes 0, 1, ….
        max_detections: As there.
        class_agnostic: As there.
        size_limits_px: As there.
        name: What messages call the truth.

    Raises:
        PipelineError: If an image is of two sizes, or masks are damaged.
    """
    matching = _Matching(len(class_names), size_limits_px, max_detections, class_agnostic)
    for found, true in pairs:
        matching.add(found[found.area_px > 0], true[true.area_px > 0], name)
    return matching.result(class_names)


def _rows(store: MaskStore, image_id: str, class_names: Sequence[str], *, scored: bool = False) -> Instances:
    """Read the rows of an image that have pixels."""
    rows = store.instances(image_id)
    rows = rows[rows.area_px > 0]
    if len(rows) and not (rows.class_id.min() >= 0 and rows.class_id.max() < len(class_names)):
        raise PipelineError(
            f"{store.path}: {image_id} has rows of class {int(rows.class_id.min())} to {int(rows.class_id.max())}, "
            f"expected 0 to {len(class_names) - 1}; run prepare again, and the stage that makes the store"
        )
    if scored and not np.isfinite(rows.score).all():
        raise PipelineError(
            f"{store.path}: {image_id} has rows without a score, by which detections are ranked; "
            "run the stage that makes the store again"
        )
    return rows


class _Matching:
    """Collects what the library says of each image, class and range of areas."""

    def __init__(
        self, n_classes: int, size_limits_px: tuple[float, float], max_detections: int | None, class_agnostic: bool
    ) -> None:
        import faster_coco_eval.faster_eval_api_cpp as extension  # late: options are read without it
        from faster_coco_eval.core import mask
        from faster_coco_eval.core.cocoeval import Params

        small, large = (limit**2 for limit in size_limits_px)
        ranges = {"small": [0, small], "medium": [small, large], "large": [large, WHOLE_RANGE_PX]}
        self._params = Params(iouType="segm", ranges=ranges)
        self._extension, self._iou = extension, mask.iou
        self._max_detections, self._class_agnostic = max_detections, class_agnostic
        self._found: list[list[list[Any]]] = [
            [[] for _ in self._params.areaRng] for _ in range(1 if class_agnostic else n_classes)
        ]
        self._voc = VocPrecision(len(self._found))
        self._most = 1
        self._last_id = 0  # 0 stands for "unmatched" in the library
        self._n_true = self._n_detections = 0

    def add(self, found: Instances, true: Instances, name: str) -> None:
        """Match the detections of one image."""
        if found.size_hw != true.size_hw:
            raise PipelineError(
                f"{name}: an image is {true.size_hw} pixels (height, width) there, but {found.size_hw} in the "
                "detections; run the stage that detects again, on the same prepared tables"
            )
        # Of equal scores the first comes first. Where classes are not told apart, that is by class, as in pycocotools.
        found = found[np.lexsort([found.class_id, -found.score.astype(np.float64)])]
        true = true[np.argsort(true.class_id, kind="stable")]
        self._n_true += int((true.status != CROWD_STATUS).sum())
        self._n_detections += len(found)
        found_rows, true_rows = self._split(found), self._split(true)
        places = sorted({*found_rows, *true_rows})
        if not places:
            return
        true_set, found_set = self._extension.Dataset(), self._extension.Dataset()
        ious = [
            self._match(place, found_rows.get(place, [])[: self._max_detections], true_rows.get(place, []), true_set,
                        found_set)
            for place in places
        ]  # fmt: skip
        seen = self._extension.COCOevalEvaluateImages(
            self._params.areaRng, max(1, len(found)), self._params.iouThrs, [ious], true_set, found_set, [0], places,
            True,
        )  # fmt: skip
        for k, one in enumerate(seen):  # by class, then by range
            which, of_range = divmod(k, len(self._params.areaRng))
            self._found[places[which]][of_range].append(one)

    def _split(self, rows: Instances) -> dict[int, list[dict[str, Any]]]:
        """Give the rows of each class as the library takes them; all under 0 where classes are not told apart."""
        split: dict[int, list[dict[str, Any]]] = {}
        columns = rows.class_id.tolist(), rows.rle, rows.area_px.tolist(), rows.score.tolist(), rows.status.tolist()
        size = list(rows.size_hw)
        for class_id, rle, area, score, status in zip(*columns, strict=True):
            self._last_id += 1
            crowd = int(status == CROWD_STATUS)
            row = {"id": self._last_id, "area": area, "score": score, "iscrowd": crowd, "ignore": crowd}
            split.setdefault(0 if self._class_agnostic else class_id, []).append(
                {**row, "rle": {"size": size, "counts": rle}}
            )
        return split

    def _match(
        self, place: int, found: list[dict[str, Any]], true: list[dict[str, Any]], true_set: Any, found_set: Any
    ) -> list[list[float]]:
        """Put the rows of one class into the library's sets, and give their IoUs, (detections, true)."""
        self._most = max(self._most, len(found))
        for rows, into in ((true, true_set), (found, found_set)):
            for row in rows:
                into.append_ref(0, place, row)
        scores, regions = [row["score"] for row in found], [row["iscrowd"] for row in true]
        overlap = np.zeros((len(found), len(true)))
        if found and true:
            coded = ([row["rle"] for row in rows] for rows in (found, true))
            try:
                overlap = self._iou(*coded, regions)
            except (ValueError, RuntimeError) as error:
                raise PipelineError(f"a mask is damaged ({error}); make both mask stores again") from error
        self._voc.add(place, scores, overlap, np.array(regions, bool))
        ious: list[list[float]] = overlap.tolist() if found and true else []
        return ious

    def result(self, class_names: Sequence[str]) -> AveragePrecision:
        """Take precision and recall of every class, and average them."""
        params = self._params
        params.maxDets, params.catIds, params.useCats = [self._most], [0], 1
        precision, recall = [], []
        while self._found:
            by_range = self._found.pop(0)
            params.imgIds = list(range(len(by_range[0])))
            seen = self._extension.COCOevalAccumulate(params, [one for images in by_range for one in images])
            precision.append(np.asarray(seen["precision"], dtype=np.float64).reshape(10, 101, len(params.areaRng)))
            recall.append(np.asarray(seen["recall"], dtype=np.float64).reshape(10, len(params.areaRng)))
        precisions, recalls = np.stack(precision), np.stack(recall)  # (K, T, R, A) and (K, T, A); -1 where undefined
        by_class = {} if self._class_agnostic else dict(zip(class_names, precisions[..., 0], strict=True))
        return AveragePrecision(
            ap=_mean(precisions[..., 0]),
            ap_50=_mean(precisions[:, 0, :, 0]),
            ap_75=_mean(precisions[:, 5, :, 0]),
            ap_by_size={size: _mean(precisions[..., k]) for k, size in enumerate(SIZES, start=1)},
            ar=_mean(recalls[..., 0]),
            ar_by_size={size: _mean(recalls[..., k]) for k, size in enumerate(SIZES, start=1)},
            ap_by_class={name: _mean(values) for name, values in by_class.items()},
            n_true=self._n_true,
            n_detections=self._n_detections,
            voc_ap=self._voc.result(),
        )


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Average what is defined."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan
