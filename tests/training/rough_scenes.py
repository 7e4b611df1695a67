"""Ellipses of two classes on noise, their true masks, and a teacher's rough idea of them: shifted and eroded."""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from pipeline.compute.files import digest_file
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.splits import Splits
from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window
from pipeline.masks.store import MaskStore
from pipeline.models.refine_net import RefineNetOptions
from pipeline.training.refine_options import RefineCropOptions, RefinerOptions
from pipeline.training.refiner import train_refiner
from pipeline.training.run_place import RunPlace
from pipeline.training.segment_options import SegmentLoopOptions, SegmentPhaseOptions
from tests.training.blobs import write_masks, write_tables

SIZE_HW = (72, 96)
COLORS = ((60, 200, 90), (200, 90, 60))
TINY = RefinerOptions(
    network=RefineNetOptions(small_widths=(8, 16), context_width=8, context_rates=(1,), decoder_widths=(8,)),
    crops=RefineCropOptions(size_px=32, batch=4, heat_sigma_px=2.0),
    train=SegmentPhaseOptions(steps=5, optimizer="adam", learning_rate=2e-3),
    loop=SegmentLoopOptions(evaluate_every=2, log_every=2, checkpoint_every=2, ema_decay=0.5),
)


def draw_scene(rng, n_objects, n_classes):
    """Pixels, points, classes, and (N, H, W) visible masks; later objects hide earlier ones."""
    pixels = rng.integers(0, 120, (*SIZE_HW, 3)).astype(np.uint8)
    masks, points, classes = [], [], []
    for _ in range(n_objects):
        center = int(rng.integers(14, SIZE_HW[1] - 14)), int(rng.integers(14, SIZE_HW[0] - 14))
        axes = int(rng.integers(6, 14)), int(rng.integers(6, 14))
        mask = np.zeros(SIZE_HW, np.uint8)
        cv2.ellipse(mask, center, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        class_id = int(rng.integers(0, n_classes))
        pixels[mask > 0] = np.clip(COLORS[class_id] + rng.normal(0, 12, (int(mask.sum()), 3)), 0, 255)
        for earlier in masks:
            earlier[mask > 0] = 0
        masks.append(mask)
        points.append(center)
        classes.append(class_id)
    keep = [k for k, mask in enumerate(masks) if mask[points[k][1], points[k][0]]]
    return pixels, [points[k] for k in keep], [classes[k] for k in keep], [masks[k] > 0 for k in keep]


def as_rows(masks, points, classes, *, status="ok", source="truth", score=None):
    n = len(masks)
    return Instances.from_windows(
        SIZE_HW, [Window(np.asarray(mask, bool), 0, 0) for mask in masks], point_id=np.arange(n),
        points_xy=np.array(points, float).reshape(n, 2), radius_px=np.ones(n), class_id=classes, source=source,
        status=status, score=score,
    )  # fmt: skip


def roughened(rng, mask, point):
    """Shift a mask by up to three pixels and erode or dilate it."""
    shift = np.float32([[1, 0, rng.integers(-3, 4)], [0, 1, rng.integers(-3, 4)]])
    moved = cv2.warpAffine(mask.astype(np.uint8), shift, (mask.shape[1], mask.shape[0]))
    kernel = np.ones((3, 3), np.uint8)
    change = cv2.erode if rng.random() < 0.6 else cv2.dilate
    return change(moved, kernel, iterations=int(rng.integers(1, 3))) > 0


@dataclass(frozen=True)
class RoughRun:
    """A prepared folder with ``truth`` and two ``rough`` stores."""

    data: Path
    root: Path

    @property
    def prepared(self) -> Prepared:
        return Prepared.open(self.data / "prepared")

    @property
    def splits(self) -> Splits:
        train = [row.image_id for row in self.prepared.of_split("train")]
        return Splits(
            tuple(train[:-3]), tuple(train[-3:]), (), tuple(r.image_id for r in self.prepared.of_split("test"))
        )

    @property
    def truth(self) -> MaskStore:
        return MaskStore.open(self.data / "truth")

    @property
    def rough(self) -> list[MaskStore]:
        return [MaskStore.open(self.data / name) for name in ("rough_0", "rough_1")]

    @property
    def weights(self) -> Path:
        return self.root / "refiner" / "model.safetensors"

    def place(self, device=None) -> RunPlace:
        return RunPlace(
            self.root / "refiner", self.root / "resume", self.root / "log.jsonl", device or torch.device("cpu")
        )

    def train(self, options=TINY, *, n_classes=2, **changes):
        inputs = {"splits": self.splits, "truth": self.truth, "rough": self.rough} | changes
        return train_refiner(
            self.prepared, inputs["splits"], inputs["truth"], inputs["rough"], options=options, n_classes=n_classes,
            seed=0, place=self.place(),
        )  # fmt: skip


def write_rough_dataset(root: Path, *, n_train=12, n_test=4, n_classes=2, seed=0):
    """Write root/prepared, root/truth, root/rough_0 and root/rough_1."""
    rng = np.random.default_rng(seed)
    (root / "raw").mkdir(parents=True, exist_ok=True)
    images, table, truth, rough = [], [], {}, ({}, {})
    for split, number in [("test", n) for n in range(n_test)] + [("train", n) for n in range(n_train)]:
        image_id = f"{split}/{number:02d}"
        pixels, points, classes, masks = draw_scene(rng, 6, n_classes)
        path = root / "raw" / f"{split}_{number:02d}.png"
        cv2.imwrite(str(path), pixels[:, :, ::-1])
        images.append((image_id, f"raw/{path.name}", split, *SIZE_HW, digest_file(path), len(points), "{}"))
        table += [(image_id, k, float(x), float(y), classes[k], None, None, "") for k, (x, y) in enumerate(points)]
        truth[image_id] = as_rows(masks, points, classes)
        for store in rough:
            drawn = [roughened(rng, mask, point) for mask, point in zip(masks, points, strict=True)]
            rows = as_rows(drawn, points, classes, source="point_guided", score=np.full(len(drawn), 0.5))
            status = np.where(rows.area_px > 0, "ok", "empty")
            store[image_id] = replace(rows, status=status)
    write_tables(root / "prepared", images, table)
    for name, rows in (("truth", truth), ("rough_0", rough[0]), ("rough_1", rough[1])):
        write_masks(root / name, rows)
