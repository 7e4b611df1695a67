import pytest
import torch

from pipeline.compute.batches import Batches
from pipeline.errors import PipelineError


def test_every_item_once_in_order() -> None:
    assert list(Batches(4, "tiles").run(lambda start, stop: (start, stop), 10)) == [(0, 4), (4, 8), (8, 10)]
    assert list(Batches(4, "tiles").run(lambda start, stop: (start, stop), 0)) == []


def test_out_of_memory_halves_and_goes_on() -> None:
    batches, tried = Batches(8, "prompts"), []

    def work(start: int, stop: int) -> range:
        tried.append(stop - start)
        if stop - start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return range(start, stop)

    with pytest.warns(UserWarning, match="going on with [42] prompts at a time"):
        done = [item for part in batches.run(work, 11) for item in part]
    assert done == list(range(11))
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1]
    assert list(batches.run(work, 2)) == [range(2)]  # the size stays small
    assert tried[-1] == 2


def test_not_even_one_item_fits() -> None:
    def work(start: int, stop: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(PipelineError, match=r"one of the tiles at a time \(CUDA out of memory\); free"):
        list(Batches(1, "tiles").run(work, 3))
