"""What each part of P2Seg brings, on drawn scenes of touching objects of one class with noisy class maps.

``python -m benchmarks.p2seg_parts``: mean IoU of each point's mask with its true mask, on the images that were trained
on. Class maps are the true ones with blocks of wrong pixels, so that nothing but the parts differs.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.table import Table

from benchmarks.report import open_console
from pipeline.annotators.base import Annotator, MarkedImage
from pipeline.annotators.p2seg import P2SegAnnotator, P2SegMaskOptions
from pipeline.compute.cache import ResultCache
from pipeline.datasets.prepare import prepare_dataset
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.radii import compute_radii, read_radii, write_radii
from pipeline.datasets.synthetic_shapes import SyntheticShapesReader
from pipeline.geometry.nnec import NnecOptions
from pipeline.geometry.point_owners import assign_pixels
from pipeline.masks.instances import Instances
from pipeline.masks.overlap import mask_iou
from pipeline.training.p2seg import FitPlace, fit_p2seg
from pipeline.training.p2seg_options import DistillOptions, P2SegOptions, P2SegSeedOptions
from pipeline.training.p2seg_seeds import PointImages, read_class_map, write_class_map
from pipeline.training.segment_options import SegmentPhaseOptions

SCENES = """\
seed: 11
classes: [disc]
splits:
  train: {images: 64, height_px: 96, width_px: 96, objects: [4, 9], size_px: [16, 48], roughness: 0.2}
"""
NOISE_BLOCKS, NOISE_PX = 12, 6
PARTS = {
    "static offsets": DistillOptions(online=False, affinity_weight=0.0, propagated_frac=0.0),
    "+ online offsets": DistillOptions(affinity_weight=0.0, propagated_frac=0.0),
    "+ affinity loss": DistillOptions(propagated_frac=0.0),
    "+ propagation alone, β = 1": DistillOptions(propagated_frac=1.0, beta=1.0),
    "+ propagation alone, β = 4": DistillOptions(propagated_frac=1.0),
    "+ half of it, β = 4 (default)": DistillOptions(),
    "the same, class loss over the hardest fifth": DistillOptions(hard_frac=0.2),
}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Voronoi:
    """The class map divided among its nearest points: what no network has touched."""

    name, algorithm_version, weights_sha256 = "voronoi", 1, None

    def __init__(self, maps: Path) -> None:
        self._maps = maps

    def annotate(self, marked: MarkedImage) -> Instances:
        """Give one row per point."""
        classes = torch.from_numpy(read_class_map(self._maps, marked.image_id, marked.size_hw)).long()
        points = torch.from_numpy(marked.points_xy[:, ::-1].copy()), torch.from_numpy(marked.class_id.copy())
        return Instances.from_label_map(
            assign_pixels(None, classes, *points).numpy(), point_id=marked.point_id, class_id=marked.class_id,
            points_xy=marked.points_xy, radius_px=marked.radius_px, source="p2seg", status="ok",
        )  # fmt: skip


def noisy(classes: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Turn small blocks of a map of one class over."""
    found = classes.copy()
    for y, x in rng.integers(0, np.array(classes.shape) - NOISE_PX, (NOISE_BLOCKS, 2)).tolist():
        found[y : y + NOISE_PX, x : x + NOISE_PX] ^= 1
    return found


def mean_iou(annotator: Annotator, images: PointImages) -> float:
    """Mean IoU over all points."""
    truth = images.prepared.truth
    assert truth is not None
    ious = []
    for image_id in images.image_ids:
        found, true = annotator.annotate(images.marked(image_id)), truth.instances(image_id)
        ious += [mask_iou(found, k, true, k) for k in range(len(true)) if true.area_px[k]]
    return float(np.mean(ious))


@app.command()
def main(
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each row, with seeds 0, 1, ….")] = 1,
) -> None:
    """Print a table."""
    table = Table("parts", "mean IoU")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "raw").mkdir()
        (root / "raw" / "scenes.yaml").write_text(SCENES, encoding="utf-8")
        prepare_dataset(SyntheticShapesReader(), root / "raw", root / "prepared", root, workers=1)
        prepared = Prepared.open(root / "prepared")
        write_radii(root / "radii.parquet", compute_radii(prepared, NnecOptions()))
        radii = read_radii(root / "radii.parquet")
        images = PointImages(prepared, radii, tuple(row.image_id for row in prepared.images), 1)
        rng = np.random.default_rng(0)
        assert prepared.truth is not None
        for image_id in images.image_ids:
            labels = prepared.truth.instances(image_id).label_map()
            write_class_map(root / "maps", image_id, noisy((labels > 0).astype(np.uint8), rng))
        table.add_row("Voronoi", f"{mean_iou(Voronoi(root / 'maps'), images):.3f}")
        length = SegmentPhaseOptions(steps=steps, optimizer="muon", learning_rate=2e-3)
        options = P2SegOptions(
            seeds=P2SegSeedOptions(source="folder", folder=str(root / "maps")), train=length,
            masks=P2SegMaskOptions(max_radii=0.0),
        )  # fmt: skip
        place = FitPlace(root / "fit", root / "log.jsonl", torch.device("cpu"), ResultCache.open(root / "cache"))
        for part, distill in PARTS.items():
            found = []
            for seed in range(seeds):
                fit = fit_p2seg(prepared, radii, replace(options, distill=distill, seed=seed), place)
                found.append(mean_iou(P2SegAnnotator(fit.plan, fit.checkpoint, place.device), images))
            table.add_row(part, " ".join(f"{value:.3f}" for value in found))
            open_console().print(part, *found)
    open_console().print(table)


if __name__ == "__main__":
    app()
