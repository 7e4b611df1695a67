import threading
import time

import pytest
import torch

from pipeline.compute.ordered import one_thread_per_operation, ordered_map


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order(workers: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.01 if item % 3 == 0 else 0)
        return item * item

    assert list(ordered_map(slow_first, range(20), workers=workers)) == [item * item for item in range(20)]


def test_items_are_taken_as_they_are_needed() -> None:
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    results = ordered_map(lambda item: item, items(), workers=2)
    assert next(results) == 0
    assert len(taken) == 4
    results.close()


def test_an_error_surfaces_at_its_turn_and_stops_the_rest() -> None:
    begun = []

    def fail_at_two(item: int) -> int:
        begun.append(item)
        if item == 2:
            raise ValueError("two")
        return item

    results = ordered_map(fail_at_two, range(1000), workers=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert len(begun) < 10


def test_several_threads_take_part() -> None:
    barrier = threading.Barrier(2, timeout=10)
    assert len(list(ordered_map(lambda _: barrier.wait(), range(4), workers=2))) == 4


def test_thread_count_is_given_back() -> None:
    before = torch.get_num_threads()
    with one_thread_per_operation():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
