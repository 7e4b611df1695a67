import dataclasses
import json

import numpy as np
import pytest
import torch

from benchmarks.matrix_nms import crowd_of_candidates, loop_matrix_nms, one_core_rows
from pipeline.models.matrix_nms import matrix_nms


@pytest.mark.parametrize("n", [1, 7, 60])
def test_the_loop_is_the_same_nms(n: int) -> None:
    masks, scores = crowd_of_candidates(n, 40, 3)
    decay = matrix_nms(masks, torch.zeros(n, dtype=torch.int64), scores)
    assert loop_matrix_nms(masks.flatten(1).numpy(), np.arange(n)) == pytest.approx(decay.tolist())
    assert n == 1 or decay.min() < 0.9


def test_a_small_run_gives_its_row() -> None:
    (row,) = one_core_rows(0.01)
    assert row.work == "20 candidates of one class, 160 × 160, one core"
    assert row.reach == "≤ 0.05 × (20 × faster)"
    assert row.met == (row.ratio <= 0.05)
    json.dumps(dataclasses.asdict(row))  # as results are written: no NumPy numbers
