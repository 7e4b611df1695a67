"""Annotating a whole data set: image by image into a mask store."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.annotators.base import Annotator, MarkedImage
from pipeline.compute.ordered import one_thread_per_operation, ordered_map
from pipeline.compute.progress import track
from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import ImageRow, Prepared
from pipeline.datasets.radii import Radii
from pipeline.errors import PipelineError
from pipeline.masks.instances import Instances
from pipeline.masks.schema import Provenance
from pipeline.masks.store import MaskStore


def annotate_dataset(
    prepared: Prepared,
    radii: Radii,
    annotator: Annotator,
    out: Path,
    *,
    options: Any,
    log: Callable[..., None],
    workers: int = 1,
) -> Counter[str]:
    """Make the masks of every image of a data set.

    Args:
        prepared: Images and points.
        radii: Radii of their exclusion circles.
        annotator: The method.
        out: Folder of the mask store; it takes its place only when all images are done.
        options: The method's options, a dataclass or None; they stand in the store's metadata.
        log: Called once per image with its figures.
        workers: Images at work at once, in threads; the bytes do not depend on it.

    Returns:
        Rows of the store by status.

    Raises:
        PipelineError: If an image or its radii are not what ``prepare`` and ``nnec`` saw, or cannot be read.
    """
    params = dataclasses.asdict(options) if dataclasses.is_dataclass(options) and not isinstance(options, type) else {}
    provenance = Provenance(
        algorithm=annotator.name,
        algorithm_version=annotator.algorithm_version,
        params=params,
        weights_sha256=annotator.weights_sha256,
    )
    statuses: Counter[str] = Counter()
    annotate = functools.partial(_annotate_image, prepared, radii, annotator)
    with MaskStore.create(out, provenance) as writer, one_thread_per_operation():
        results = ordered_map(annotate, prepared.images, workers=workers)
        done = track(results, description="annotate", total=len(prepared.images), unit="images")
        for image, instances in zip(prepared.images, done, strict=True):
            writer.add(image.image_id, instances)
            found = Counter(str(status) for status in instances.status)
            statuses.update(found)
            log(image_id=image.image_id, n_points=len(instances), **found)
    return statuses


def _annotate_image(prepared: Prepared, radii: Radii, annotator: Annotator, image: ImageRow) -> Instances:
    points = prepared.points(image.image_id)
    if len(points) == 0:
        return Instances.empty(image.size_hw)
    radius_px = radii.of(image.image_id)
    if len(radius_px) != len(points):
        raise PipelineError(
            f"radii.parquet has {len(radius_px)} radii for image '{image.image_id}', prepare counted {len(points)} "
            "points; run python -m stages.nnec again"
        )
    pixels = read_image_rgb(image.path)
    marked = MarkedImage(image.image_id, pixels, points.points_xy, radius_px, points.point_id, points.class_id)
    if marked.size_hw != image.size_hw:
        raise PipelineError(
            f"{image.path}: is {marked.size_hw} pixels (height, width), but was {image.size_hw} when it was prepared; "
            "run python -m stages.prepare again"
        )
    return annotator.annotate(marked)
