import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from pipeline.datasets.images import read_image_rgb
from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore
from pipeline.training.evaluate_segments import SegmentEvaluateOptions, SegmentInputs, evaluate_segments
from pipeline.training.segment_inference import Segmenter
from tests.training.shapes_home import CPU, write_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture
def inputs(shapes, tmp_path, monkeypatch):
    """The student finds what is there; the teacher calls every instance by the other class."""

    class Oracle:
        def __init__(self, path):
            self.turned = path.parent.name == "warmup"

        def of(self, pixels):
            photos = {one: read_image_rgb(shapes.image(one).path) for one in shapes.truth.image_ids}
            [image_id] = [one for one, photo in photos.items() if np.array_equal(photo, pixels)]
            return shapes.truth.instances(image_id)

        def detect(self, pixels, options):
            rows = self.of(pixels)
            class_id = 1 - rows.class_id if self.turned else rows.class_id
            return replace(rows, score=np.full(len(rows), 0.9), class_id=class_id)

        def at_points(self, pixels, points, options):
            return self.of(pixels)

    monkeypatch.setattr(Segmenter, "load", lambda path, n_classes, device: Oracle(path))
    for name in ("retrain", "warmup"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    with MaskStore.create(tmp_path / "pseudo", Provenance("copy", 1)) as writer:
        writer.add("train/0003", shapes.truth.instances("train/0003"))
    return SegmentInputs(
        prepared=shapes,
        test_ids=[row.image_id for row in shapes.of_split("test")],
        student=tmp_path / "retrain" / "model.safetensors",
        teacher=tmp_path / "warmup" / "model.safetensors",
        pseudo=MaskStore.open(tmp_path / "pseudo"),
    )


def test_teacher_student_and_pseudo_labels_are_measured(inputs, tmp_path):
    figures = evaluate_segments(inputs, options=SegmentEvaluateOptions(pictures=1), out=tmp_path / "out", device=CPU)
    assert (figures["ap"], figures["ap_50"], figures["teacher_ap"]) == (1.0, 1.0, 0.0)
    assert figures["pseudo_label_mean_iou"] == 1.0
    assert figures["n_images"] == 2
    assert not [name for name in figures if "given_points" in name]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == figures
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "detections", "overlays"}
    assert list(MaskStore.open(tmp_path / "out" / "detections").image_ids) == list(inputs.test_ids)
    assert [path.name for path in (tmp_path / "out" / "overlays").iterdir()] == ["test_0000.png"]


def test_test_points_are_read_where_asked_for_and_the_names_say_so(inputs, tmp_path):
    options = SegmentEvaluateOptions(prompt="points", teacher=False, pictures=0)
    figures = evaluate_segments(replace(inputs, pseudo=None), options=options, out=tmp_path / "out", device=CPU)
    assert figures["mean_iou_given_points"] == 1.0
    assert "teacher_ap" not in figures
    assert "pseudo_label_mean_iou" not in figures


def test_detections_that_count_are_chosen_on_held_out_images(inputs, tmp_path, monkeypatch):
    """A second detector adds a row of score 0.4 to every image: held-out counts tell that it is none."""
    load = Segmenter.load

    class Doubting:
        def __init__(self, oracle):
            self.oracle = oracle

        def detect(self, pixels, options):
            rows = self.oracle.detect(pixels, options)
            twice = [*range(len(rows)), 0]
            return Instances.from_windows(
                rows.size_hw, [rows.window(row) for row in twice], point_id=np.arange(len(twice)),
                points_xy=rows.points_xy[twice], radius_px=np.ones(len(twice)), class_id=rows.class_id[twice],
                score=[*rows.score, 0.4], source="x", status="ok",
            )  # fmt: skip

    monkeypatch.setattr(Segmenter, "load", lambda *args, **named: Doubting(load(*args, **named)))
    held_out = [row.image_id for row in inputs.prepared.of_split("train")][:2]
    options = SegmentEvaluateOptions(teacher=False, pictures=0)
    figures = evaluate_segments(
        replace(inputs, held_out_ids=held_out), options=options, out=tmp_path / "out", device=CPU
    )
    assert figures["matched_iou_truth"] == 1.0
    assert figures["mae"] == 0.0
    assert 0.4 < figures["count_threshold"] < 0.9
    figures = evaluate_segments(inputs, options=options, out=tmp_path / "without", device=CPU)
    assert not {"mae", "matched_iou_truth", "count_threshold"} & set(figures)


def test_what_cannot_be_evaluated_is_named(inputs, tmp_path):
    with pytest.raises(PipelineError, match="has no test images"):
        evaluate_segments(
            replace(inputs, test_ids=[]), options=SegmentEvaluateOptions(), out=tmp_path / "out", device=CPU
        )
    assert not (tmp_path / "out").exists()
    assert asdict(SegmentEvaluateOptions())["detect"]["max_detections"] == 100


def test_a_negative_number_of_pictures_is_refused():
    with pytest.raises(ValueError, match="pictures: expected at least 0, got -1"):
        SegmentEvaluateOptions(pictures=-1)
