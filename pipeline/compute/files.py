"""Files that are whole or absent, with bytes that depend on their contents alone."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import PipelineError

ROW_GROUP_ROWS = 65_536
PARQUET_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "compression": "zstd",
        "compression_level": 3,
        "version": "2.6",
        "data_page_version": "1.0",
        "use_dictionary": True,
        "write_statistics": True,
        "store_schema": True,
    }
)
"""Writer options of every Parquet file: all that moves a byte is fixed here."""


def digest_file(path: Path) -> str:
    """Give the SHA-256 of a file's bytes in hexadecimal.

    Raises:
        PipelineError: If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def digest_json(obj: Any) -> str:
    """Give the SHA-256 in hexadecimal of an object's canonical JSON: sorted keys, no spaces, no NaN.

    Raises:
        TypeError: If the object holds something that JSON does not have.
        ValueError: If it holds NaN or an infinity, whose JSON other readers refuse.
    """
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """Lend an empty folder that takes the place of ``path`` when the block ends well, and vanishes when it does not.

    The folder is a hidden sibling, ``.<name>.partial``, so that the last step is a rename. What a killed run left in it
    is removed first. It is locked while the block runs; the system drops the lock when the process ends, however it
    ends.

    Args:
        path: Folder to replace; it need not exist, its parents are made.

    Yields:
        The folder to write into.

    Raises:
        PipelineError: If another process is writing it.
    """
    partial = path.with_name(f".{path.name}.partial")
    retired = path.with_name(f".{path.name}.retired")
    if partial.is_symlink() or partial.is_file():
        partial.unlink()
    partial.mkdir(parents=True, exist_ok=True)
    with _locked(partial, busy=path):
        for left_over in (*partial.iterdir(), retired):
            _remove(left_over)
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if path.exists() or path.is_symlink():
            path.rename(retired)
        partial.rename(path)
        _remove(retired)


@contextmanager
def _locked(folder: Path, *, busy: Path) -> Iterator[None]:
    """Hold a folder alone; where the file system has no locks, go on without one."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = folder.exists() and os.path.samestat(os.fstat(handle), folder.stat())  # not just renamed by another
        except OSError as error:
            alone = not isinstance(error, BlockingIOError)
        if not alone:
            raise PipelineError(f"{busy}: another process is writing it; wait until it has ended, then run this again")
        yield
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file through a hidden sibling and a rename, so that a reader sees the old bytes or all the new ones."""
    with _renamed_into(path) as partial:
        partial.write_bytes(data)


def atomic_write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as :func:`atomic_write_bytes` does; line ends stay as they are."""
    atomic_write_bytes(path, text.encode())


def write_json(path: Path, obj: Any) -> None:
    """Write an object as indented JSON in its own key order, atomically, with a line end.

    Raises:
        ValueError: If it holds NaN or an infinity.
    """
    atomic_write_text(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as Parquet, atomically; the bytes depend on its schema and values alone.

    Args:
        table: Any table; how it is chunked and any pandas metadata are of no account.
        path: File to write or replace; parents are made.
    """
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"pandas"}
    plain = table.replace_schema_metadata(metadata or None).combine_chunks()
    with _renamed_into(path) as partial:
        pq.write_table(plain, partial, row_group_size=ROW_GROUP_ROWS, **PARQUET_OPTIONS)


def read_table(path: Path, *, made_by: str, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or say which stage makes it.

    Args:
        path: File to read.
        made_by: Command or stage that writes the file, for the message.
        columns: Names to read; all of them by default.

    Raises:
        PipelineError: If the file is missing or not Parquet, or a column is missing.
    """
    if not path.is_file():
        raise PipelineError(f"{path}: no such file; run {made_by} first")
    try:
        with pq.ParquetFile(path) as file:
            missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
            if missing:
                raise PipelineError(
                    f"{path}: columns {', '.join(missing)} are missing (it has {', '.join(file.schema_arrow.names)}); "
                    f"it was written by something else or another version: run {made_by} again"
                )
            return file.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(f"{path}: not a readable Parquet file ({error}); run {made_by} again") from error


@contextmanager
def _renamed_into(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
