import errno
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compute import cache as cache_module
from pipeline.compute.cache import DEFAULT_FOLDER, Collected, DamagedEntry, ResultCache, Usage, default_root
from pipeline.errors import PipelineError

HEADER_BYTES = 48
HOUR_S = 3600.0


def key_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def path_of(cache: ResultCache, kind: str, key: str) -> Path:
    return cache.root / kind / key[:2] / key


def age(cache: ResultCache, kind: str, key: str, seconds: float) -> None:
    when = time.time() - seconds
    os.utime(path_of(cache, kind, key), (when, when))


def files_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.fixture
def cache(tmp_path: Path) -> ResultCache:
    return ResultCache.open(tmp_path / "deep" / "cache")


@settings(max_examples=20)
@given(data=st.binary(max_size=2000), number=st.integers())
def test_what_was_put_comes_back(tmp_path_factory: pytest.TempPathFactory, data: bytes, number: int) -> None:
    root = tmp_path_factory.mktemp("cache")
    ResultCache.open(root).put("masks", key_of(number), data)
    again = ResultCache.open(root)
    assert again.get("masks", key_of(number)) == data
    assert again.holds("masks", key_of(number))
    assert again.get("logits", key_of(number)) is None
    assert not again.holds("masks", key_of(number + 1))


def test_a_second_put_replaces_the_first(cache: ResultCache) -> None:
    cache.put("masks", key_of(1), b"old")
    cache.put("masks", key_of(1), b"new")
    assert cache.get("masks", key_of(1)) == b"new"
    assert files_in(cache.root) == ["CACHEDIR.TAG", f"masks/{key_of(1)[:2]}/{key_of(1)}"]


@pytest.mark.parametrize(
    ("kind", "key"), [("masks", "abc"), ("masks", key_of(1).upper()), ("../masks", key_of(1)), ("", key_of(1))]
)
def test_a_key_that_is_none_is_our_own_mistake(cache: ResultCache, kind: str, key: str) -> None:
    for use in (cache.get, cache.holds):
        with pytest.raises(ValueError, match="expected a kind such as 'masks' and a key of 64 hex digits"):
            use(kind, key)
    with pytest.raises(ValueError, match="a key of 64 hex digits"):
        cache.put(kind, key, b"")


def test_the_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOTMASK_CACHE", raising=False)
    assert default_root() == DEFAULT_FOLDER
    monkeypatch.setenv("DOTMASK_CACHE", "elsewhere")
    assert default_root() == Path("elsewhere")


def truncate(data: bytes) -> bytes:
    return data[:-1]


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("damage", [truncate, flip])
def test_a_damaged_entry_counts_as_absent_and_is_removed(cache: ResultCache, damage: Callable[[bytes], bytes]) -> None:
    cache.put("masks", key_of(1), b"payload")
    path = path_of(cache, "masks", key_of(1))
    path.write_bytes(damage(path.read_bytes()))
    assert cache.holds("masks", key_of(1)) is (damage is flip), "only get reads the payload"
    with pytest.warns(UserWarning, match=r"a damaged entry of the cache .* it was removed and the result is made anew"):
        assert cache.get("masks", key_of(1)) is None
    assert not path.exists()
    assert cache.get("masks", key_of(1)) is None
    cache.put("masks", key_of(1), b"payload")
    assert cache.get("masks", key_of(1)) == b"payload"


def test_a_damaged_entry_that_cannot_be_removed_is_warned_of_once(
    cache: ResultCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put("masks", key_of(1), b"payload")
    path = path_of(cache, "masks", key_of(1))
    path.write_bytes(flip(path.read_bytes()))
    monkeypatch.setattr(cache_module, "remove_if_same", lambda *_: False)
    with pytest.warns(UserWarning, match="it stays, but the result is made anew") as told:
        assert [cache.get("masks", key_of(1)) for _ in range(3)] == [None] * 3
    assert len(told) == 1


def fail_half_way(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let files take the first half of what is written, then fail as the system does."""
    real_open = Path.open

    class Failing:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def writelines(self, parts):
            data = b"".join(parts)
            self.file.write(data[: len(data) // 2])
            raise OSError(number, os.strerror(number))

    def fake_open(path, mode="r", *more):
        file = real_open(path, mode, *more)
        return Failing(file) if mode == "xb" else file

    monkeypatch.setattr(Path, "open", fake_open)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_told_and_leaves_nothing(
    cache: ResultCache, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    cache.put("masks", key_of(1), b"kept")
    before = files_in(cache.root)
    fail_half_way(monkeypatch, number)
    for one in (1, 2):
        with pytest.raises(PipelineError, match=r"cache: 2\.4 KiB could not be written .*; make room .* gc --limit"):
            cache.put("masks", key_of(one), b"x" * 2500)
    assert files_in(cache.root) == before
    assert cache.get("masks", key_of(1)) == b"kept"


def test_a_cache_on_a_full_disk_opens_to_be_read_and_shrunk(
    cache: ResultCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache.put("masks", key_of(1), b"kept")
    monkeypatch.setattr(Path, "touch", full)
    again = ResultCache.open(cache.root)
    assert again.get("masks", key_of(1)) == b"kept"
    assert again.gc(0, keep_s=0).entries == 1
    fail_half_way(monkeypatch, errno.ENOSPC)
    with pytest.raises(PipelineError, match="new: .* could not be written"):
        ResultCache.open(tmp_path / "new")


@pytest.fixture
def read_only(cache: ResultCache, monkeypatch: pytest.MonkeyPatch) -> ResultCache:
    """A cache with one entry that nobody may write to; for root, whom no mode stops, the refusal is acted."""
    cache.put("masks", key_of(1), b"kept")
    age(cache, "masks", key_of(1), 5 * HOUR_S)
    folders = [cache.root, *(path for path in cache.root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        (cache.root / "try").touch()
    except OSError:
        return ResultCache.open(cache.root)
    (cache.root / "try").unlink()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    for name in ("touch", "unlink", "replace"):
        monkeypatch.setattr(Path, name, refuse)
    return ResultCache.open(cache.root)


def test_a_read_only_cache_gives_and_does_not_take(read_only: ResultCache) -> None:
    before = files_in(read_only.root)
    assert not read_only.writable
    assert read_only.get("masks", key_of(1)) == b"kept"
    with pytest.warns(UserWarning, match="the cache of results is read only; results are not kept in it") as told:
        [read_only.put("masks", key_of(number), b"lost") for number in range(3)]
    assert len(told) == 1
    with read_only.in_use():
        assert read_only.gc(0, keep_s=0) == Collected(0, 0, Usage(1, 4 + HEADER_BYTES))
    assert files_in(read_only.root) == before


def test_a_folder_that_belongs_to_another_user_does_not_stop_the_run(
    cache: ResultCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_half_way(monkeypatch, errno.EACCES)
    with pytest.warns(UserWarning, match=r"masks: no permission to write \(Permission denied\)") as told:
        [cache.put("masks", key_of(number), b"lost") for number in range(3)]
    assert len(told) == 1
    assert cache.get("masks", key_of(1)) is None


def test_a_cache_that_cannot_be_made_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    cache = ResultCache.open(tmp_path / "no")
    assert not cache.writable
    assert cache.get("masks", key_of(1)) is None
    assert cache.info().entries == 0


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(PipelineError, match=r"expected a cache .* found other files such as thesis\.tex; name another"):
        ResultCache.open(tmp_path)
    (tmp_path / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n# another program's\n")
    with pytest.raises(PipelineError, match=r"found other files"):
        ResultCache.open(tmp_path)
    with pytest.raises(PipelineError, match=r"cannot be a folder for the cache \(File exists\)"):
        ResultCache.open(tmp_path / "thesis.tex")
    with pytest.raises(PipelineError, match=r"cannot be a folder for the cache \(Not a directory\)"):
        ResultCache.open(tmp_path / "thesis.tex" / "cache")
    with pytest.raises(PipelineError, match=r"none: expected a cache of results, but there is no such folder"):
        ResultCache.open(tmp_path / "none", create=False)
    assert files_in(tmp_path) == ["CACHEDIR.TAG", "thesis.tex"]


def test_a_cache_removed_under_a_run_is_made_again(cache: ResultCache) -> None:
    cache.put("masks", key_of(1), b"x")
    for name in reversed(files_in(cache.root)):
        (cache.root / name).unlink()
    for folder in sorted((path for path in cache.root.rglob("*")), reverse=True):
        folder.rmdir()
    cache.root.rmdir()
    cache.put("masks", key_of(1), b"y")
    assert ResultCache.open(cache.root).get("masks", key_of(1)) == b"y"


def test_info_counts_by_kind(cache: ResultCache) -> None:
    empty = cache.info()
    assert (empty.entries, empty.bytes, dict(empty.kinds), empty.oldest_use_s) == (0, 0, {}, None)
    for number in range(3):
        cache.put("masks", key_of(number), b"x" * 10)
    cache.put("logits", key_of(0), b"x" * 100)
    age(cache, "masks", key_of(2), 5 * HOUR_S)
    (cache.root / "notes.txt").write_text("not an entry")
    found = cache.info()
    assert dict(found.kinds) == {"logits": Usage(1, 100 + HEADER_BYTES), "masks": Usage(3, 30 + 3 * HEADER_BYTES)}
    assert (found.entries, found.bytes) == (4, 130 + 4 * HEADER_BYTES)
    assert found.oldest_use_s == pytest.approx(time.time() - 5 * HOUR_S, abs=60)
    assert found.newest_use_s == pytest.approx(time.time(), abs=60)


def fill(cache: ResultCache, *hours_idle: float) -> None:
    """Put an entry of 100 bytes, header included, for each age."""
    for number, hours in enumerate(hours_idle):
        cache.put("masks", key_of(number), b"x" * (100 - HEADER_BYTES))
        age(cache, "masks", key_of(number), hours * HOUR_S)


def there(cache: ResultCache) -> set[int]:
    return {number for number in range(10) if path_of(cache, "masks", key_of(number)).exists()}


@pytest.mark.parametrize(
    ("limit_bytes", "keep_h", "left"),
    [
        (None, 1.0, {0, 1, 2, 3}),
        (400, 1.0, {0, 1, 2, 3}),
        (399, 1.0, {0, 2, 3}),
        (200, 1.0, {2, 3}),
        (0, 1.0, {3}),
        (0, 0.0, set()),
        (0, 3.5, {2, 3}),
    ],
)
def test_gc_removes_the_least_recently_used_first(
    cache: ResultCache, limit_bytes: int | None, keep_h: float, left: set[int]
) -> None:
    fill(cache, 4.0, 5.0, 3.0, 0.1)
    (cache.root / "masks" / "aa").mkdir(exist_ok=True)
    notes = [cache.root / "notes", cache.root / "masks" / "notes", cache.root / "masks" / "aa" / "notes"]
    for path in notes:
        path.write_text("not an entry")
    done = cache.gc(limit_bytes, keep_s=keep_h * HOUR_S)
    assert there(cache) == left
    assert done == Collected(4 - len(left), 100 * (4 - len(left)), Usage(len(left), 100 * len(left)))
    assert all(path.exists() for path in notes)


def test_a_cache_has_a_limit_of_its_own(cache: ResultCache) -> None:
    fill(cache, 5.0, 4.0, 3.0)
    assert ResultCache.open(cache.root, limit_bytes=250).gc().entries == 1
    assert there(cache) == {1, 2}


@pytest.mark.parametrize("use", [ResultCache.get, ResultCache.holds])
def test_an_entry_that_is_used_stays(cache: ResultCache, use: Callable[[ResultCache, str, str], object]) -> None:
    fill(cache, 5.0, 4.0, 3.0)
    use(cache, "masks", key_of(0))
    cache.gc(100, keep_s=0)
    assert there(cache) == {0}


def test_gc_leaves_what_a_living_run_uses(cache: ResultCache) -> None:
    run = ResultCache.open(cache.root)
    fill(cache, 5.0, 4.0, 3.0)
    with run.in_use():
        assert run.holds("masks", key_of(1))
        run.put("masks", key_of(5), b"new")
        assert cache.gc(0, keep_s=0).left.entries == 2
        assert there(cache) == {1, 5}
    assert cache.gc(0, keep_s=0).left.entries == 0


def test_gc_leaves_what_is_used_while_it_looks(cache: ResultCache, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cache, 5.0, 4.0)
    listed = cache._entries

    def use_after_listing():
        entries = list(listed())
        assert ResultCache.open(cache.root).get("masks", key_of(0))
        return entries

    monkeypatch.setattr(cache, "_entries", use_after_listing)
    assert cache.gc(0).entries == 1
    assert there(cache) == {0}


def test_a_clock_that_ran_ahead_keeps_nothing_for_ever(cache: ResultCache) -> None:
    fill(cache, -1000.0, 5.0)
    assert cache.gc(0).entries == 2


def test_verify_names_damaged_entries_and_removes_them_when_told(cache: ResultCache) -> None:
    fill(cache, 5.0, 4.0, 3.0)
    for number, damage in ((0, truncate), (2, flip)):
        path = path_of(cache, "masks", key_of(number))
        path.write_bytes(damage(path.read_bytes()))
    reasons = {key_of(0): "99 bytes long instead of 100", key_of(2): "its checksum does not fit"}
    wanted = {DamagedEntry("masks", key, reason, False) for key, reason in reasons.items()}
    assert set(cache.verify()) == wanted
    assert there(cache) == {0, 1, 2}
    assert set(cache.verify(remove=True)) == {one._replace(removed=True) for one in wanted}
    assert there(cache) == {1}
    assert cache.verify() == []
