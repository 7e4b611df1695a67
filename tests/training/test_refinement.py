import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compute.files import digest_file
from pipeline.errors import PipelineError
from pipeline.masks.store import MaskStore
from pipeline.models.refine_net import build_refine_net
from pipeline.training.checkpoint import ModelRecord, save_model
from pipeline.training.options import result_options
from pipeline.training.refine_crops import RefineBatches, kept_images
from pipeline.training.refine_pairs import refine_pairs
from pipeline.training.refinement import KIND, load_refine_net, refine_instances, refine_masks, refine_store
from pipeline.training.refiner import RefineLoss
from tests.training.rough_scenes import TINY, as_rows, write_masks

CPU = torch.device("cpu")


class FakeNet(nn.Module):
    """Gives the logit of the mask as a function of the inputs, and keeps them."""

    n_classes = 2

    def __init__(self, give):
        super().__init__()
        self.give, self.seen = give, []

    def forward(self, images, heat, class_id, masks):
        self.seen.append((images, heat, class_id, masks))
        logit = self.give(images, heat, class_id, masks)
        return torch.stack([-logit, logit], dim=1)


def copies(images, heat, class_id, masks):
    return 8 * masks.float() - 4


def nothing(images, heat, class_id, masks):
    return torch.full_like(heat, -4.0)


@pytest.fixture
def scene(rough_run):
    rows = rough_run.rough[0].instances("test/00")
    return np.zeros((*rows.size_hw, 3), np.uint8), rows


def refine(net, scene):
    pixels, rows = scene
    return refine_instances(net, pixels, rows, options=TINY.crops, device=CPU)


def test_a_mask_comes_back_to_where_it_was(scene):
    rows = scene[1]
    refined = refine(FakeNet(copies), scene)
    for k in range(len(rows)):
        a, b = rows[k].label_map() > 0, refined[k].label_map() > 0
        assert (a & b).sum() / (a | b).sum() > 0.75  # a crop of 32 px is coarser than the larger masks
        assert refined.source[k] == "refined"
    same = ("point_id", "class_id", "points_xy", "score", "status", "round")
    assert all(np.array_equal(getattr(rows, name), getattr(refined, name)) for name in same)


def test_the_answer_may_reach_twice_the_box(scene):
    rows = scene[1]
    refined = refine(FakeNet(lambda images, heat, *rest: torch.full_like(heat, 4.0)), scene)
    for box, before in zip(refined.boxes_xywh, rows.boxes_xywh, strict=True):
        assert (box[:2] <= before[:2]).all()
        assert (box[2:] <= 2 * before[2:] + 1).all()


def test_an_empty_answer_keeps_the_rough_mask(scene):
    assert refine(FakeNet(nothing), scene).equals(scene[1])


def test_rows_that_cannot_be_refined_stay_as_they_are(scene):
    pixels, rows = scene
    blank = as_rows([np.zeros(rows.size_hw)], [(3, 3)], [0], source="point_guided")
    status = np.array(["ok", "fallback", "ambiguous", *["ok"] * (len(rows) - 3)])
    mixed = replace(rows, status=status)
    mixed = replace(
        mixed, rle=[blank.rle[0], *mixed.rle[1:]], area_px=np.where(np.arange(len(rows)) == 0, 0, rows.area_px),
        boxes_xywh=np.where(np.arange(len(rows))[:, None] == 0, 0, rows.boxes_xywh),
    )  # fmt: skip
    refined = refine_instances(FakeNet(copies), pixels, mixed, options=TINY.crops, device=CPU)
    assert refined[:3].equals(mixed[:3])
    assert (refined.source[3:] == "refined").all()
    only = refine_instances(FakeNet(copies), pixels, mixed[:3], options=TINY.crops, device=CPU)
    assert only.equals(mixed[:3])


def channels_of_heat(net, run):
    """Run a network and see in which channels of its input the heat of each class stands."""
    seen = []
    net.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    run()
    stacked = torch.cat(seen)
    return [tuple((each[3:-1].flatten(1).max(dim=1).values == 1).nonzero().flatten().tolist()) for each in stacked]


def test_the_heat_of_a_class_has_one_channel_in_training_and_in_inference(rough_run, scene):
    net = build_refine_net(TINY.network, 2)
    pairs = refine_pairs(rough_run.prepared, rough_run.truth, rough_run.rough, rough_run.splits.labeled_train,
                         n_classes=2)  # fmt: skip
    batches = RefineBatches(pairs, kept_images(rough_run.prepared, cache_mib=8), TINY.crops, seed=0)
    drawn = [batches(step) for step in range(4)]
    trained = channels_of_heat(net, lambda: [RefineLoss(0.5, CPU)(net, net, batch, 0) for batch in drawn])
    learnt = dict(
        zip([class_id for batch in drawn for class_id in batch.inputs.class_id.tolist()], trained, strict=True)
    )
    assert learnt == {0: (0, 2), 1: (1, 2)}  # its own, and the one of any class
    net = build_refine_net(TINY.network, 2).eval()
    rows = scene[1]
    used = channels_of_heat(net, lambda: refine(net, scene))
    assert dict(zip(rows.class_id.tolist(), used, strict=True)) == learnt


class SmallCard(FakeNet):
    def forward(self, images, *rest):
        if len(images) > 1:
            raise torch.cuda.OutOfMemoryError("too many")
        return super().forward(images, *rest)


def test_the_batch_is_halved_when_memory_runs_out(scene, monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    card = SmallCard(copies)
    with pytest.warns(UserWarning, match="memory is too small for 4 crops") as told:
        refined = refine(card, scene)
    assert len(told) == 1
    assert len(card.seen) == len(scene[1])
    assert refined.equals(refine(FakeNet(copies), scene))


def test_no_masks_need_no_network(scene):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refine_masks(SmallCard(copies), scene[0], [], options=TINY.crops, device=CPU) == []


def save_untrained(path, options=TINY):
    torch.manual_seed(0)
    net = build_refine_net(options.network, 2)
    record = ModelRecord(
        KIND, {"network": result_options(options)["network"], "n_classes": 2}, result_options(options), 0, {}
    )
    save_model(path, net.state_dict(), record)
    return path


def test_a_store_is_refined_image_by_image(rough_run, tmp_path):
    weights = save_untrained(tmp_path / "model.safetensors")
    rough, out = rough_run.rough[0], tmp_path / "refined"

    def run(name):
        return refine_store(
            rough_run.prepared, rough, weights, options=TINY, out=tmp_path / name, log=tmp_path / "log.jsonl",
            device=CPU,
        )  # fmt: skip

    n_refined = run("refined")
    refined = MaskStore.open(out)
    assert refined.image_ids == rough.image_ids
    assert n_refined == sum((refined.instances(image_id).source == "refined").sum() for image_id in refined.image_ids)
    assert n_refined > 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["image_id"] for line in lines] == rough.image_ids
    assert sum(line["refined"] for line in lines) == n_refined
    assert refined.provenance.weights_sha256 == digest_file(weights)
    assert refined.provenance.params["rough"]["algorithm"] == "truth"
    run("again")
    files = sorted(path.name for path in out.iterdir())
    assert all((out / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"crops": replace(TINY.crops, heat_sigma_px=6.0)},
            r"a refiner of other crops \(heat_sigma_px: 2.0 instead of",
        ),
        ({"network": replace(TINY.network, context_width=16)}, r"other network \(context_width: 8 instead of 16"),
    ],
)
def test_a_refiner_of_other_options_is_refused(tmp_path, change, message):
    weights = save_untrained(tmp_path / "model.safetensors")
    load_refine_net(weights, device=CPU, expected=replace(TINY, crops=replace(TINY.crops, batch=9, context=1.5)))
    with pytest.raises(PipelineError, match=message):
        load_refine_net(weights, device=CPU, expected=replace(TINY, **change))


def test_weights_that_do_not_fit_their_record_are_refused(tmp_path):
    torch.manual_seed(0)
    net = build_refine_net(TINY.network, 3)
    record = ModelRecord(KIND, {"network": result_options(TINY)["network"], "n_classes": 2}, {}, 0, {})
    save_model(tmp_path / "model.safetensors", net.state_dict(), record)
    with pytest.raises(PipelineError, match="the weights do not fit the network"):
        load_refine_net(tmp_path / "model.safetensors", device=CPU)


def test_rows_of_an_unknown_class_are_refused(rough_run, tmp_path):
    weights = save_untrained(tmp_path / "model.safetensors")
    rows = rough_run.rough[0].instances("test/00")
    write_masks(tmp_path / "rough", {"test/00": replace(rows, class_id=rows.class_id + 1)})
    with pytest.raises(PipelineError, match="test/00 has rows of class . to 2, expected 0 to 1"):
        refine_store(rough_run.prepared, MaskStore.open(tmp_path / "rough"), weights, options=TINY,
                     out=tmp_path / "out", log=tmp_path / "log.jsonl", device=CPU)  # fmt: skip
    assert not (tmp_path / "out").exists()
