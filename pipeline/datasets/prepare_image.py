"""One image of ``prepare``: decode it, read its points, check and flag them."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.base import DatasetReader, RawEntry, RawImage
from pipeline.datasets.flags import PointFlag, inside_image, repeated_points
from pipeline.datasets.images import decode_image_rgb, encode_png, read_bytes
from pipeline.errors import PipelineError
from pipeline.geometry.nnec import nnec_radii
from pipeline.masks.instances import Instances


@dataclass(frozen=True)
class PreparedImage:
    """One image, ready for the tables; small enough to travel between processes.

    Args:
        image_id: As in the entry.
        path: The image file; below the folder given to :func:`prepare_image` where it was rendered.
        split: As in the entry.
        size_hw: Height and width in pixels after EXIF rotation.
        digest: SHA-256 of the file.
        points_xy: (N, 2) float64.
        class_id: (N,) int64.
        boxes_wh_px: (N, 2) float64, NaN where unknown; ``None`` without.
        flags: (N,) uint8 bits of :class:`PointFlag`.
        attributes: What the source says about the image.
        class_names: Names of the classes; empty without.
        class_source_ids: The source's own numbers of the classes; empty without.
        notes: Oddities that are no faults.
        truth: True masks, one row per point, where the source has them.
    """

    image_id: str
    path: Path
    split: str
    size_hw: tuple[int, int]
    digest: str
    points_xy: NDArray[np.float64]
    class_id: NDArray[np.int64]
    boxes_wh_px: NDArray[np.float64] | None
    flags: NDArray[np.uint8]
    attributes: Mapping[str, str]
    class_names: tuple[str, ...]
    class_source_ids: tuple[int, ...]
    notes: tuple[str, ...]
    truth: Instances | None


def prepare_image(reader: DatasetReader, rendered: Path, entry: RawEntry) -> PreparedImage:
    """Read and check one image; where the reader renders, save its pixels as ``rendered/<image_id>.png``.

    Raises:
        PipelineError: If the image or its annotation is broken; where both are, the message names both.
    """
    faults: list[str] = []
    data, size_hw = b"", (0, 0)
    if entry.image_path is not None:
        try:
            data = read_bytes(entry.image_path)
            size_hw = decode_image_rgb(data, str(entry.image_path)).shape[:2]
        except PipelineError as error:
            faults.append(str(error))
    raw: RawImage | None = None
    try:
        raw = reader.read(entry)
    except PipelineError as error:
        faults.append(str(error))
    if raw is None or faults:
        raise PipelineError("; ".join(faults))
    path = raw.path or entry.image_path
    if raw.pixels is not None:
        path = rendered / f"{entry.image_id}.png"
        data, size_hw = encode_png(raw.pixels), raw.pixels.shape[:2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if path is None:
        raise ValueError(f"{reader.name}: the reader gave neither a path nor pixels for {entry.image_id}")
    if raw.size_hw is not None and raw.size_hw != size_hw:
        raise PipelineError(_other_size(path, entry.annotation_path, size_hw, raw.size_hw))
    if not np.isfinite(raw.points_xy).all():
        raise PipelineError(f"{entry.annotation_path or path}: holds points that are NaN or infinite; mend them")
    return PreparedImage(
        image_id=entry.image_id,
        path=path,
        split=entry.split,
        size_hw=size_hw,
        digest=sha256(data).hexdigest(),
        points_xy=raw.points_xy,
        class_id=raw.class_id,
        boxes_wh_px=raw.boxes_wh_px,
        flags=_flags(raw, size_hw),
        attributes=raw.attributes,
        class_names=raw.class_names,
        class_source_ids=raw.class_source_ids,
        notes=raw.notes,
        truth=_truth(raw, size_hw),
    )


def _flags(raw: RawImage, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Join what the source says about its points with what can be seen from here."""
    flags = np.zeros(len(raw.points_xy), np.uint8) if raw.point_flags is None else raw.point_flags.astype(np.uint8)
    flags = flags | np.where(inside_image(raw.points_xy, size_hw), 0, PointFlag.OUTSIDE).astype(np.uint8)
    return flags | np.where(repeated_points(raw.points_xy), PointFlag.DUPLICATE, 0).astype(np.uint8)


def _truth(raw: RawImage, size_hw: tuple[int, int]) -> Instances | None:
    """Encode the true masks; the radii are those of ``nnec`` with its defaults."""
    if raw.truth is None:
        return None
    n, region = len(raw.points_xy), raw.is_region
    # A region stands for no head: it neither has a circle nor bounds others'.
    radius_px = np.full(n, np.nan)
    radius_px[~region] = nnec_radii(raw.points_xy[~region], size_hw=size_hw).radius_px
    if isinstance(raw.truth, np.ndarray):
        filled = _labels_present(raw.truth, n)
    else:
        filled = np.array([window.mask.any() for window in raw.truth], np.bool_).reshape(n)
    columns: dict[str, Any] = {
        "point_id": np.arange(n),
        "points_xy": raw.points_xy,
        "radius_px": radius_px,
        "class_id": raw.class_id,
        "source": "truth",
        "status": np.where(region, "ambiguous", np.where(filled, "ok", "empty")).tolist(),
    }
    if not isinstance(raw.truth, np.ndarray):
        return Instances.from_windows(size_hw, raw.truth, **columns)
    if raw.truth.shape != size_hw:
        raise ValueError(f"{raw.image_id}: truth has shape {raw.truth.shape}, the image {size_hw}")
    return Instances.from_label_map(raw.truth, **columns)


def _other_size(path: Path, annotation: Path | None, size_hw: tuple[int, int], stated_hw: tuple[int, int]) -> str:
    """Say that an image is not as large as its annotation states, and what is the likeliest cause."""
    source = annotation if annotation is not None else "its annotation"
    if stated_hw == size_hw[::-1]:
        remedy = "its EXIF data turn it by a quarter: remove them, or annotate the image as it is shown"
    else:
        remedy = "get the image or the annotation again, so that they are of one copy"
    return (
        f"{path}: is {size_hw[1]} × {size_hw[0]} pixels (width × height), {source} says {stated_hw[1]} × "
        f"{stated_hw[0]}; {remedy}"
    )


def _labels_present(label_map: NDArray[np.int32], count: int) -> NDArray[np.bool_]:
    """Tell for each of the labels 1 to ``count`` whether it has a pixel."""
    present = np.zeros(max(count, int(label_map.max(initial=0))) + 1, bool)
    present[label_map.ravel()] = True
    return present[1 : count + 1]
