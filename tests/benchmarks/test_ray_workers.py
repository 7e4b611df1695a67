import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measure import Row
from benchmarks.ray_workers import measure

SCRIPT = """
import dataclasses, json
from benchmarks.ray_workers import measure
print(json.dumps([dataclasses.asdict(row) for row in measure(scale=0.1, method="disc")]))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_two_workers_are_compared_with_one() -> None:
    # In a process of its own: one that has had a cluster with a token cannot use another without, as other tests do.
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=True, stdout=subprocess.PIPE, text=True)
    (figures,) = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == {field.name for field in dataclasses.fields(Row)}
    assert figures["what"] == "annotate, 2 Ray workers"
    assert "8 images of 24 heads" in figures["work"]
    assert figures["ours"] > 0
    assert figures["theirs"] > 0


def test_without_ray_there_is_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert measure() == []
