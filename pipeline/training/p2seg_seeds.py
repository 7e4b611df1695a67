"""P2Seg's class maps: given by the user, marked from the points, or filled in by a small network that learns the marks.

They lie as PNG files in one folder, ``<image_id>.png``, whoever made them, and are read and checked by one function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError

from pipeline.annotators.base import MarkedImage
from pipeline.annotators.p2seg import look, shrink_rgb, working_hw
from pipeline.annotators.seed_marks import SeedMarkOptions, seed_marks
from pipeline.compute.files import atomic_write_bytes
from pipeline.compute.progress import track
from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import Prepared
from pipeline.datasets.radii import Radii
from pipeline.errors import PipelineError, raise_all
from pipeline.evaluation.class_maps import ClassMapQuality, class_map_quality
from pipeline.geometry.point_owners import UNKNOWN
from pipeline.geometry.scaling import scale_nearest
from pipeline.models.mutual_distillation import MutualDistillation
from pipeline.training.p2seg_batches import SeedScene

QUALITY_IMAGES = 200
"""Images, spread evenly over all, on which class maps are compared with the truth where there is one."""


@dataclass(frozen=True)
class PointImages:
    """The images that P2Seg learns from, with their points and circles.

    Args:
        prepared: The data set.
        radii: Exclusion circles.
        image_ids: Images.
        n_classes: Number of classes.
    """

    prepared: Prepared
    radii: Radii
    image_ids: tuple[str, ...]
    n_classes: int

    def marked(self, image_id: str) -> MarkedImage:
        """Read an image with its points."""
        points = self.prepared.points(image_id)
        radius_px = self.radii.of(image_id) if len(points) else np.zeros(0)
        pixels = read_image_rgb(self.prepared.image(image_id).path)
        return MarkedImage(image_id, pixels, points.points_xy, radius_px, points.point_id, points.class_id)

    def scene(self, image_id: str, folder: Path, long_side_px: int) -> SeedScene:
        """Read an image with its class map, at its working size."""
        marked = self.marked(image_id)
        classes = read_class_map(folder, image_id, marked.size_hw)
        return scene_of(marked, classes, long_side_px)


def scene_of(marked: MarkedImage, classes: npt.NDArray[np.uint8], long_side_px: int) -> SeedScene:
    """Bring an image, its class map and its points to the working size; points outside the image are left out."""
    size_hw = working_hw(marked.size_hw, long_side_px)
    small = scale_nearest(classes, size_hw)
    inside = marked.inside
    points_yx = (marked.points_xy[inside, ::-1] + 0.5) * (np.array(size_hw) / marked.size_hw) - 0.5
    return SeedScene(shrink_rgb(marked.image, size_hw), small, points_yx, marked.class_id[inside])


def map_path(folder: Path, image_id: str) -> Path:
    """Where the class map of an image lies."""
    return folder / f"{image_id}.png"


def read_class_map(folder: Path, image_id: str, size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Read a class map: (H, W) uint8, 0 background, k + 1 class_id k, 255 unknown.

    Raises:
        PipelineError: If it is missing, damaged, no map of one number per pixel, or of another size than the image.
    """
    path = map_path(folder, image_id)
    try:
        with Image.open(path) as file:
            if file.mode not in ("L", "P"):
                raise PipelineError(
                    f"{path}: expected one number per pixel (8-bit grey or palette), got the mode {file.mode}; save "
                    "the class map itself, not its colours"
                )
            classes = np.array(file, np.uint8)
    except FileNotFoundError:
        raise PipelineError(
            f"{path}: no such class map; every image that is learnt from needs one: add it, or set "
            "annotate.p2seg.seeds.source: network to have them made from the points"
        ) from None
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise PipelineError(f"{path}: cannot be read as a PNG ({error}); write it again") from error
    if classes.shape != size_hw:
        raise PipelineError(
            f"{path}: is {classes.shape} pixels (height, width), but its image is {size_hw}; make the map at the "
            "image's own size"
        )
    return classes


def write_class_map(folder: Path, image_id: str, classes: npt.NDArray[np.uint8]) -> None:
    """Write a class map."""
    path = map_path(folder, image_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    done, coded = cv2.imencode(".png", classes)
    assert done
    atomic_write_bytes(path, coded.tobytes())


def check_class_maps(images: PointImages, folder: Path, class_names: Sequence[str]) -> None:
    """Look at every map that a user gave.

    Raises:
        PipelineError: As :func:`read_class_map`; if a map shows a class that its image has no point of, or no map shows
            a class that has points. All faults of the second kinds come in one message.
    """
    faults: list[str] = []
    pointed: dict[int, int] = {}
    seen: set[int] = set()
    for image_id in track(images.image_ids, description="class maps"):
        row, points = images.prepared.image(image_id), images.prepared.points(image_id)
        shown = set(np.unique(read_class_map(folder, image_id, row.size_hw)).tolist()) - {0, UNKNOWN}
        own = set((points.class_id + 1).tolist())
        for value in sorted(shown - own):
            name = class_names[value - 1] if value <= len(class_names) else "none"
            faults.append(
                f"{map_path(folder, image_id)}: shows {value} (class {name}), of which the image has no point; make "
                f"these pixels {UNKNOWN} (unknown) or 0 (background)"
            )
        seen |= shown
        for class_id in set(points.class_id.tolist()):
            pointed[class_id] = pointed.get(class_id, 0) + 1
    for class_id, count in sorted(pointed.items()):
        if class_id + 1 not in seen:
            name = class_names[class_id] if class_id < len(class_names) else str(class_id)
            faults.append(
                f"class {name} ({class_id + 1} in the maps) has points on {count} images, but is on no class map"
            )
    raise_all(faults, f"{folder}: mend these class maps")


def write_marks(images: PointImages, folder: Path, options: SeedMarkOptions) -> None:
    """Write what points alone say."""
    for image_id in track(images.image_ids, description="seeds"):
        write_class_map(folder, image_id, seed_marks(images.marked(image_id), options))


def write_filled(
    images: PointImages,
    marks: Path,
    folder: Path,
    net: MutualDistillation,
    *,
    min_prob: float,
    long_side_px: int,
    device: torch.device,
) -> None:
    """Write what the small network makes of every image; what the marks say of objects stays.

    Args:
        images: The images.
        marks: Folder of the marks.
        folder: Where the maps go.
        net: In evaluation mode, on its device.
        min_prob: Where it is less sure, the map stays unknown.
        long_side_px: Working size.
        device: Where the network is.
    """
    for image_id in track(images.image_ids, description="seeds, filled in"):
        marked = images.marked(image_id)
        small = shrink_rgb(marked.image, working_hw(marked.size_hw, long_side_px))
        said = look(net, small, marked.class_id, device)
        found = torch.where(said.probs >= min_prob, said.classes, UNKNOWN).to(torch.uint8).cpu().numpy()
        classes = scale_nearest(found, marked.size_hw)
        sure = read_class_map(marks, image_id, marked.size_hw)
        objects = (sure != 0) & (sure != UNKNOWN)
        write_class_map(folder, image_id, np.where(objects, sure, classes).astype(np.uint8))


def seed_quality(images: PointImages, folder: Path) -> ClassMapQuality | None:
    """Compare class maps with the truth, for the report alone; None where there is none."""
    truth = images.prepared.truth
    if truth is None:
        return None
    spread = np.unique(np.linspace(0, len(images.image_ids) - 1, QUALITY_IMAGES).round().astype(int))
    chosen = [images.image_ids[k] for k in spread.tolist() if images.image_ids[k] in truth]
    pairs = (
        (read_class_map(folder, image_id, images.prepared.image(image_id).size_hw), truth.instances(image_id))
        for image_id in chosen
    )
    return class_map_quality(pairs, n_classes=images.n_classes)
