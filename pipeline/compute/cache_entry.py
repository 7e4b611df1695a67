"""One file of the results cache: written whole or not at all, checked when it is read."""

import contextlib
import hashlib
import os
import secrets
import struct
from pathlib import Path
from typing import NamedTuple

TEMP_SUFFIX = ".tmp"

_MAGIC = b"dotmask1"
_HEADER = struct.Struct("<8sQ32s")  # magic, bytes of the payload, SHA-256 of kind, key and payload


class Loaded(NamedTuple):
    """A file as read: its payload, or its fault; without a status, it could not be read at all."""

    data: bytes
    fault: str
    status: os.stat_result | None


def write_renamed(path: Path, *parts: bytes, sync: bool = False) -> None:
    """Write a file under a name that no other process has, then give it its own; on any failure, leave nothing."""
    temp = path.with_name(f".{path.name[:16]}.{secrets.token_hex(8)}{TEMP_SUFFIX}")
    try:
        with temp.open("xb") as file:
            file.writelines(parts)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temp.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temp.unlink(missing_ok=True)
        raise


def entry_header(kind: str, key: str, data: bytes) -> bytes:
    """Give the bytes that stand before an entry's payload.

    The checksum covers kind and key, so that a file under another entry's name is found out.
    """
    return _HEADER.pack(_MAGIC, len(data), _checksum(kind, key, data))


def load_status(path: Path) -> os.stat_result | None:
    """Look whether an entry is there at its full length, without reading its payload; None where it is not."""
    try:
        with path.open("rb") as file:
            status, header = os.fstat(file.fileno()), file.read(_HEADER.size)
    except OSError:
        return None
    return None if _header_fault(header, status.st_size) else status


def load_entry(path: Path, kind: str, key: str) -> Loaded | None:
    """Read and check an entry; None where there is none."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            header, data = file.read(_HEADER.size), file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        return Loaded(b"", f"cannot be read: {error.strerror}", None)
    fault = _header_fault(header, len(header) + len(data))
    if not fault and _HEADER.unpack(header)[2] != _checksum(kind, key, data):
        fault = "its checksum does not fit"
    return Loaded(b"" if fault else data, fault, status)


def _header_fault(header: bytes, file_bytes: int) -> str:
    if len(header) < _HEADER.size:
        return f"cut off after {file_bytes:,} bytes"
    magic, payload_bytes, _ = _HEADER.unpack(header)
    if magic != _MAGIC:
        return "it does not begin as an entry does"
    wanted = _HEADER.size + payload_bytes
    return "" if file_bytes == wanted else f"{file_bytes:,} bytes long instead of {wanted:,}"


def _checksum(kind: str, key: str, data: bytes) -> bytes:
    digest = hashlib.sha256(f"{kind}/{key}\n".encode())
    digest.update(data)
    return digest.digest()


def remove_if_same(path: Path, status: os.stat_result | None) -> bool:
    """Remove the file that was read, but not one that has taken its place since; say whether it is gone."""
    if status is None:
        return False
    try:
        now = path.stat()
        if (now.st_ino, now.st_mtime_ns) == (status.st_ino, status.st_mtime_ns):
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
