"""The cache between processes: several writers at once, and writers that are killed."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

from pipeline.compute.cache import ResultCache

ROOT = Path(__file__).parents[2]
PUT_MANY = """
import hashlib, sys
from pathlib import Path
from pipeline.compute.cache import ResultCache
cache = ResultCache.open(Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    key = hashlib.sha256(str(number).encode()).hexdigest()
    found = cache.get("masks", key)
    assert found in (None, key.encode() * int(sys.argv[3])), number
    cache.put("masks", key, key.encode() * int(sys.argv[3]))
    print("put", flush=True)
"""
PUT_AND_DIE_BEFORE_RENAME = """
import os, signal, sys
from pathlib import Path
from pipeline.compute.cache import ResultCache
cache = ResultCache.open(Path(sys.argv[1]))
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
cache.put("masks", "a" * 64, b"never seen")
"""


def key_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_several_processes_put_and_get_at_once(tmp_path: Path) -> None:
    children = [child(PUT_MANY, tmp_path / "cache", 60, 2000) for _ in range(3)]
    assert [one.wait(60) for one in children] == [0, 0, 0]
    cache = ResultCache.open(tmp_path / "cache")
    assert all(cache.get("masks", key_of(number)) == key_of(number).encode() * 2000 for number in range(60))
    assert sum(path.is_file() for path in cache.root.rglob("*")) == 61, "the tag, the entries and no temporary file"


def test_a_kill_at_any_moment_leaves_no_damaged_entry(tmp_path: Path) -> None:
    root, moments = tmp_path / "cache", random.Random(0)
    for _ in range(4):
        with child(PUT_MANY, root, 500, 20_000) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "put\n"
            time.sleep(moments.uniform(0.0, 0.1))
            writer.send_signal(signal.SIGKILL)
    cache = ResultCache.open(root)
    numbers = [number for number in range(500) if cache.holds("masks", key_of(number))]
    assert numbers == list(range(len(numbers))), "what was put before the kill is all there"
    assert 0 < len(numbers) < 500, "the writers were killed in the midst of it"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(cache.get("masks", key_of(number)) == key_of(number).encode() * 20_000 for number in numbers)
    assert cache.verify() == []


def test_a_kill_before_the_rename_leaves_a_file_that_gc_clears_after_a_day(tmp_path: Path) -> None:
    with child(PUT_AND_DIE_BEFORE_RENAME, tmp_path) as writer:
        assert writer.wait(60) == -signal.SIGKILL
    cache = ResultCache.open(tmp_path)
    assert cache.get("masks", "a" * 64) is None
    assert cache.info().entries == 0
    (left,) = (tmp_path / "masks" / "aa").iterdir()
    cache.gc(0, keep_s=0)
    assert left.exists(), "it may be under way"
    os.utime(left, (1e9, 1e9))
    cache.gc()
    assert not left.exists()
