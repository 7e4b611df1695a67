"""A tiny data set of shapes with circles, and P2Seg options so small that a fit takes seconds."""

from pathlib import Path

import torch

from pipeline.compute.cache import ResultCache
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.radii import Radii, compute_radii, read_radii, write_radii
from pipeline.geometry.nnec import NnecOptions
from pipeline.models.mutual_distillation import MutualDistillationOptions
from pipeline.training.options import CropOptions
from pipeline.training.p2seg import FitPlace
from pipeline.training.p2seg_options import P2SegOptions, P2SegSeedOptions
from pipeline.training.p2seg_seeds import PointImages
from pipeline.training.segment_options import SegmentPhaseOptions
from tests.training.shapes_home import write_shapes

STEPS = SegmentPhaseOptions(steps=3, optimizer="adam", learning_rate=1e-3, ramp_steps=0)
OPTIONS = P2SegOptions(
    seeds=P2SegSeedOptions(train=STEPS),
    network=MutualDistillationOptions(width=8, affinity_dim=4),
    crops=CropOptions(size_px=32, batch=2),
    train=STEPS,
)


def write_home(root: Path) -> tuple[Prepared, Radii]:
    """Write root/prepared and root/nnec."""
    prepared = write_shapes(root)
    write_radii(root / "nnec/radii.parquet", compute_radii(prepared, NnecOptions()))
    return prepared, read_radii(root / "nnec/radii.parquet")


def point_images(prepared: Prepared, radii: Radii) -> PointImages:
    """All training images."""
    ids = tuple(row.image_id for row in prepared.of_split("train"))
    return PointImages(prepared, radii, ids, len(prepared.class_names))


def fit_place(root: Path, cache: Path | None = None) -> FitPlace:
    """Folders of a fit below root."""
    return FitPlace(root, root / "log.jsonl", torch.device("cpu"), ResultCache.open(cache or root / "cache"))
