"""The table of exclusion circles that the stage ``nnec`` writes, and the way to read it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.compute.files import read_table, write_table
from pipeline.datasets.flags import flags_to_column
from pipeline.datasets.prepared import Prepared
from pipeline.geometry.nnec import NnecFlag, NnecOptions, NnecResult, nnec_radii

RADII_SCHEMA = pa.schema(
    [
        ("image_id", pa.dictionary(pa.int32(), pa.string())),
        ("point_id", pa.int64()),
        ("radius_px", pa.float64()),
        ("neighbor_id", pa.int64()),
        ("flags", pa.dictionary(pa.int32(), pa.string())),
        ("box_radius_px", pa.float64()),
    ]
)
"""Sorted by (image_id, point_id). ``box_radius_px``: larger side of the head box, for comparison; null without."""


@dataclass(frozen=True)
class ImageRadii:
    """The circles of one image.

    Args:
        image_id: The image.
        circles: One circle per point, in the order of the point ids.
        box_radius_px: (N,) float64 larger side of each head box, NaN where unknown; ``None`` where there are none.
    """

    image_id: str
    circles: NnecResult
    box_radius_px: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class RadiiSummary:
    """Figures of a table of circles.

    Args:
        n_images: Images of the data set, those without points too.
        n_points: Circles.
        median_radius_px: Median radius, NaN without points.
        flagged: Name of a flag → circles that carry it.
    """

    n_images: int
    n_points: int
    median_radius_px: float
    flagged: dict[str, int]


class Radii:
    """Radii of a data set's circles, read from the table of ``nnec``."""

    def __init__(self, path: Path, radius_px: NDArray[np.float64], rows: dict[str, slice]) -> None:
        self.path = path
        self._radius_px = radius_px
        self._rows = rows

    def of(self, image_id: str) -> NDArray[np.float64]:
        """(N,) float64 radii of one image's points in image pixels, in the order of the point ids; empty without."""
        return self._radius_px[self._rows.get(image_id, slice(0, 0))]

    def __len__(self) -> int:
        """Return the number of circles of all images."""
        return len(self._radius_px)


def compute_radii(prepared: Prepared, options: NnecOptions) -> list[ImageRadii]:
    """Circles of every image of a prepared data set, in the order of the images."""
    result = []
    for image in prepared.images:
        points = prepared.points(image.image_id)
        circles = nnec_radii(
            points.points_xy,
            size_hw=image.size_hw,
            min_radius_px=options.min_radius_px,
            max_radius_frac=options.max_radius_frac,
            radius_scale=options.radius_scale,
        )
        box_radius_px = None if points.box_wh_px is None else points.box_wh_px.max(axis=1)
        result.append(ImageRadii(image.image_id, circles, box_radius_px))
    return result


def write_radii(path: Path, radii: Iterable[ImageRadii]) -> RadiiSummary:
    """Write the table; equal circles give equal bytes, in whatever order the images come."""
    images = sorted(radii, key=lambda image: image.image_id)
    counts = np.array([len(image.circles) for image in images], np.int64)
    radius_px = _joined([image.circles.radius_px for image in images], np.float64)
    flags = _joined([image.circles.flags for image in images], np.uint8)
    box_radius_px = _joined(
        [np.full(len(i.circles), np.nan) if i.box_radius_px is None else i.box_radius_px for i in images], np.float64
    )
    columns = [
        pa.DictionaryArray.from_arrays(
            pa.array(np.repeat(np.arange(len(images), dtype=np.int32), counts)),
            pa.array([image.image_id for image in images], pa.string()),
        ),
        pa.array(_joined([np.arange(count) for count in counts], np.int64)),
        pa.array(radius_px),
        pa.array(_joined([image.circles.neighbor_id for image in images], np.int64)),
        flags_to_column(flags, NnecFlag),
        pa.array(box_radius_px, from_pandas=True),
    ]
    write_table(pa.Table.from_arrays(columns, schema=RADII_SCHEMA), path)
    flagged = {str(f.name).lower(): int(np.count_nonzero(flags & np.uint8(f))) for f in sorted(NnecFlag)}
    median_px = float(np.median(radius_px)) if len(radius_px) else float("nan")
    return RadiiSummary(len(images), len(radius_px), median_px, flagged)


def read_radii(path: Path) -> Radii:
    """Read the radii that ``nnec`` wrote.

    Raises:
        PipelineError: If the file is missing or not such a table.
    """
    table = read_table(path, made_by="python -m stages.nnec", columns=["image_id", "radius_px"])
    image_ids = table["image_id"].cast(pa.string())
    runs = [] if table.num_rows == 0 else image_ids.combine_chunks().value_counts().to_pylist()
    rows: dict[str, slice] = {}
    start = 0
    for run in runs:
        rows[run["values"]] = slice(start, start + run["counts"])
        start += run["counts"]
    return Radii(path, table["radius_px"].to_numpy(), rows)


def _joined(arrays: Sequence[NDArray[Any]], dtype: type[Any]) -> NDArray[Any]:
    """Concatenate; no arrays give an empty one."""
    return np.concatenate([np.zeros(0, dtype), *arrays])
