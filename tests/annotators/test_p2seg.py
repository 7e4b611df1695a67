"""P2Seg's way from the network's word to masks, with networks that say what a test wants."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from pipeline.annotators import p2seg
from pipeline.annotators.base import MarkedImage
from pipeline.annotators.p2seg import FittedP2Seg, P2SegAnnotator, P2SegMaskOptions, look, working_hw
from pipeline.annotators.plan import AnnotatorPlan
from pipeline.errors import PipelineError
from pipeline.models.mutual_distillation import MutualDistillationOptions, MutualOutput, build_mutual_distillation
from pipeline.training.checkpoint import ModelRecord, save_model
from tests.annotators.fake_model import full_masks

CPU = torch.device("cpu")
SMALL = MutualDistillationOptions(width=8, affinity_dim=4)
NO_BOUND = P2SegMaskOptions(max_radii=0.0)


class SaysColours(nn.Module):
    """Class k where the red channel is k / 10 (channel k), offsets as given."""

    def __init__(self, n_classes: int, offsets: torch.Tensor | None = None) -> None:
        super().__init__()
        self.n_classes, self.offsets = n_classes, offsets

    def forward(self, images: torch.Tensor) -> MutualOutput:
        red = (images[:, 0, 1::4, 1::4] * 25.5).round()
        logits = torch.stack([10.0 * (red == k) for k in range(self.n_classes + 1)], 1)
        offsets = torch.zeros(len(images), 2, *red.shape[1:]) if self.offsets is None else self.offsets
        return MutualOutput(logits, offsets, torch.zeros(len(images), 1, *red.shape[1:]))


def scene(classes: np.ndarray, points_xy, class_id, radius_px=None) -> MarkedImage:
    """An image whose red channel says the class: 10 for class_id 0, 20 for 1."""
    image = np.zeros((*classes.shape, 3), np.uint8)
    image[..., 0] = classes * 10
    n = len(points_xy)
    radius = np.full(n, 20.0) if radius_px is None else np.array(radius_px, float)
    points = np.array(points_xy, float).reshape(n, 2)
    return MarkedImage("one", image, points, radius, np.arange(n) + 3, np.array(class_id, np.int64))


@pytest.fixture
def annotate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Annotate with a network that says colours."""

    def run(marked: MarkedImage, options=NO_BOUND, offsets=None):
        (tmp_path / "w").write_bytes(b"")
        net = SaysColours(2, offsets)
        monkeypatch.setattr(p2seg, "build_mutual_distillation", lambda *_: net)
        monkeypatch.setattr(net, "load_state_dict", lambda _: None)
        monkeypatch.setattr("safetensors.torch.load_file", lambda _: {})
        return P2SegAnnotator(FittedP2Seg(options, SMALL, 2), tmp_path / "w", CPU).annotate(marked)

    return run


def blocks() -> np.ndarray:
    classes = np.zeros((64, 64), np.int64)
    classes[8:24, 8:40] = 1
    classes[40:56, 8:24] = 2
    return classes


def test_each_point_gets_the_component_of_its_class_that_holds_it(annotate) -> None:
    classes = blocks()
    classes[40:56, 40:56] = 1  # far from its points: another component of class 0
    rows = annotate(scene(classes, [[14.0, 16.0], [34.0, 16.0], [16.0, 48.0]], [0, 0, 1]))
    masks = full_masks(rows)
    assert rows.status.tolist() == ["ok"] * 3
    assert rows.point_id.tolist() == [3, 4, 5]
    wanted = blocks()
    inner = np.s_[10:22, 10:38]  # edges blur by upsampling
    columns = np.arange(64)[None, :].repeat(64, 0)
    np.testing.assert_array_equal(masks[0][inner], ((wanted == 1) & (columns <= 24))[inner])
    np.testing.assert_array_equal(masks[1][inner], ((wanted == 1) & (columns > 24))[inner])
    assert masks[2][42:54, 10:22].all()
    assert not masks[:2, 40:, 40:].any()
    assert not (masks.sum(0) > 1).any()
    assert (rows.score > 0.9).all()


def test_offsets_move_the_border(annotate) -> None:
    offsets = torch.zeros(1, 2, 16, 16)
    offsets[0, 1] = -5.0  # dx: every pixel looks five to the left
    masks = full_masks(
        annotate(scene(blocks(), [[14.0, 16.0], [34.0, 16.0], [16.0, 48.0]], [0, 0, 1]), offsets=offsets)
    )
    assert masks[0, 16, 24:30].all()
    assert masks[1, 16, 31:38].all()


def test_classes_without_points_are_suppressed(annotate) -> None:
    rows = annotate(scene(blocks(), [[16.0, 48.0]], [1]))
    assert not full_masks(rows)[0][:24].any()
    marked = scene(blocks(), [[16.0, 48.0]], [1])
    said = look(SaysColours(2), marked.image, marked.class_id, CPU)
    assert sorted(np.unique(said.classes).tolist()) == [0, 2]


def test_a_point_that_the_network_does_not_see_gets_a_flagged_disc(annotate) -> None:
    rows = annotate(scene(blocks(), [[50.0, 30.0], [16.0, 48.0]], [0, 1], radius_px=[12.0, 20.0]))
    assert rows.status.tolist() == ["fallback", "ok"]
    assert rows.source.tolist() == ["fallback", "p2seg"]
    assert rows.score[0] == pytest.approx(0.1)
    y, x = np.mgrid[:64, :64]
    np.testing.assert_array_equal(full_masks(rows)[0], np.hypot(x - 50, y - 30) <= 6)


def test_a_fallback_takes_nothing_from_others(annotate) -> None:
    rows = annotate(scene(blocks(), [[42.0, 16.0], [20.0, 16.0]], [1, 0], radius_px=[20.0, 30.0]))
    masks = full_masks(rows)
    assert rows.status.tolist() == ["fallback", "ok"]
    assert not (masks[0] & masks[1]).any()
    assert masks[0, 16, 42]
    assert masks[1, 16, 36]


@pytest.mark.parametrize(("max_radii", "reach"), [(0.0, 40), (1.0, 28), (0.5, 21)])
def test_the_circle_bounds_a_mask(annotate, max_radii: float, reach: int) -> None:
    rows = annotate(scene(blocks(), [[14.0, 16.0]], [0], radius_px=[14.0]), P2SegMaskOptions(max_radii=max_radii))
    assert abs(int(np.flatnonzero(full_masks(rows)[0, 16]).max()) - reach) <= 1


def test_points_outside_and_doubles_keep_their_rows(annotate) -> None:
    points = [[-9.0, 16.0], [16.0, 48.0], [16.0, 48.0], [70.0, 90.0]]
    rows = annotate(scene(blocks(), points, [0, 1, 1, 1]))
    assert rows.status.tolist() == ["empty", "ok", "fallback", "empty"]  # of two at one place, the first is seen
    assert (rows.area_px > 0).tolist() == [False, True, True, False]
    assert not (full_masks(rows).sum(0) > 1).any()
    assert (rows.score[[0, 2, 3]] <= 0.1).all()


def test_large_images_are_shrunk_and_their_offsets_are_in_working_pixels(annotate) -> None:
    classes = np.kron(blocks(), np.ones((2, 2), np.int64))
    rows = annotate(
        scene(classes, [[28.0, 32.0], [68.0, 32.0]], [0, 0]), P2SegMaskOptions(long_side_px=64, max_radii=0)
    )
    masks = full_masks(rows)
    assert masks[0, 32, 20:47].all()
    assert masks[1, 32, 50:78].all()
    assert working_hw((128, 64), 64) == (64, 32)
    assert working_hw((30, 64), 64) == (30, 64)


def test_no_points_give_no_rows(annotate) -> None:
    assert len(annotate(scene(blocks(), [], []))) == 0


def saved(path: Path, n_classes: int = 2) -> Path:
    torch.manual_seed(1)
    net = build_mutual_distillation(SMALL, n_classes)
    save_model(path, net.state_dict(), ModelRecord("p2seg", {}, {}, 1, {}))
    return path


def test_a_plan_builds_it_and_the_weights_are_in_its_keys(tmp_path: Path) -> None:
    plan = AnnotatorPlan("p2seg", FittedP2Seg(NO_BOUND, SMALL, 2), checkpoint=saved(tmp_path / "a.safetensors"))
    annotator = plan.build()
    marked = scene(blocks(), [[14.0, 16.0], [90.0, 16.0], [16.0, 48.0]], [0, 0, 1])
    rows = annotator.annotate(marked)
    assert len(rows) == 3
    assert rows.equals(annotator.annotate(marked))
    assert plan.provenance().weights_sha256 == annotator.weights_sha256 is not None
    keys = plan.keys(plan.provenance(), "a" * 64, marked)
    torch.manual_seed(2)
    save_model(
        tmp_path / "a.safetensors",
        build_mutual_distillation(SMALL, 2).state_dict(),
        ModelRecord("p2seg", {}, {}, 1, {}),
    )
    assert plan.keys(plan.provenance(), "a" * 64, marked)[0] != keys[0]


def test_fitted_weights_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = MutualDistillationOptions(backbone="resnet10t", width=8, affinity_dim=4)
    net = build_mutual_distillation(network, 2)
    save_model(tmp_path / "a.safetensors", net.state_dict(), ModelRecord("p2seg", {}, {}, 1, {}))
    create = timm.create_model

    def offline(name, pretrained=False, **more):
        assert not pretrained, "asked for ImageNet weights"
        return create(name, pretrained=False, **more)

    monkeypatch.setattr(timm, "create_model", offline)
    P2SegAnnotator(FittedP2Seg(NO_BOUND, replace(network, pretrained=True), 2), tmp_path / "a.safetensors", CPU)


def test_missing_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    fitted = FittedP2Seg(NO_BOUND, SMALL, 2)
    with pytest.raises(PipelineError, match="needs a network that was trained on these points"):
        P2SegAnnotator(fitted, None, CPU)
    with pytest.raises(PipelineError, match="not the weights of this network"):
        P2SegAnnotator(fitted, saved(tmp_path / "a.safetensors", n_classes=5), CPU)


@pytest.mark.parametrize(
    "given", [{"long_side_px": 8}, {"max_radii": -1}, {"fallback_score": 0.5}, {"fallback_radius_frac": 0}]
)
def test_impossible_values_are_refused(given) -> None:
    with pytest.raises(ValueError, match="expected"):
        P2SegMaskOptions(**given)
