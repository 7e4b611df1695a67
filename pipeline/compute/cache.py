"""Results of long work, each under the digest of all that it was made from: whole, checked, limited in size."""

import contextlib
import errno
import os
import re
import secrets
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self

from pipeline.compute.byte_sizes import show_bytes
from pipeline.compute.cache_entry import (
    TEMP_SUFFIX,
    entry_header,
    load_entry,
    load_status,
    remove_if_same,
    write_renamed,
)
from pipeline.compute.lease import hold_lease, oldest_lease_s
from pipeline.compute.progress import track
from pipeline.errors import PipelineError

FOLDER_VARIABLE = "DOTMASK_CACHE"
DEFAULT_FOLDER = Path(".cache/results")
DEFAULT_LIMIT_BYTES = 10 * 1024**3
KEEP_S = 3600.0
TOUCH_S = 600.0
"""How far an entry's file may lag behind its last use; well below KEEP_S, or gc would take what was just read."""
STALE_TEMP_S = 86_400.0

_TAG = "CACHEDIR.TAG"  # backup programs leave out a folder that holds one: https://bford.info/cachedir/
_TAG_TEXT = b"Signature: 8a477f597d28d172789f06886806bc55\n# Results of dotmask, which it makes again when they go.\n"
_LEASES = ".leases"
_KIND = re.compile(r"[a-z][a-z0-9_]*")
_SHARD = re.compile(r"[0-9a-f]{2}")
_KEY = re.compile(r"[0-9a-f]{64}")
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_OTHER_FOLDER = f"name another folder as --cache or ${FOLDER_VARIABLE}"


class Usage(NamedTuple):
    """How many entries, and the bytes of their files."""

    entries: int
    bytes: int


@dataclass(frozen=True)
class CacheInfo:
    """What a cache holds.

    Args:
        entries: How many, of all kinds.
        bytes: Bytes of their files.
        kinds: The same of each kind, in alphabetical order.
        oldest_use_s: Last use of the entry that has lain idle longest, to within TOUCH_S, in seconds since the epoch;
            None in an empty cache.
        newest_use_s: Last use of the entry used last, likewise.
    """

    entries: int
    bytes: int
    kinds: Mapping[str, Usage]
    oldest_use_s: float | None
    newest_use_s: float | None


@dataclass(frozen=True)
class Collected:
    """What :meth:`ResultCache.gc` removed and left.

    Args:
        entries: How many entries it removed.
        bytes: The bytes of their files.
        left: What remains; more than the limit where the rest is in use.
    """

    entries: int
    bytes: int
    left: Usage


class DamagedEntry(NamedTuple):
    """An entry that is not what was put: where, why, and whether it has been removed."""

    kind: str
    key: str
    reason: str
    removed: bool


class _Entry(NamedTuple):
    """A file of the cache; the first field sorts by last use."""

    used_ns: int
    kind: str
    key: str
    size_bytes: int


def default_root() -> Path:
    """Where the cache lies: ``$DOTMASK_CACHE``, or ``.cache/results`` below the working folder."""
    return Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)


class ResultCache:
    """A folder of results that any number of processes may read and write at once; made by :meth:`open`.

    An entry is the file ``<root>/<kind>/<first two digits of the key>/<key>``: a header with a checksum, then the
    payload. It is written beside its place and renamed, so it is whole or absent; one that its checksum does not fit
    counts as absent. A file's modification time is that of its entry's last use.

    A key is the SHA-256 in hex of all that a result depends on; a kind (``masks``, ``logits``) keeps sorts of results
    apart. Other forms of either are a ValueError.
    """

    def __init__(self, root: Path, *, limit_bytes: int | None, writable: bool) -> None:
        self.root = root
        self.limit_bytes = limit_bytes
        self.writable = writable
        self._told: set[Path] = set()

    @classmethod
    def open(cls, root: Path, *, limit_bytes: int | None = None, create: bool = True) -> Self:
        """Open a cache; one that this process may not write to has ``writable`` False, and every put passes it by.

        Args:
            root: Its folder, see :func:`default_root`.
            limit_bytes: What :meth:`gc` shrinks it to; None for no limit.
            create: Make the folder where it is missing.

        Raises:
            PipelineError: If the folder is missing and may not be made, is a file, or holds something else: ``gc`` and
                ``verify`` remove files, so they must never look at anyone else's.
        """
        if not create and not root.is_dir():
            raise PipelineError(
                f"{root}: expected a cache of results, but there is no such folder; python -m stages.annotate makes "
                f"one, or {_OTHER_FOLDER}"
            )
        return cls(root, limit_bytes=limit_bytes, writable=_claim(root))

    def in_use(self) -> AbstractContextManager[None]:
        """Keep all that is put, found or held from now on safe from anyone's :meth:`gc` until the block ends.

        A long run wraps its work in it, and calls :meth:`gc` after it. It ends with the process, however that ends.
        """
        return hold_lease(self.root / _LEASES) if self.writable else contextlib.nullcontext()

    def get(self, kind: str, key: str) -> bytes | None:
        """Give the payload of an entry, or None where there is none.

        A damaged entry counts as absent: it is removed where that is possible, and warned of once.
        """
        path = self._path(kind, key)
        loaded = load_entry(path, kind, key)
        if loaded is None:
            return None
        if loaded.fault:
            removed = remove_if_same(path, loaded.status)
            what = "it was removed and" if removed else "it stays, but"
            self._tell(path, f"{path}: a damaged entry of the cache ({loaded.fault}); {what} the result is made anew")
            return None
        self._touch(path, loaded.status)
        return loaded.data

    def holds(self, kind: str, key: str) -> bool:
        """Whether an entry is there, at its full length; counts as a use.

        It does not read the payload: :meth:`get` may still find it damaged, or removed by someone since.
        """
        path = self._path(kind, key)
        status = load_status(path)
        self._touch(path, status)
        return status is not None

    def put(self, kind: str, key: str, data: bytes) -> None:
        """Store a result; when this returns, a kill of the process loses nothing of it.

        Where this process lacks the permission, that is warned of once and the run goes on without storing.

        Raises:
            PipelineError: If the disk is full or fails; nothing half-written stays.
        """
        path = self._path(kind, key)
        if not self.writable:
            self._tell(self.root, f"{self.root}: the cache of results is read only; results are not kept in it")
            return
        header = entry_header(kind, key, data)
        try:
            try:
                write_renamed(path, header, data)
            except FileNotFoundError:  # the first entry of its folder, or someone removed the whole cache
                _claim(self.root)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_renamed(path, header, data)
        except OSError as error:
            if error.errno not in _DENIED:
                raise _cannot_write(self.root, len(data), error) from error
            folder = path.parent.parent
            self._tell(folder, f"{folder}: no permission to write ({error.strerror}); results are not kept in it")

    def info(self) -> CacheInfo:
        """Count what is there.

        Raises:
            PipelineError: If a folder of the cache cannot be read.
        """
        kinds: dict[str, Usage] = {}
        uses_ns: list[int] = []
        for entry in self._entries():
            before = kinds.get(entry.kind, Usage(0, 0))
            kinds[entry.kind] = Usage(before.entries + 1, before.bytes + entry.size_bytes)
            uses_ns.append(entry.used_ns)
        return CacheInfo(
            entries=sum(usage.entries for usage in kinds.values()),
            bytes=sum(usage.bytes for usage in kinds.values()),
            kinds=MappingProxyType(kinds),
            oldest_use_s=min(uses_ns) / 1e9 if uses_ns else None,
            newest_use_s=max(uses_ns) / 1e9 if uses_ns else None,
        )

    def gc(self, limit_bytes: int | None = None, *, keep_s: float = KEEP_S) -> Collected:
        """Remove entries, the least recently used first, until the rest fits the limit.

        What was used within ``keep_s`` stays, and so does what a living run has used since its :meth:`in_use` began.
        Files that killed processes left half-written more than a day ago go, too. A cache that is read only is left
        as it is.

        Args:
            limit_bytes: Bytes of files to come down to; the cache's own limit by default.
            keep_s: Age in seconds below which an entry is kept whatever the limit.

        Raises:
            PipelineError: If a folder of the cache cannot be read.
        """
        limit = self.limit_bytes if limit_bytes is None else limit_bytes
        now_s = time.time()
        if self.writable:
            self._clear_stale_temps(now_s)
        lease_s = oldest_lease_s(self.root / _LEASES)
        entries = sorted(self._entries())
        left_bytes = sum(entry.size_bytes for entry in entries)
        removed = removed_bytes = 0
        for entry in entries:
            if limit is None or left_bytes <= limit or not self.writable:
                break
            used_s = entry.used_ns / 1e9
            # abs: a clock that once ran ahead must not keep an entry for ever
            if abs(now_s - used_s) < keep_s or (lease_s is not None and used_s >= lease_s - TOUCH_S):
                continue
            if self._remove_unless_used(entry):
                removed, removed_bytes = removed + 1, removed_bytes + entry.size_bytes
                left_bytes -= entry.size_bytes
        return Collected(removed, removed_bytes, Usage(len(entries) - removed, left_bytes))

    def verify(self, *, remove: bool = False) -> list[DamagedEntry]:
        """Read every entry, with progress on the standard error, and give those that are damaged.

        Args:
            remove: Remove them.

        Raises:
            PipelineError: If a folder of the cache cannot be read.
        """
        damaged = []
        for entry in track(list(self._entries()), description="verify", unit="entries"):
            path = self._path(entry.kind, entry.key)
            loaded = load_entry(path, entry.kind, entry.key)
            if loaded is not None and loaded.fault:
                gone = remove and remove_if_same(path, loaded.status)
                damaged.append(DamagedEntry(entry.kind, entry.key, loaded.fault, gone))
        return damaged

    def _path(self, kind: str, key: str) -> Path:
        if not _KIND.fullmatch(kind) or not _KEY.fullmatch(key):
            raise ValueError(f"expected a kind such as 'masks' and a key of 64 hex digits, got {kind!r}, {key!r}")
        return self.root / kind / key[:2] / key

    def _entries(self) -> Iterator[_Entry]:
        """Every entry by kind and key; any other file is not ours and is passed by."""
        for shard in self._shards():
            for name in _names(shard):
                if _KEY.fullmatch(name) and name.startswith(shard.name):
                    with contextlib.suppress(FileNotFoundError):
                        status = (shard / name).stat()
                        yield _Entry(status.st_mtime_ns, shard.parent.name, name, status.st_size)

    def _shards(self) -> Iterator[Path]:
        for kind in filter(_KIND.fullmatch, _names(self.root)):
            for shard in filter(_SHARD.fullmatch, _names(self.root / kind)):
                yield self.root / kind / shard

    def _clear_stale_temps(self, now_s: float) -> None:
        for folder in (self.root, self.root / _LEASES, *self._shards()):
            for name in _names(folder):
                if name.startswith(".") and name.endswith(TEMP_SUFFIX):
                    with contextlib.suppress(OSError):
                        if now_s - (folder / name).stat().st_mtime > STALE_TEMP_S:
                            (folder / name).unlink()

    def _remove_unless_used(self, entry: _Entry) -> bool:
        """Remove an entry unless someone has used it since it was listed; say whether it is gone."""
        path = self._path(entry.kind, entry.key)
        try:
            if path.stat().st_mtime_ns == entry.used_ns:
                path.unlink()
                return True
        except FileNotFoundError:
            return True
        except OSError as error:
            self._tell(path.parent, f"{path}: cannot be removed from the cache ({error.strerror})")
        return False

    def _touch(self, path: Path, status: os.stat_result | None) -> None:
        """Mark a use, but not at every use: writing to a file system costs more than reading."""
        if self.writable and status is not None and abs(time.time() - status.st_mtime) > TOUCH_S:
            with contextlib.suppress(OSError):
                os.utime(path)

    def _tell(self, what: Path, message: str) -> None:
        if what not in self._told:
            self._told.add(what)
            warnings.warn(message, stacklevel=3)


def _claim(root: Path) -> bool:
    """Make a folder a cache, or see that it is one; say whether this process may write there."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _DENIED:
            return False
        raise PipelineError(f"{root}: cannot be a folder for the cache ({error.strerror}); {_OTHER_FOLDER}") from error
    others = [name for name in _names(root) if not name.startswith(".")]  # before the tag, which comes before entries
    tagged = _is_tagged(root)
    if others and not tagged:
        raise PipelineError(
            f"{root}: expected a cache of results or an empty folder, found other files such as {others[0]}; "
            f"{_OTHER_FOLDER}"
        )
    probe = root / f".{secrets.token_hex(8)}{TEMP_SUFFIX}"
    try:
        if tagged:
            probe.touch(exist_ok=False)
            probe.unlink()
        else:
            write_renamed(root / _TAG, _TAG_TEXT, sync=True)
    except OSError as error:
        if error.errno in _DENIED:
            return False
        if not tagged:
            raise _cannot_write(root, len(_TAG_TEXT), error) from error
    return True  # also on a full disk: what is there can be read, and gc makes room


def _is_tagged(root: Path) -> bool:
    try:
        return b"dotmask" in (root / _TAG).read_bytes()  # others write a file of this name, too
    except OSError:
        return False


def _cannot_write(root: Path, size_bytes: int, error: OSError) -> PipelineError:
    return PipelineError(
        f"{root}: {show_bytes(size_bytes)} could not be written to the cache ({error.strerror}); make room on its disk "
        f"(python -m stages.cache gc --limit 1GiB), or {_OTHER_FOLDER}, and run the same command again: it goes on "
        "from here"
    )


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise PipelineError(
            f"{folder}: this folder of the cache cannot be read ({error.strerror}); mend its permissions, or "
            f"{_OTHER_FOLDER}"
        ) from error
