"""``p2seg``: masks from a network that was trained on the points of these very images (arXiv 2401.09709).

The network says of each pixel which class it is and where its point lies; the rule of
:mod:`pipeline.geometry.point_owners` makes instances of that (specification P2Seg §5 and §7).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.annotators.base import MarkedImage
from pipeline.annotators.exclusion import disc_window, head_component
from pipeline.errors import PipelineError
from pipeline.geometry.point_owners import assign_pixels
from pipeline.geometry.scaling import scale_nearest
from pipeline.masks.instances import Instances
from pipeline.masks.rle import Window
from pipeline.models.mutual_distillation import (
    SIZE_MULTIPLE,
    MutualDistillation,
    MutualDistillationOptions,
    build_mutual_distillation,
)
from pipeline.models.network_input import IMAGE_MEAN
from pipeline.models.pretrained import file_sha256


@dataclass(frozen=True)
class P2SegMaskOptions:
    """How the network's word becomes masks.

    Args:
        long_side_px: Larger images are shrunk to this for the network, in training, too.
        point_px: Pixels this near to a point are its own, whatever the network says, image pixels.
        max_radii: No mask reaches farther from its point than this many radii of its exclusion circle (NNEC), so that
            objects without a point are not taken in; 0 for no bound.
        min_area_px: A mask of which the network saw fewer pixels is replaced by a disc, image pixels.
        fallback_radius_frac: Radius of that disc, as a share of the circle's.
        fallback_score: Its score.
    """

    long_side_px: int = 2048
    point_px: float = 3.0
    max_radii: float = 1.0
    min_area_px: float = 12.0
    fallback_radius_frac: float = 0.5
    fallback_score: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.long_side_px < SIZE_MULTIPLE:
            raise ValueError(f"long_side_px: expected at least {SIZE_MULTIPLE}, got {self.long_side_px}")
        for name in ("point_px", "max_radii", "min_area_px"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if not 0 < self.fallback_radius_frac <= 1:
            raise ValueError(
                f"fallback_radius_frac: expected a number above 0 and at most 1, got {self.fallback_radius_frac}"
            )
        if not 0 <= self.fallback_score <= 0.1:
            raise ValueError(f"fallback_score: expected a number from 0 to 0.1, got {self.fallback_score}")


@dataclass(frozen=True)
class FittedP2Seg:
    """What the annotator is built from, beside the weights.

    Args:
        masks: How masks are made.
        network: What the network was built with.
        n_classes: Its classes, without background.
    """

    masks: P2SegMaskOptions = field(default_factory=P2SegMaskOptions)
    network: MutualDistillationOptions = field(default_factory=MutualDistillationOptions)
    n_classes: int = 1


@dataclass(frozen=True)
class PixelClasses:
    """What the network says of the pixels of an image, at its working size.

    Args:
        classes: (h, w) int64: 0 background, k + 1 class_id k; only classes that are present.
        probs: (h, w) float32 probability of that class, of background and the present classes together.
        offsets: (2, h, w) float32 (dy, dx), pixels of the working size.
    """

    classes: torch.Tensor
    probs: torch.Tensor
    offsets: torch.Tensor


def working_hw(size_hw: tuple[int, int], long_side_px: int) -> tuple[int, int]:
    """Give the size at which an image is looked at: its own, or with a longer side of ``long_side_px``."""
    scale = min(1.0, long_side_px / max(size_hw))
    return max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale))


def shrink_rgb(pixels: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring (H, W, 3) to its working size."""
    if pixels.shape[:2] == size_hw:
        return pixels
    return np.asarray(cv2.resize(pixels, size_hw[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def look(
    net: MutualDistillation, pixels: NDArray[np.uint8], present: NDArray[np.int64], device: torch.device
) -> PixelClasses:
    """Show an image to the network.

    Args:
        net: In evaluation mode, on its device.
        pixels: (h, w, 3) uint8 RGB, any size.
        present: Class ids that the image's points have; others are suppressed.
        device: Where the network is.
    """
    height, width = pixels.shape[:2]
    padded_hw = tuple(-(-side // SIZE_MULTIPLE) * SIZE_MULTIPLE for side in (height, width))
    image = torch.tensor(IMAGE_MEAN)[:, None, None].expand(3, *padded_hw).clone()
    image[:, :height, :width] = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255.0
    channels = torch.from_numpy(np.concatenate([[0], np.unique(present) + 1])).to(device)
    with torch.inference_mode():
        said = net(image[None].to(device))
        logits = said.class_logits[:, channels].float()
        logits, offsets = (
            F.interpolate(one, size=padded_hw, mode="bilinear", align_corners=False)[0, :, :height, :width]
            for one in (logits, said.offsets.float())
        )
        probs, best = torch.softmax(logits, 0).max(0)
        return PixelClasses(channels[best], probs, offsets)


class P2SegAnnotator:
    """Masks by a fitted network: every pixel of a class goes to the point that its offset leads to.

    Args:
        fitted: How it was built, and how masks are made.
        checkpoint: The safetensors file of its weights.
        device: Where it computes.

    Raises:
        PipelineError: If the weights are missing or are another network's.
    """

    name = "p2seg"
    algorithm_version = 1

    def __init__(self, fitted: FittedP2Seg, checkpoint: Path | None, device: torch.device) -> None:
        if checkpoint is None or not checkpoint.is_file():
            raise PipelineError(
                f"{checkpoint}: annotate.method: p2seg needs a network that was trained on these points; run "
                "python -m stages.annotate, which trains it"
            )
        net = build_mutual_distillation(replace(fitted.network, pretrained=False), fitted.n_classes)
        try:
            net.load_state_dict(safetensors.torch.load_file(checkpoint))
        except (RuntimeError, OSError, safetensors.SafetensorError) as error:
            raise PipelineError(
                f"{checkpoint}: not the weights of this network ({error}); remove the file and run "
                "python -m stages.annotate again"
            ) from error
        self.weights_sha256: str | None = file_sha256(checkpoint)
        self._net, self._options, self._device = net.eval().to(device), fitted.masks, device

    def annotate(self, marked: MarkedImage) -> Instances:
        """Give one row per point, masks disjoint, each one component that holds its point; score as far as seen."""
        owners, probs = self._owners(marked)
        painted = _paint_points(owners, marked, self._options.point_px)
        windows, seen, score = _components(painted, owners, probs, marked, self._options.max_radii)
        fails = seen < self._options.min_area_px
        _replace(windows, np.flatnonzero(fails), marked, self._options.fallback_radius_frac)
        filled = np.array([bool(window.mask.any()) for window in windows], bool)
        status = np.where(~filled, "empty", np.where(fails, "fallback", "ok"))
        return Instances.from_windows(
            marked.size_hw,
            windows,
            point_id=marked.point_id,
            class_id=marked.class_id,
            points_xy=marked.points_xy,
            radius_px=marked.radius_px,
            score=np.where(filled & ~fails, score, np.where(filled, self._options.fallback_score, 0.0)),
            source=list(np.where(fails, "fallback", "p2seg")),
            status=list(status),
        )

    def _owners(self, marked: MarkedImage) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Which point each pixel belongs to, (H, W), 0 for none and k + 1 for row k; and how sure its class is."""
        small_hw = working_hw(marked.size_hw, self._options.long_side_px)
        pixels = shrink_rgb(marked.image, small_hw)
        said = look(self._net, pixels, marked.class_id, self._device)
        scale_yx = np.array(small_hw) / marked.size_hw
        points_yx = (marked.points_xy[:, ::-1] + 0.5) * scale_yx - 0.5
        rows = np.flatnonzero(marked.inside)
        owners = assign_pixels(
            said.offsets,
            said.classes,
            torch.from_numpy(points_yx[rows]).float().to(self._device),
            torch.from_numpy(marked.class_id[rows]).to(self._device),
        )
        row_of = np.concatenate([[0], rows + 1])
        return (
            scale_nearest(row_of[owners.cpu().numpy()], marked.size_hw),
            scale_nearest(said.probs.cpu().numpy(), marked.size_hw),
        )


def _paint_points(owners: NDArray[np.int64], marked: MarkedImage, point_px: float) -> NDArray[np.int64]:
    """Give each point the pixels around it, contested ones to the nearer point, ties to the earlier row."""
    painted = owners.copy()
    apart = np.full(owners.shape, np.inf)
    for row in np.flatnonzero(marked.inside).tolist():
        x, y = marked.points_xy[row].tolist()
        disc = disc_window(x, y, point_px, marked.size_hw)
        part = slice(disc.y0, disc.y0 + disc.mask.shape[0]), slice(disc.x0, disc.x0 + disc.mask.shape[1])
        rows, columns = np.ogrid[part]
        squared = (columns - x) ** 2 + (rows - y) ** 2
        wins = disc.mask & (squared < apart[part])
        apart[part][wins] = squared[wins]
        painted[part][wins] = row + 1
    return painted


def _components(
    painted: NDArray[np.int64],
    owners: NDArray[np.int64],
    probs: NDArray[np.float32],
    marked: MarkedImage,
    max_radii: float,
) -> tuple[list[Window], NDArray[np.int64], NDArray[np.float64]]:
    """Keep of each point's pixels the component that holds it.

    Returns:
        The masks, how many pixels of each the network itself gave to the point, and the mean probability in it, where
        pixels that it gave to no or to another point count 0.
    """
    n = len(marked.points_xy)
    windows, seen, score = [], np.zeros(n, np.int64), np.zeros(n)
    for row, place in enumerate(ndimage.find_objects(painted, n) if n else []):
        if place is None:
            windows.append(Window(np.zeros((1, 1), bool), 0, 0))
            continue
        mask = painted[place] == row + 1
        x, y = marked.points_xy[row, 0] - place[1].start, marked.points_xy[row, 1] - place[0].start
        if max_radii:
            rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
            mask &= (columns - x) ** 2 + (rows - y) ** 2 <= (max_radii * marked.radius_px[row]) ** 2
        mask = head_component(mask, float(x), float(y), fill_holes=False)
        own = mask & (owners[place] == row + 1)
        seen[row] = own.sum()
        score[row] = probs[place][own].sum() / max(1, int(mask.sum()))
        windows.append(Window(mask, place[1].start, place[0].start))
    return windows, seen, score


def _replace(windows: list[Window], rows: NDArray[np.int64], marked: MarkedImage, radius_frac: float) -> None:
    """Put discs in the place of masks, where no other mask is; the first of two discs keeps what both want."""
    taken = np.zeros(marked.size_hw, bool)
    failed = set(rows.tolist())
    for row, window in enumerate(windows):
        if row not in failed:
            taken[_part(window)] |= window.mask
    for row in rows[marked.inside[rows]].tolist():
        x, y = marked.points_xy[row].tolist()
        disc = disc_window(x, y, radius_frac * marked.radius_px[row], marked.size_hw)
        mask = disc.mask & ~taken[_part(disc)]
        if mask.any():
            mask = head_component(mask, x - disc.x0, y - disc.y0, fill_holes=False)
        taken[_part(disc)] |= mask
        windows[row] = Window(mask, disc.x0, disc.y0)


def _part(window: Window) -> tuple[slice, slice]:
    height, width = window.mask.shape
    return slice(window.y0, window.y0 + height), slice(window.x0, window.x0 + width)
