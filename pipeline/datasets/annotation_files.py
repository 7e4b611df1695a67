"""Read points from the file formats that crowd data sets use, and find their folders and files."""

import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray
from scipy.io.matlab import MatReadError

from pipeline.datasets.base import RawEntry
from pipeline.datasets.images import IMAGE_SUFFIXES
from pipeline.errors import PipelineError

MAT_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    AttributeError,
    OverflowError,
    MemoryError,
    UnicodeDecodeError,
    struct.error,
    zlib.error,
    MatReadError,
)
"""What SciPy raises for damaged ``.mat`` files, depending on where the damage lies."""


def load_mat(path: Path) -> dict[str, Any]:
    """Load the variables of a MATLAB file.

    Raises:
        PipelineError: If the file is missing, damaged or in the HDF5 form (v7.3).
    """
    try:
        variables: dict[str, Any] = scipy.io.loadmat(path)
    except NotImplementedError as error:
        raise PipelineError(
            f"{path}: is a v7.3 .mat file (HDF5); save it again in MATLAB with the option -v7"
        ) from error
    except MAT_ERRORS as error:
        raise PipelineError(f"{path}: not a readable .mat file ({error}); get the file again") from error
    return variables


def mat_variable(path: Path, variables: dict[str, Any], name: str) -> Any:
    """Take one variable of a ``.mat`` file.

    Raises:
        PipelineError: If it has none of that name; the message lists those it has.
    """
    if name not in variables:
        present = ", ".join(key for key in variables if not key.startswith("__")) or "none"
        raise PipelineError(f"{path}: expected the variable '{name}', the file has {present}")
    return variables[name]


def as_points_xy(values: Any, path: Path, what: str) -> NDArray[np.float64]:
    """Check raw coordinates and return them as (N, 2) float64 xy; anything of size 0 is no points.

    Raises:
        PipelineError: If they are not N×2 finite real numbers; the message names the file and the first bad rows.
    """
    return as_numbers(values, path, what, columns=2)


def as_numbers(values: Any, path: Path, what: str, *, columns: int) -> NDArray[np.float64]:
    """Check a raw table of numbers and return it as (N, columns) float64; anything of size 0 has no rows.

    Raises:
        PipelineError: If it has another shape, holds no real numbers, or any is NaN or infinite.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise PipelineError(f"{path}: {what}: expected N×{columns} numbers, got rows of different length") from error
    if array.size == 0:
        return np.zeros((0, columns))
    if array.dtype.kind not in "iuf":
        raise PipelineError(f"{path}: {what}: expected N×{columns} numbers, got {array.dtype} of shape {array.shape}")
    if array.ndim != 2 or array.shape[1] != columns:
        raise PipelineError(f"{path}: {what}: expected N×{columns} numbers, got an array of shape {array.shape}")
    numbers = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if len(bad):
        shown = ", ".join(str(row) for row in bad[:5]) + (", …" if len(bad) > 5 else "")
        raise PipelineError(
            f"{path}: {what}: {len(bad)} rows hold NaN or infinity (rows from 0: {shown}); mend or remove them"
        )
    return numbers


def find_folder(parent: Path, names: Iterable[str]) -> Path | None:
    """Find the first of some subfolders, whatever the case of its letters; ``""`` stands for ``parent`` itself.

    A name may hold ``/``, each part is looked up in turn.
    """
    for name in names:
        found: Path | None = parent
        for part in [part for part in name.split("/") if part]:
            found = _subfolder(found, part) if found else None
        if found is not None:
            return found
    return None


def _subfolder(parent: Path, name: str) -> Path | None:
    if not parent.is_dir():
        return None
    matches = [entry.name for entry in os.scandir(parent) if entry.name.lower() == name.lower() and entry.is_dir()]
    return parent / min(matches) if matches else None


def files_by_stem(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """Files of one folder by name without extension, sorted; hidden files are passed over.

    Raises:
        PipelineError: If two files differ in their extension only.
    """
    wanted = {suffix.lower() for suffix in suffixes}
    found: dict[str, Path] = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if entry.name.startswith(".") or path.suffix.lower() not in wanted or not entry.is_file():
            continue
        if path.stem in found:
            raise PipelineError(f"{path}: differs from {found[path.stem].name} in its extension only; keep one of them")
        found[path.stem] = path
    return found


def image_files(folder: Path) -> dict[str, Path]:
    """Images of one folder by name without extension, as :func:`files_by_stem` does."""
    return files_by_stem(folder, IMAGE_SUFFIXES)


def pair_entries(
    images: Mapping[str, Path],
    annotations: Mapping[str, Path],
    *,
    split: str,
    id_prefix: str,
    expected: str,
    lonely: str,
    payloads: Mapping[str, Any] | None = None,
) -> list[RawEntry]:
    """Match images and annotation files by key; those without a partner become entries with a fault.

    Args:
        images: Key → image file.
        annotations: Key → annotation file.
        split: Split of all of them.
        id_prefix: What stands before the key in the image id.
        expected: Where the annotation of ``{key}`` would lie, for the message.
        lonely: Where the image of ``{key}`` would lie, for the message.
        payloads: Key → payload of the entry.
    """
    entries = []
    for key in sorted(images.keys() | annotations.keys()):
        image, annotation = images.get(key), annotations.get(key)
        fault = ""
        if annotation is None:
            fault = f"{image}: image without annotation; expected {expected.replace('{key}', key)}"
        elif image is None:
            fault = f"{annotation}: annotation without image; expected {lonely.replace('{key}', key)}"
        entries.append(RawEntry(f"{id_prefix}{key}", split, image, annotation, fault, (payloads or {}).get(key)))
    return entries


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text file; CRLF and a byte order mark are fine.

    Raises:
        PipelineError: If the file is missing or not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path}: expected UTF-8 text ({error})") from error
