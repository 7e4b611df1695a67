import numpy as np
import torch

from pipeline.annotators.edp_sam import EdpSamAnnotator, EdpSamOptions
from pipeline.annotators.mirrored import MirroredModel
from pipeline.models.compact_sam import build_compact_sam
from pipeline.models.sam import PromptableModel
from tests.annotators.fake_model import DiscModel, full_masks, mark


def small_model() -> PromptableModel:
    torch.manual_seed(0)
    return PromptableModel("compact", build_compact_sam().eval(), torch.device("cpu"), "0" * 64)


def test_a_mirrored_question_gets_the_mirrored_answer() -> None:
    model = MirroredModel(small_model())
    tile = torch.rand(1, 3, 256, 256) * 255
    points, negatives = (
        torch.tensor([[90.0, 100.0], [20.0, 200.0]]),
        torch.tensor([[[120.0, 90.0]], [[float("nan")] * 2]]),
    )
    boxes = torch.tensor([[70.0, 80.0, 130.0, 160.0], [0.0, 180.0, 60.0, 255.0]])
    logits, estimates = model.decode(model.encode(tile)[0], points, boxes, negatives)
    across = torch.tensor([255.0, 0.0])
    sign = torch.tensor([-1.0, 1.0])
    turned_boxes = torch.stack([255 - boxes[:, 2], boxes[:, 1], 255 - boxes[:, 0], boxes[:, 3]], 1)
    turned, again = model.decode(
        model.encode(tile.flip(3))[0], across + sign * points, turned_boxes, across + sign * negatives
    )
    torch.testing.assert_close(turned.flip(3), logits)
    torch.testing.assert_close(again, estimates)
    single, _ = small_model().decode(small_model().encode(tile)[0], points, boxes, negatives)
    assert not torch.allclose(single, logits)


def test_the_annotator_draws_what_both_say() -> None:
    marked = mark([[20.0, 24.0], [44.0, 40.0]], radius_px=[10.0, 10.0])
    plain, both = (
        EdpSamAnnotator(DiscModel(), EdpSamOptions(prompts=("head",), mirrored=mirrored)).annotate(marked)
        for mirrored in (False, True)
    )
    np.testing.assert_array_equal(full_masks(plain), full_masks(both))  # the fake model's answer is symmetric
