import contextlib
import copy
import io
import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.evaluation.average_precision import AveragePrecision, average_precision
from pipeline.masks.instances import Instances
from tests.evaluation.shapes import coco_json, instances, random_image, write_stores

NAMES = ("dot", "traffic light", "tree", "car", "never seen")
SIZE_HW, CANVAS_HW = (240, 320), (180, 220)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    rng = np.random.default_rng(3)
    images = {f"test/{k}": random_image(rng, n_true=int(n)) for k, n in enumerate((30, 12, 0, 20))}
    images["test/9 no detections"] = (images["test/0"][0], Instances.empty(CANVAS_HW))
    found, true = write_stores(tmp_path_factory.mktemp("stores"), images)
    assert max(found.n_instances(image_id) for image_id in found.image_ids) > 100
    assert any((true.instances(image_id).status == "ambiguous").any() for image_id in true.image_ids)
    return found, true


def pycocotools():
    coco = pytest.importorskip("pycocotools.coco")
    return coco.COCO, pytest.importorskip("pycocotools.cocoeval").COCOeval


def faster_coco_eval():
    from faster_coco_eval import COCO, COCOeval_faster

    return COCO, COCOeval_faster


def reference(kind, found, true, *, max_detections, agnostic):
    """The reference evaluator on plain COCO JSON: precision (T, R, K, A) and recall (T, K, A), -1 where undefined."""
    coco_class, eval_class = kind()
    data, results = coco_json(found, true, len(NAMES))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_class(copy.deepcopy(data)) if kind is faster_coco_eval else coco_class()
        if kind is pycocotools:
            truth.dataset = copy.deepcopy(data)
            truth.createIndex()
        evaluator = eval_class(truth, truth.loadRes(copy.deepcopy(results)), iouType="segm")
        evaluator.params.maxDets = [max_detections or 10_000]
        evaluator.params.useCats = int(not agnostic)
        evaluator.evaluate()
        evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"])[..., 0], np.asarray(evaluator.eval["recall"])[..., 0]


def mean(values):
    defined = values[values > -1]
    return defined.mean() if defined.size else math.nan


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("max_detections", [None, 100, 3])
@pytest.mark.parametrize("kind", [pycocotools, faster_coco_eval])
def test_it_is_what_the_reference_evaluator_says(stores, kind, max_detections, agnostic):
    found, true = stores
    precision, recall = reference(kind, found, true, max_detections=max_detections, agnostic=agnostic)
    ours = average_precision(
        found, true, true.image_ids, class_names=NAMES, max_detections=max_detections, class_agnostic=agnostic
    )
    wanted = {
        "ap": mean(precision[..., 0]),
        "ap_50": mean(precision[0, ..., 0]),
        "ap_75": mean(precision[5, ..., 0]),
        "ar": mean(recall[..., 0]),
        **{f"ap_{size}": mean(precision[..., k]) for k, size in enumerate(("small", "medium", "large"), start=1)},
        **{f"ar_{size}": mean(recall[..., k]) for k, size in enumerate(("small", "medium", "large"), start=1)},
    }
    got = {
        "ap": ours.ap, "ap_50": ours.ap_50, "ap_75": ours.ap_75, "ar": ours.ar,
        **{f"ap_{size}": value for size, value in ours.ap_by_size.items()},
        **{f"ar_{size}": value for size, value in ours.ar_by_size.items()},
    }  # fmt: skip
    assert got == pytest.approx(wanted, abs=1e-12)
    assert 0.02 < ours.ap < 0.9
    assert len(set(got.values())) > 6
    if agnostic:
        assert ours.ap_by_class == {}
    else:
        by_class = {name: mean(precision[:, :, k, 0]) for k, name in enumerate(NAMES)}
        assert ours.ap_by_class == pytest.approx(by_class, abs=1e-12, nan_ok=True)
        assert math.isnan(ours.ap_by_class["never seen"])


def test_a_cap_costs_recall(stores):
    found, true = stores
    few = average_precision(found, true, true.image_ids, class_names=NAMES, max_detections=3)
    assert few.ar < average_precision(found, true, true.image_ids, class_names=NAMES).ar


BIG, SMALL = (100, 100, 60, 60), (200, 60, 8, 8)


@pytest.mark.parametrize(
    ("true", "status", "found", "score", "ap"),
    [
        ([BIG, SMALL], "ok", [BIG, SMALL], [0.9, 0.8], 1.0),
        ([BIG, SMALL], "ok", [BIG], [0.9], 51 / 101),  # recall 0 … 0.5 of the 101 steps
        ([BIG], "ok", [SMALL, BIG], [0.9, 0.8], 0.5),
        ([BIG], "ok", [BIG, SMALL], [0.9, 0.8], 1.0),  # a false alarm after all is found costs nothing
        ([BIG, SMALL], ["ambiguous", "ok"], [(90, 90, 9, 9), (110, 110, 9, 9), SMALL], [0.9, 0.8, 0.7], 1.0),
        ([BIG, SMALL], ["ok", "ok"], [(90, 90, 9, 9), (110, 110, 9, 9), SMALL], [0.9, 0.8, 0.7], 51 / 101 / 3),
        ([BIG], "ambiguous", [BIG], [0.9], math.nan),
        ([BIG], "ok", [], [], 0.0),
    ],
)  # fmt: skip
def test_literal_values(tmp_path, true, status, found, score, ap):
    n, m = len(true), len(found)
    pair = (
        instances(SIZE_HW, true, np.zeros(n), status=status),
        instances(SIZE_HW, found, np.zeros(m), score=np.array(score)),
    )
    detections, truth = write_stores(tmp_path, {"a": pair})
    result = average_precision(detections, truth, ["a"], class_names=["thing"])
    assert result.ap == pytest.approx(ap, nan_ok=True)
    assert result.n_true == n - (status == "ambiguous") - (status == ["ambiguous", "ok"])
    assert result.n_detections == m


def test_rows_without_pixels_do_not_count(tmp_path):
    true, found = instances(SIZE_HW, [BIG], [0]), instances(SIZE_HW, [BIG], [0], score=[0.5])
    nothing = Instances.from_label_map(
        np.zeros(SIZE_HW, int), point_id=[7], points_xy=np.ones((1, 2)), radius_px=[1], score=[0.9], source="x",
        status="empty",
    )  # fmt: skip
    images = {"a": (true, found), "b": (nothing, nothing)}
    detections, truth = write_stores(tmp_path, images)
    result = average_precision(detections, truth, ["a", "b"], class_names=["thing"])
    assert (result.ap, result.n_true, result.n_detections) == (1.0, 1, 1)


def test_sizes_may_begin_elsewhere(tmp_path):
    pair = instances(SIZE_HW, [BIG, SMALL], [0, 0]), instances(SIZE_HW, [BIG], [0], score=[0.5])
    detections, truth = write_stores(tmp_path, {"a": pair})
    published = average_precision(detections, truth, ["a"], class_names=["thing"])
    assert published.ap_by_size["large"] == 1.0
    assert math.isnan(published.ap_by_size["medium"])
    small = average_precision(detections, truth, ["a"], class_names=["thing"], size_limits_px=(5, 200))
    assert small.ap_by_size["medium"] == pytest.approx(51 / 101)


def test_the_names_say_what_was_given():
    sizes = {"small": 0.1, "medium": 0.2, "large": math.nan}
    result = AveragePrecision(0.123456789, 0.5, 0.25, sizes, 0.75, sizes, {"traffic light": 0.5}, 8, 9)
    plain = result.metrics()
    assert plain["ap"] == 0.123457
    assert plain["ap_large"] is None
    assert plain["ap_class_traffic_light"] == 0.5
    assert plain["n_detections"] == 9
    prompted = result.metrics(class_agnostic=True, given_points=True)
    assert set(prompted) == {f"{name}_agnostic_given_points" for name in plain}


def bad_score(true, found):
    return true, replace(found, score=np.full(len(found), np.nan))


def other_size(true, found):
    return instances((20, 20), [(5, 5, 3, 3)], [0]), found


def unknown_class(true, found):
    return replace(true, class_id=true.class_id + 3), found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (bad_score, r"found: a has rows without a score"),
        (other_size, r"truth: an image is \(20, 20\) pixels .* \(240, 320\) in the detections"),
        (unknown_class, r"truth: a has rows of class 3 to 3, expected 0 to 0"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, change, message):
    pair = instances(SIZE_HW, [BIG], [0]), instances(SIZE_HW, [BIG], [0], score=[0.5])
    detections, truth = write_stores(tmp_path, {"a": change(*pair)})
    with pytest.raises(PipelineError, match=message):
        average_precision(detections, truth, ["a"], class_names=["thing"])


@pytest.mark.parametrize(
    ("image_ids", "change", "message"),
    [
        ([], {}, "no images to evaluate"),
        (["test/0", "b"], {}, r"lacks 1 of the images to evaluate \(b"),
        (["test/0"], {"max_detections": 0}, "max_detections: expected at least 1"),
        (["test/0"], {"size_limits_px": (9.0, 9.0)}, "size_limits_px: expected two lengths"),
    ],
)
def test_requests_that_make_no_sense_are_refused(stores, image_ids, change, message):
    with pytest.raises(PipelineError, match=message):
        average_precision(*stores, image_ids, class_names=NAMES, **change)
