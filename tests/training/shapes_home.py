"""A tiny data set of shapes, prepared, with SOLOv2 options so small that a training takes seconds."""

from pathlib import Path

import torch

from pipeline.datasets.prepare import prepare_dataset
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.splits import Splits
from pipeline.datasets.synthetic_shapes import SyntheticShapesReader
from pipeline.models.solov2 import Solov2Options
from pipeline.training.run_place import RunPlace
from pipeline.training.segment_options import SegmentLoopOptions, SegmentPhaseOptions
from pipeline.training.segmenter_options import SegmenterOptions, ViewOptions

CPU = torch.device("cpu")
SCENES = """\
seed: 3
classes: [square, disc]
splits:
  test: {images: 2, height_px: 48, width_px: 64, objects: [1, 4], size_px: [10, 30], roughness: 0.0}
  train: {images: 6, height_px: 64, width_px: 48, objects: [1, 4], size_px: [10, 30], roughness: 0.0}
"""
NETWORK = Solov2Options(fpn_width=8, tower_width=8, tower_depth=1, kernel_dim=8, mask_width=8, grids=(6, 5, 4, 3, 2))
VIEWS = ViewOptions(batch=2, short_side_min_px=32, short_side_max_px=64, long_side_px=96, test_short_side_px=48)
RANGES_PX = ((1.0, 8.0), (8.0, 12.0), (12.0, 16.0), (16.0, 24.0), (24.0, 64.0))
OPTIONS = SegmenterOptions(
    network=NETWORK,
    ranges_px=RANGES_PX,
    train=SegmentPhaseOptions(steps=4, optimizer="muon", learning_rate=1e-3, ramp_steps=0),
    views=VIEWS,
    loop=SegmentLoopOptions(evaluate_every=2, log_every=2, checkpoint_every=1),
    early_fracs=(0.5,),
)


def write_shapes(root: Path, scenes: str = SCENES) -> Prepared:
    """Write root/raw/scenes.yaml and root/prepared."""
    (root / "raw").mkdir(parents=True)
    (root / "raw" / "scenes.yaml").write_text(scenes, encoding="utf-8")
    prepare_dataset(SyntheticShapesReader(), root / "raw", root / "prepared", root, workers=1)
    return Prepared.open(root / "prepared")


def split_shapes(prepared: Prepared) -> Splits:
    """Three strong images, one of them held out, and three weak ones."""
    train = [row.image_id for row in prepared.of_split("train")]
    test = tuple(row.image_id for row in prepared.of_split("test"))
    return Splits(labeled_train=tuple(train[:2]), labeled_val=(train[2],), unlabeled=tuple(train[3:]), test=test)


def place_below(root: Path, stage: str) -> RunPlace:
    """Folders of a training."""
    return RunPlace(root / stage, root / "resume" / stage, root / "logs" / f"{stage}.jsonl", CPU)
