import pytest
import torch

from benchmarks.point_to_region import dense_point_to_region_loss, one_core_rows
from pipeline.losses.point_to_region import point_to_region_loss


@pytest.mark.parametrize("n_heads", [0, 1, 7, 200])
def test_the_dense_form_is_the_same_loss(n_heads: int) -> None:
    generator = torch.Generator().manual_seed(n_heads)
    logits = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    points_xy = 30 * torch.rand(n_heads, 2, generator=generator, dtype=torch.float64)
    gradients = []
    for form in (dense_point_to_region_loss, lambda z, points: point_to_region_loss(z[None], [points])):
        z = logits.clone().requires_grad_()
        loss = form(z, points_xy)
        loss.backward()
        gradients.append((loss.detach(), z.grad))
    torch.testing.assert_close(*gradients)


def test_a_small_run_gives_its_row() -> None:
    (row,) = one_core_rows(0.01)
    assert row.work == "6 × 6 cells, 20 heads, forward and backward, one core"
    assert row.met == (row.ratio <= 0.2)
