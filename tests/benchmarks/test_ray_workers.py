import importlib.util

import pytest

from benchmarks.ray_workers import measure


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_two_workers_are_compared_with_one() -> None:
    (row,) = measure(scale=0.1, method="disc")
    assert row.what == "annotate, 2 Ray workers"
    assert "8 images of 24 heads" in row.work
    assert row.ours > 0
    assert row.theirs > 0


def test_without_ray_there_is_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert measure() == []
