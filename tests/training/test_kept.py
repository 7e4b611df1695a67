from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from pipeline.training.kept import Kept


@dataclass(frozen=True)
class Weight:
    name: str
    n_bytes: int = 2**19


@pytest.fixture
def reads():
    return []


@pytest.fixture
def kept(reads):
    return Kept(lambda name: reads.append(name) or Weight(name), cache_mib=1)


def test_the_last_used_values_stay(kept, reads):
    for name in "abacab":
        assert kept[name].name == name
    assert reads == ["a", "b", "c", "b"]  # c took the place of b, not of a


def test_a_value_larger_than_the_memory_is_read_each_time(reads):
    kept = Kept(lambda name: reads.append(name) or Weight(name, 2**21), cache_mib=1)
    assert (kept["a"].name, kept["a"].name) == ("a", "a")
    assert reads == ["a", "a"]


def test_threads_share_it(kept):
    with ThreadPoolExecutor(4) as pool:
        assert [each.name for each in pool.map(kept.__getitem__, "abc" * 50)] == list("abc" * 50)
    assert sum(value.n_bytes for value in kept._values.values()) <= 2**20
    assert kept._room == 2**20 - sum(value.n_bytes for value in kept._values.values())
