import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.compute import progress
from pipeline.compute.progress import JsonLines, progress_line, track, warn_user


def plain_console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=False, width=200), out


@pytest.mark.parametrize("terminal", [False, True])
def test_track_passes_items_through_in_order(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
    assert list(track(iter("abc"), description="annotate", total=3, console=console)) == ["a", "b", "c"]
    assert list(track([], description="annotate", console=console)) == []


def test_track_prints_one_line_at_the_end_of_short_work() -> None:
    console, out = plain_console()
    list(track(range(5), description="annotate", console=console))
    assert out.getvalue().startswith("annotate: 5 images, ")
    assert out.getvalue().endswith(", done\n")
    assert out.getvalue().count("\n") == 1


def test_a_warning_is_one_line_of_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    console, out = plain_console()
    warn_user(f"warmup: [bold] {'x' * 300}", console=console)
    assert out.getvalue() == f"warning: warmup: [bold] {'x' * 300}\n"
    warn_user("by default")
    assert capsys.readouterr().err == "warning: by default\n"


def test_track_prints_lines_as_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(ticks)))
    console, out = plain_console()
    list(track(range(6), description="warmup", unit="steps", console=console))
    assert out.getvalue().splitlines() == [
        "warmup: 3/6 steps, 4 s each, 12 s left",
        "warmup: 6/6 steps, 4 s each, 0 s left",
        "warmup: 6 steps, 4.67 s each, 28 s taken, done",
    ]


def test_track_shows_rate_on_a_terminal() -> None:
    out = io.StringIO()
    list(track(range(3), description="annotate", console=Console(file=out, force_terminal=True, width=200)))
    assert "annotate" in out.getvalue()
    assert "3/3" in out.getvalue()


@pytest.mark.parametrize(
    ("done", "total", "elapsed_s", "expected"),
    [
        (12, 40, 4.0, "a: 12/40 images, 3 images/s, 9 s left"),
        (1, 1000, 10.0, "a: 1/1000 images, 10 s each, 2 h 46 min left"),
        (100, None, 65.0, "a: 100 images, 1.54 images/s, 1 min 5 s taken"),
        (0, 10, 0.0, "a: 0/10 images"),
    ],
)
def test_progress_line(done: int, total: int | None, elapsed_s: float, expected: str) -> None:
    assert progress_line("a", done, total, "images", elapsed_s) == expected


def test_json_lines_are_on_disk_at_once_and_can_go_on(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "run.jsonl"
    with JsonLines(path) as log:
        log.write(step=1, loss=math.nan)
        assert json.loads(path.read_text()) == {"step": 1, "loss": None}
    with JsonLines(path, append=True) as log:
        log.write(step=2, loss=0.5)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": None},
        {"step": 2, "loss": 0.5},
    ]
    with JsonLines(path):
        pass
    assert path.read_text() == ""
