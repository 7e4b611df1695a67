import pytest
import torch

from benchmarks.exclusivity import full_frame_exclusivity_loss, one_core_rows, random_case
from pipeline.losses.exclusivity import exclusivity_loss


@pytest.mark.parametrize("n_heads", [2, 9])
def test_the_full_frame_form_is_the_same_loss(n_heads: int) -> None:
    embedding, points_xy, labels = random_case(32, n_heads)
    embedding = embedding.detach().double().requires_grad_()
    losses, gradients = [], []
    for loss in (
        full_frame_exclusivity_loss(embedding, points_xy, labels, n_heads),
        exclusivity_loss(embedding[None], [points_xy], labels[None]),
    ):
        (gradient,) = torch.autograd.grad(loss, embedding)
        losses.append(loss.detach())
        gradients.append(gradient)
    assert float(losses[0]) > 0.1
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_a_small_run_gives_its_rows() -> None:
    seconds, memory = one_core_rows(0.05)
    assert seconds.work == "8 heads, 56 × 56 × 16, forward and backward, one core"
    assert seconds.reference == "N × H × W form (8 heads, extrapolated)"
    assert seconds.met == (seconds.ours <= 0.25)
    assert memory.unit == "MiB"
    assert memory.met == (memory.ours <= 300)
