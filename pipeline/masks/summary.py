"""What a mask store holds, at a glance: counts, scores and statuses, by SQL over its columns."""

from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.masks.instances import SCORE_COLUMNS
from pipeline.masks.store import MaskStore

_BY_KIND = """
    SELECT source, status, count(*) AS n, avg(score) AS mean_score, median(radius_px) AS median_radius_px,
           median(area_px) AS median_area_px, avg(leak_frac) AS mean_leak_frac
    FROM instances GROUP BY source, status ORDER BY n DESC, source, status
"""
_QUANTILES = """
    SELECT count({column}) AS n, min({column}), quantile_cont({column}, 0.1), quantile_cont({column}, 0.5),
           quantile_cont({column}, 0.9), max({column})
    FROM instances
"""
_COLUMNS = ("source", "status", "radius_px", "area_px", *SCORE_COLUMNS)


@dataclass(frozen=True)
class KindSummary:
    """The rows of one source and status.

    Args:
        source: What made the masks.
        status: What became of the points.
        n: Number of rows.
        mean_score: Mean score; None without.
        median_radius_px: Median radius, image pixels.
        median_area_px: Median area of the mask, pixels.
        mean_leak_frac: Mean share of the raw mask outside the circle; None without.
    """

    source: str
    status: str
    n: int
    mean_score: float | None
    median_radius_px: float | None
    median_area_px: float
    mean_leak_frac: float | None


@dataclass(frozen=True)
class ColumnSummary:
    """The values of one column.

    Args:
        column: Its name.
        n: Number of rows that have a value.
        minimum: Least value.
        low: 10 % quantile.
        median: 50 % quantile.
        high: 90 % quantile.
        maximum: Greatest value.
    """

    column: str
    n: int
    minimum: float
    low: float
    median: float
    high: float
    maximum: float


@dataclass(frozen=True)
class StoreSummary:
    """A store at a glance.

    Args:
        n_images: Images it lists.
        n_empty_images: Those without instances.
        n_instances: All rows.
        most: Rows of the fullest image.
        kinds: Rows by source and status, most frequent first.
        columns: Columns that have values.
    """

    n_images: int
    n_empty_images: int
    n_instances: int
    most: int
    kinds: tuple[KindSummary, ...]
    columns: tuple[ColumnSummary, ...]


def summarize_store(store: MaskStore) -> StoreSummary:
    """Count what a store holds.

    Raises:
        PipelineError: If a file of the store is missing or damaged.
    """
    counts = np.array([store.n_instances(image_id) for image_id in store.image_ids], dtype=np.int64)
    instances: pa.Table = store.read_columns(_COLUMNS)
    with duckdb.connect() as connection:
        connection.register("instances", instances)
        kinds = tuple(KindSummary(*row) for row in connection.execute(_BY_KIND).fetchall())
        columns = []
        for name in ("radius_px", "area_px", *SCORE_COLUMNS):
            row = connection.execute(_QUANTILES.format(column=name)).fetchone()
            if row is not None and row[0]:
                columns.append(ColumnSummary(name, *row))
    return StoreSummary(
        n_images=len(counts),
        n_empty_images=int((counts == 0).sum()),
        n_instances=int(counts.sum()),
        most=int(counts.max(initial=0)),
        kinds=kinds,
        columns=tuple(columns),
    )
