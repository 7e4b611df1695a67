import subprocess
import sys

import pytest

from benchmarks.measure import Row, best_seconds, peak_memory_mib, seconds_of
from benchmarks.report import amount, print_rows


def test_the_ratio_is_ours_over_theirs() -> None:
    row = Row("what", "work", 2.0, "plain", 8.0, "≤ 0.5 ×", met=True)
    assert row.ratio == 0.25


def test_forms_take_turns() -> None:
    calls = []
    seconds = best_seconds(lambda: calls.append("a"), lambda: calls.append("b"), rounds=2)
    assert calls == ["a", "b", "a", "b"]
    assert len(seconds) == 2
    assert all(one >= 0 for one in (*seconds, seconds_of(lambda: None)))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.0123, "s", "12.3 ms"), (1.234, "s", "1.23 s"), (1234.5, "MiB", "1,234 MiB"), (0.05, "MiB", "0.05 MiB")],
)
def test_amounts_are_short(value, unit, text) -> None:
    assert amount(value, unit) == text


def test_a_table_names_the_reference_and_what_was_missed(capsys) -> None:
    print_rows([Row("loss", "1 point", 3.0, "per-point loop", 1.5, "≤ 1 ×", met=False)], "title")
    printed = capsys.readouterr().out
    for text in ("title", "per-point loop", "2 ×", "≤ 1 ×", "no"):
        assert text in printed


def test_a_small_child_of_a_large_process_is_small() -> None:
    ballast = bytearray(300 * 2**20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    own = peak_memory_mib()
    code = "from benchmarks.measure import peak_memory_mib; print(peak_memory_mib())"
    child = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert own > 300 > float(child.stdout) > 1
