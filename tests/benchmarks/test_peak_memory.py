import subprocess
import sys

import pytest

from benchmarks.peak_memory import annotate_once, peaks


def test_annotating_adds_to_what_was_there_before() -> None:
    found = annotate_once(2, (48, 64), "random")
    assert found.n_heads == 2
    assert 50 < found.before_mib <= found.peak_mib


@pytest.mark.slow
def test_each_image_has_a_process_of_its_own() -> None:
    (found,) = peaks([3], (48, 64), "random")
    assert found.n_heads == 3
    assert 50 < found.before_mib <= found.peak_mib


def test_a_process_that_fails_is_no_figure(monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(subprocess.CalledProcessError, match="returned non-zero"):
        peaks([2], (48, 64), "random")
