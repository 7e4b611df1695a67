import pytest
import torch
from torch import nn

from pipeline.models.crowd_net import CrowdOutput
from pipeline.training.held_out import HeldOut
from tests.training.conftest import CPU, LOOP


class SameEverywhere(nn.Module):
    """Sees some heads in the first row, whatever the picture."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads

    def forward(self, images, coords_xy):
        height, width = images.shape[-2] // 4, images.shape[-1] // 4
        logits = torch.full((1, height, width), -5.0)
        logits[0, 0, : self.heads] = 5.0
        return CrowdOutput(logits, torch.ones(1, 4, height, width) / 2)


class BlobFinder(nn.Module):
    """Sees the blobs: bright cells are heads, and dark ones are unlike them."""

    def forward(self, images, coords_xy):
        bright = nn.functional.avg_pool2d(images.mean(dim=1), 4) - 0.7
        return CrowdOutput(4 * bright, torch.stack([(bright > 0).float(), (bright <= 0).float()], dim=1))


@pytest.mark.parametrize("heads", [0, 4])
def test_counts_are_compared_with_the_points(blob_run, heads):
    splits = blob_run.splits
    held_out = HeldOut.open(blob_run.prepared, blob_run.masks, splits.labeled_val, options=LOOP, device=CPU)
    errors = [abs(heads - blob_run.prepared.image(image_id).n_points) for image_id in splits.labeled_val]
    figures = held_out.figures(SameEverywhere(heads), with_masks=False)
    assert figures["mae"] == pytest.approx(sum(errors) / len(errors))
    assert figures["rmse"] == pytest.approx((sum(error**2 for error in errors) / len(errors)) ** 0.5)
    assert set(figures) == {"mae", "rmse"}


def test_masks_are_compared_with_the_annotators(blob_run):
    image_ids = blob_run.splits.labeled_val
    held_out = HeldOut.open(blob_run.prepared, blob_run.masks, image_ids, options=LOOP, device=CPU)
    assert held_out.figures(SameEverywhere(0), with_masks=True)["matched_iou"] == 0.0
    assert 0.1 < held_out.figures(BlobFinder(), with_masks=True)["matched_iou"] < 1.0
