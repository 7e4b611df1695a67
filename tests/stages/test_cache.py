import hashlib
import os
import re
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.compute.cache import ResultCache
from stages.cache import app

KEYS = [hashlib.sha256(bytes([number])).hexdigest() for number in range(3)]
HEADER_BYTES = 48


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return re.sub(r"\s+", " ", result.output)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResultCache:
    """Three entries of 1 MiB, used 1, 2 and 3 days ago."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOTMASK_CACHE", "mine")
    cache = ResultCache.open(Path("mine"))
    for number, (kind, key) in enumerate(zip(("masks", "masks", "logits"), KEYS, strict=True), start=1):
        cache.put(kind, key, b"x" * (2**20 - HEADER_BYTES))
        when = time.time() - number * 86_400
        os.utime(path_of(kind, key), (when, when))
    return cache


def path_of(kind: str, key: str) -> Path:
    return Path("mine", kind, key[:2], key)


def test_info_prints_kinds_sizes_and_times(cache: ResultCache) -> None:
    output = run("info")
    assert "mine: 3 entries, 3 MiB (gc comes down to 10 GiB)" in output
    assert "read only" not in output
    rows = [[cell.strip() for cell in row.split("│")[-3:]] for row in re.findall(r"│ \w+ │ +\d+ │ [^│]+", output)]
    assert rows == [["logits", "1", "1 MiB"], ["masks", "2", "2 MiB"]]
    oldest, newest = (time.strftime("%Y-%m-%d", time.localtime(time.time() - days * 86_400)) for days in (3, 1))
    assert re.search(rf"last used between {oldest} \d\d:\d\d and {newest} \d\d:\d\d", output)


def test_an_empty_cache_has_nothing_to_tell(tmp_path: Path) -> None:
    ResultCache.open(tmp_path / "empty")
    assert "empty: 0 entries, 0 B" in run("info", "--cache", str(tmp_path / "empty"))
    assert "used" not in run("info", "--cache", str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("arguments", "message", "left"),
    [
        ((), "removed 0 entries, 0 B; 3 entries, 3 MiB are left", 3),
        (("--limit", "2 mib"), "mine: removed 1 entries, 1 MiB; 2 entries, 2 MiB are left", 2),
        (("--limit", "0"), "removed 3 entries, 3 MiB; 0 entries, 0 B are left", 0),
        (
            ("--limit", "512KiB", "--keep-min", "2880.5"),
            "removed 1 entries, 1 MiB; 2 entries, 2 MiB are left that is more than 512 KiB: the rest was used in the "
            "last 2880.5 minutes (--keep-min) or by a run that goes on",
            2,
        ),
    ],
)
def test_gc_makes_room(cache: ResultCache, arguments: tuple[str, ...], message: str, left: int) -> None:
    assert message in run("gc", *arguments)
    assert cache.info().entries == left


def test_verify_names_what_is_damaged_and_removes_it(cache: ResultCache) -> None:
    assert "mine: every entry is whole" in run("verify")
    path_of("masks", KEYS[0]).write_bytes(b"torn")
    output = run("verify", code=1)
    assert "error: mine: damaged entries" in output
    assert "run it again with --remove (1 found)" in output
    assert f"- masks/{KEYS[0]}: cut off after 4 bytes" in output
    assert "mine: removed 1 damaged entries" in run("verify", "--remove")
    assert "every entry is whole" in run("verify")


def test_verify_says_when_it_cannot_remove(cache: ResultCache) -> None:
    path_of("masks", KEYS[0]).unlink()
    path_of("masks", KEYS[0]).mkdir()
    assert "remove these files by hand (1 found)" in run("verify", "--remove", code=1)


@pytest.mark.parametrize("command", ["info", "gc", "verify"])
def test_a_folder_that_is_no_cache_is_named(command: str, tmp_path: Path) -> None:
    output = run(command, "--cache", str(tmp_path / "gone"), code=1)
    assert "gone: expected a cache of results, but there is no such folder; python -m stages.annotate makes" in output
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "found other files such as thesis.tex" in run(command, "--cache", str(tmp_path), code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("size", ["much", "-5GiB", "1,5GiB"])
def test_a_size_that_is_none_is_told(cache: ResultCache, size: str) -> None:
    output = run("gc", "--limit", size, code=1)
    assert f"error: --limit: '{size}' is not a size; expected a number with or without a unit, such as 5GiB" in output
    assert cache.info().entries == 3


def test_a_read_only_cache_can_be_looked_at(cache: ResultCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.compute.cache._claim", lambda _: False)
    assert "10 GiB), read only" in run("info")
    assert "every entry is whole" in run("verify")
    assert "error: mine: this user may not write there, so nothing can be removed" in run("gc", code=1)


@pytest.mark.parametrize("command", [[], ["info"], ["gc"], ["verify"]])
def test_help_explains(command: list[str]) -> None:
    assert "Usage" in run(*command, "--help")
    assert command or all(name in run("--help") for name in ("info", "gc", "verify"))
