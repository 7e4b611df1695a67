"""Everything that an evaluation leaves on disk, written whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.compute.files import atomic_write_bytes, atomic_write_text, fresh_folder, write_json, write_table
from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import Prepared
from pipeline.evaluation.results import Evaluation, ImageResult
from pipeline.geometry.nnec import nnec_radii
from pipeline.masks.store import MaskStore
from pipeline.report.figures import read_curves
from pipeline.report.overlay import Overlay, Panel, draw_overlay, encode_jpeg, encode_png
from pipeline.report.page import Picture, ReportContent, image_caption, render_report
from pipeline.report.render import write_csv

METRICS_FILE = "metrics.json"
PER_IMAGE_FILE = "per_image.parquet"
REPORT_FILE = "report.html"
COUNTS_PLOT = "plots/counts.csv"
DENSITY_PLOT = "plots/error_by_density.csv"
OVERLAYS_FOLDER = "overlays"


def write_evaluation(
    folder: Path,
    evaluation: Evaluation,
    *,
    prepared: Prepared,
    reference: MaskStore,
    title: str,
    facts: Mapping[str, str],
    curve_folders: Mapping[str, Path],
) -> None:
    """Write ``metrics.json``, ``per_image.parquet``, ``plots/``, ``overlays/`` and ``report.html``.

    Args:
        folder: Where they go; an older folder is replaced.
        evaluation: What to write.
        prepared: The data set, for photos and points.
        reference: The masks that the evaluation compared with.
        title: Headline of the report.
        facts: Name → value of what was run.
        curve_folders: Training stage → DVCLive's folder.

    Raises:
        PipelineError: If a photo cannot be read.
    """
    pictures = []
    with fresh_folder(folder) as fresh:
        write_json(fresh / METRICS_FILE, evaluation.metrics())
        write_table(evaluation.per_image_table(), fresh / PER_IMAGE_FILE)
        table = evaluation.per_image_table().select(["image_id", "count_true", "count_predicted"])
        write_csv(table, fresh / COUNTS_PLOT)
        write_csv(evaluation.error_by_density(), fresh / DENSITY_PLOT)
        for rank, image in evaluation.showcase().items():
            pixels = draw_overlay(result_overlay(image, prepared, reference, evaluation.reference))
            atomic_write_bytes(fresh / OVERLAYS_FOLDER / f"{rank}.png", encode_png(pixels))
            pictures.append(Picture(rank, image, encode_jpeg(pixels)))
        content = ReportContent(
            title=title,
            facts=facts,
            evaluation=evaluation,
            curves={stage: read_curves(path) for stage, path in curve_folders.items()},
            pictures=pictures,
        )
        atomic_write_text(fresh / REPORT_FILE, render_report(content))


def result_overlay(image: ImageResult, prepared: Prepared, reference: MaskStore, reference_name: str) -> Overlay:
    """Compose the four panels of one test image."""
    row, points = prepared.image(image.image_id), prepared.points(image.image_id)
    radius_px = nnec_radii(points.points_xy, size_hw=row.size_hw).radius_px
    against = "True masks" if reference_name == "truth" else "The annotator's masks"
    return Overlay(
        title=image.image_id,
        subtitle=image_caption(image),
        pixels=read_image_rgb(row.path),
        panels=[
            Panel("Photo"),
            Panel(
                f"Annotated points with their NNECs ({len(points)})", points_xy=points.points_xy, radius_px=radius_px
            ),
            Panel(f"{against} ({image.match.n_true})", label_map=reference.label_map(image.image_id)),
            Panel(
                f"Predicted masks and points ({len(image.predicted)})",
                label_map=_in_matched_colors(image),
                points_xy=image.predicted.points_xy,
                predicted=True,
            ),
        ],
    )


def _in_matched_colors(image: ImageResult) -> npt.NDArray[np.integer]:
    """Paint predictions with the labels, hence colours, of the reference masks they match; others get new ones."""
    label_map = image.predicted.label_map()
    top = int(image.match.true.max(initial=0))
    labels = np.concatenate([[0], top + np.arange(1, len(image.predicted) + 1)])
    labels[image.match.predicted] = image.match.true
    return labels[label_map]


def store_overlay(image_id: str, store: MaskStore, pixels: npt.NDArray[np.uint8]) -> Overlay:
    """Compose the panels of one image of a mask store."""
    instances = store.instances(image_id)
    statuses = ", ".join(
        f"{count} {status}" for status, count in zip(*np.unique(instances.status, return_counts=True), strict=True)
    )
    return Overlay(
        title=image_id,
        subtitle=f"{store.provenance.algorithm} · {len(instances)} instances" + (f" · {statuses}" if statuses else ""),
        pixels=pixels,
        panels=[
            Panel("Points with their circles", points_xy=instances.points_xy, radius_px=instances.radius_px),
            Panel("Masks", label_map=instances.label_map(), points_xy=instances.points_xy),
        ],
    )
