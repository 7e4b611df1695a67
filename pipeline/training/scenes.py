"""Images as training sees them: pixels, heads and masks, from a person's labels or from a teacher's.

Training reads the truth of an image through :func:`labeled_scenes` alone, which is given the labelled images; the
unlabelled ones come from :mod:`~pipeline.training.pseudo_scenes`, which has no way to their true points.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.datasets.images import read_image_rgb
from pipeline.datasets.prepared import Prepared
from pipeline.errors import PipelineError
from pipeline.masks.store import MaskStore
from pipeline.training.kept import Kept


@dataclass(frozen=True)
class Scene:
    """One image with its heads; head k owns the pixels of value k + 1 in the label map.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        points_xy: (N, 2) float64 heads, image pixels.
        point_prob: (N,) float64 how sure each head is; 1 where a person marked it.
        label_map: (H, W) int32, 0 background.
        ignored: (H, W) bool, pixels that no loss looks at; None for none.
        cell_weights: (⌈H/4⌉, ⌈W/4⌉) float32, 0 to 1, how far each cell is to be trusted; None for 1 everywhere.
    """

    pixels: npt.NDArray[np.uint8]
    points_xy: npt.NDArray[np.float64]
    point_prob: npt.NDArray[np.float64]
    label_map: npt.NDArray[np.int32]
    ignored: npt.NDArray[np.bool_] | None = None
    cell_weights: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together."""
        if self.points_xy.shape != (len(self.point_prob), 2):
            raise ValueError(f"points_xy {self.points_xy.shape} and point_prob {self.point_prob.shape} do not fit")
        if self.label_map.shape != self.pixels.shape[:2]:
            raise ValueError(f"label_map {self.label_map.shape} and pixels {self.pixels.shape} do not fit")

    @property
    def n_bytes(self) -> int:
        """Memory of the arrays."""
        parts = (self.pixels, self.points_xy, self.point_prob, self.label_map, self.ignored, self.cell_weights)
        return sum(part.nbytes for part in parts if part is not None)


class SceneSource:
    """Scenes by position, with the last used ones kept in memory; safe to use from many threads.

    Args:
        image_ids: The images, in the order of their positions.
        read: Gives the scene of an image.
        cache_mib: Memory for scenes, in MiB.
    """

    def __init__(self, image_ids: Sequence[str], read: Callable[[str], Scene], *, cache_mib: int) -> None:
        self.image_ids = tuple(image_ids)
        self._scenes: Kept[int, Scene] = Kept(lambda position: read(self.image_ids[position]), cache_mib=cache_mib)

    def __len__(self) -> int:
        """Give the number of images."""
        return len(self.image_ids)

    def __getitem__(self, position: int) -> Scene:
        """Give the scene at a position."""
        return self._scenes[position]


def labeled_scenes(prepared: Prepared, masks: MaskStore, image_ids: Sequence[str], *, cache_mib: int) -> SceneSource:
    """Give labelled images, with the points and masks of their annotators.

    Raises:
        PipelineError: If an image's masks are missing or do not belong to its points.
    """
    missing = sorted(set(image_ids) - set(masks.image_ids))
    if missing:
        raise PipelineError(
            f"the annotator's mask store lacks {len(missing)} labelled images ({', '.join(missing[:5])} …); "
            "run the annotate stage again, on the same prepared tables"
        )

    for image_id in image_ids:
        n_points, n_masks = prepared.image(image_id).n_points, masks.n_instances(image_id)
        if n_masks != n_points:
            raise PipelineError(
                f"{image_id}: {n_points} points, but {n_masks} rows in the annotator's mask store; "
                "run the annotate stage again, on the same prepared tables"
            )

    def read(image_id: str) -> Scene:
        points_xy = np.asarray(prepared.points(image_id).points_xy, dtype=np.float64)
        return Scene(scene_pixels(prepared, image_id), points_xy, np.ones(len(points_xy)), masks.label_map(image_id))

    return SceneSource(image_ids, read, cache_mib=cache_mib)


def scene_pixels(prepared: Prepared, image_id: str) -> npt.NDArray[np.uint8]:
    """Read an image: (H, W, 3) uint8 RGB."""
    return read_image_rgb(prepared.image(image_id).path)
