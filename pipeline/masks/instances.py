"""Instances of one image: one row per point, with its mask as run lengths and all that is known about it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.masks.rle import EncodedWindow, Window, empty_rle, encode_window, rle_to_window, rles_to_label_map

STATUSES = frozenset({"ok", "fallback", "empty", "ambiguous", "small", "duplicate", "collision"})
"""What became of a point: a mask, a stand-in for one, none, or one that is not to be trusted: for no reason given, for
its size, since another row has nearly the same mask, or since another point had its place in the network's grid."""
SCORE_COLUMNS = ("score", "pred_iou", "stability", "leak_frac", "clipped_frac", "class_score", "mask_quality")
"""Optional float columns, NaN where a method has none."""
OPTIONAL_COLUMNS = ("nms_decay", "class_probs", "prob_q8")
"""Columns that a store has only where a method gives them; None where no row of the image has a value."""

Floats = npt.NDArray[np.float32] | Sequence[float] | npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Instances:
    """The rows of one image, column by column; row k is label k + 1 of :meth:`label_map`.

    Indexing with a number, slice, index array or bool mask gives the chosen rows, as Instances again. Masks are decoded
    when they are asked for.

    Args:
        size_hw: Height and width of the image in pixels.
        point_id: (N,) int64, unique; the row's point in ``points.parquet``, or the prediction's number.
        class_id: (N,) int64.
        points_xy: (N, 2) float64, image pixels; a point may lie outside the image.
        radius_px: (N,) float64, image pixels.
        boxes_xywh: (N, 4) int32, tight around the mask, image pixels; zeros for an empty mask.
        area_px: (N,) int64.
        rle: N COCO compressed counts of the full frame.
        score: (N,) float32, how much the method trusts the mask, 0 to 1; NaN where it does not say, as below.
        pred_iou: (N,) float32, the network's own estimate of the mask's IoU, 0 to 1.
        stability: (N,) float32, IoU of the mask at a stricter and a laxer threshold, 0 to 1.
        leak_frac: (N,) float32, share of the raw mask outside the circle.
        clipped_frac: (N,) float32, share of the raw mask that was cut away.
        class_score: (N,) float32, 0 to 1.
        mask_quality: (N,) float32, 0 to 1.
        source: (N,) str, what made the mask: head, superpixel, box, fallback, truth, energy, …
        status: (N,) str, one of :data:`STATUSES`.
        round: (N,) int32, which round of pseudo-labelling; 0 is the first.
        nms_decay: (N,) float32, factor by which matrix NMS lowered the score, 0 to 1; NaN where it does not say.
        class_probs: (N, C) float32, the network's probability of each class, 0 to 1; NaN where it does not say.
        prob_q8: N soft masks as :func:`~pipeline.masks.soft_format.encode_soft` gives them, None for a row without.

    Raises:
        ValueError: If lengths or shapes differ, a box leaves the image, a point_id repeats or a status is unknown.
    """

    size_hw: tuple[int, int]
    point_id: npt.NDArray[np.int64]
    class_id: npt.NDArray[np.int64]
    points_xy: npt.NDArray[np.float64]
    radius_px: npt.NDArray[np.float64]
    boxes_xywh: npt.NDArray[np.int32]
    area_px: npt.NDArray[np.int64]
    rle: list[bytes]
    score: npt.NDArray[np.float32]
    pred_iou: npt.NDArray[np.float32]
    stability: npt.NDArray[np.float32]
    leak_frac: npt.NDArray[np.float32]
    clipped_frac: npt.NDArray[np.float32]
    class_score: npt.NDArray[np.float32]
    mask_quality: npt.NDArray[np.float32]
    source: npt.NDArray[np.str_]
    status: npt.NDArray[np.str_]
    round: npt.NDArray[np.int32]
    nms_decay: npt.NDArray[np.float32] | None = None
    class_probs: npt.NDArray[np.float32] | None = None
    prob_q8: list[bytes | None] | None = None

    def __post_init__(self) -> None:
        """Bring every column to its type and refuse what does not fit together."""
        height, width = int(self.size_hw[0]), int(self.size_hw[1])
        if height < 1 or width < 1:
            raise ValueError(f"size_hw: expected at least 1 x 1 pixels, got {height} x {width}")
        object.__setattr__(self, "size_hw", (height, width))
        object.__setattr__(self, "rle", list(self.rle))
        n = len(self.rle)
        for name, (dtype, tail) in _COLUMN_TYPES.items():
            column = np.asarray(getattr(self, name), dtype=dtype)
            if column.size == 0 and n == 0:
                column = column.reshape(0, *tail)
            if column.shape != (n, *tail):
                raise ValueError(f"{name}: expected shape {(n, *tail)} as there are {n} masks, got {column.shape}")
            object.__setattr__(self, name, column)
        for name in OPTIONAL_COLUMNS:
            object.__setattr__(self, name, _optional_column(name, getattr(self, name), n))
        self._check_values()

    def _check_values(self) -> None:
        if len(np.unique(self.point_id)) < len(self):
            values, counts = np.unique(self.point_id, return_counts=True)
            raise ValueError(f"point_id: expected each once, got {values[counts > 1][:5].tolist()} more than once")
        boxes = self.boxes_xywh.astype(np.int64)
        ends = boxes[:, :2] + boxes[:, 2:]
        outside = (boxes < 0).any(axis=1) | (ends > np.array(self.size_hw[::-1])).any(axis=1)
        if outside.any():
            k = int(np.flatnonzero(outside)[0])
            raise ValueError(f"boxes_xywh: row {k} is {boxes[k].tolist()}, outside the image of {self.size_hw} (hw)")
        unknown = set(np.unique(self.status).tolist()) - STATUSES
        if unknown:
            raise ValueError(f"status: expected one of {', '.join(sorted(STATUSES))}, got {', '.join(sorted(unknown))}")

    def __len__(self) -> int:
        """Give the number of rows."""
        return len(self.rle)

    def __getitem__(self, key: int | slice | npt.NDArray[Any] | Sequence[int]) -> "Instances":
        """Choose rows, in the order asked for."""
        rows = np.arange(len(self))[key]
        rows = rows.reshape(1) if rows.ndim == 0 else rows
        columns = {name: getattr(self, name)[rows] for name in _COLUMN_TYPES}
        for name in ("nms_decay", "class_probs"):
            column = getattr(self, name)
            columns[name] = None if column is None else column[rows]
        columns["prob_q8"] = None if self.prob_q8 is None else [self.prob_q8[row] for row in rows.tolist()]
        return Instances(size_hw=self.size_hw, rle=[self.rle[row] for row in rows.tolist()], **columns)

    def equals(self, other: "Instances") -> bool:
        """Tell whether all columns are the same; NaN equals NaN."""
        return (
            self.size_hw == other.size_hw
            and self.rle == other.rle
            and self.prob_q8 == other.prob_q8
            and _same_floats(self.nms_decay, other.nms_decay)
            and _same_floats(self.class_probs, other.class_probs)
            and all(
                np.array_equal(getattr(self, name), getattr(other, name), equal_nan=np.dtype(dtype).kind == "f")
                for name, (dtype, _) in _COLUMN_TYPES.items()
            )
        )

    def window(self, index: int) -> Window:
        """Decode one mask inside its tight box."""
        box = self.boxes_xywh[index]
        return Window(rle_to_window(self.rle[index], self.size_hw, box), int(box[0]), int(box[1]))

    def label_map(self) -> npt.NDArray[np.int32]:
        """Paint all masks: (H, W) int32, 0 for background, k + 1 for row k; later rows win where masks overlap."""
        return rles_to_label_map(self.rle, self.size_hw)

    @classmethod
    def empty(cls, size_hw: tuple[int, int]) -> Self:
        """Give the instances of an image that has none."""
        return cls._from_encoded(
            size_hw, [], point_id=[], points_xy=np.zeros((0, 2)), radius_px=[], source=[], status=[]
        )

    @classmethod
    def from_windows(
        cls,
        size_hw: tuple[int, int],
        windows: Sequence[Window],
        *,
        point_id: npt.ArrayLike,
        points_xy: npt.NDArray[np.float64],
        radius_px: npt.ArrayLike,
        class_id: npt.ArrayLike | None = None,
        score: npt.ArrayLike | None = None,
        pred_iou: npt.ArrayLike | None = None,
        stability: npt.ArrayLike | None = None,
        leak_frac: npt.ArrayLike | None = None,
        clipped_frac: npt.ArrayLike | None = None,
        class_score: npt.ArrayLike | None = None,
        mask_quality: npt.ArrayLike | None = None,
        source: Sequence[str] | str,
        status: Sequence[str] | str,
        round: int | npt.ArrayLike = 0,  # noqa: A002 - the column's name
        nms_decay: npt.ArrayLike | None = None,
        class_probs: npt.ArrayLike | None = None,
        prob_q8: Sequence[bytes | None] | None = None,
    ) -> Self:
        """Encode one mask per row, each given in a window inside the image.

        Args:
            size_hw: Height and width of the image in pixels.
            windows: One for each row; see :class:`~pipeline.masks.rle.Window`.
            point_id: As in :class:`Instances`; so are the columns below. Missing scores become NaN.
            points_xy: (N, 2), image pixels.
            radius_px: (N,), image pixels.
            class_id: (N,); zeros by default.
            score: (N,).
            pred_iou: (N,).
            stability: (N,).
            leak_frac: (N,).
            clipped_frac: (N,).
            class_score: (N,).
            mask_quality: (N,).
            source: One for each row, or one for all.
            status: One for each row, or one for all.
            round: One for each row, or one for all.
            nms_decay: (N,).
            class_probs: (N, C).
            prob_q8: One for each row.

        Raises:
            ValueError: If a window leaves the image or the columns do not fit together.
        """
        encoded = [encode_window(window.mask, window.x0, window.y0, size_hw) for window in windows]
        return cls._from_encoded(
            size_hw, encoded, point_id=point_id, points_xy=points_xy, radius_px=radius_px, class_id=class_id,
            score=score, pred_iou=pred_iou, stability=stability, leak_frac=leak_frac, clipped_frac=clipped_frac,
            class_score=class_score, mask_quality=mask_quality, source=source, status=status, round=round,
            nms_decay=nms_decay, class_probs=class_probs, prob_q8=prob_q8,
        )  # fmt: skip

    @classmethod
    def from_label_map(cls, label_map: npt.NDArray[np.integer], *, point_id: npt.ArrayLike, **columns: Any) -> Self:
        """Cut a label map into rows; a row whose label has no pixels gets an empty mask.

        Args:
            label_map: (H, W) integers; value k + 1 belongs to row k.
            point_id: (N,); its length is the number of rows.
            columns: The columns of :meth:`from_windows`, under the same names.

        Raises:
            ValueError: If the map has a label without a row, or the columns do not fit together.
        """
        n = len(np.asarray(point_id))
        low, high = (int(label_map.min()), int(label_map.max())) if label_map.size else (0, 0)
        if low < 0 or high > n:
            raise ValueError(f"label_map: expected values from 0 to {n}, one for each row, got {low} to {high}")
        size_hw = (label_map.shape[0], label_map.shape[1])
        nothing = EncodedWindow(empty_rle(size_hw), (0, 0, 0, 0), 0)
        encoded = [nothing] * n
        for k, box in enumerate(ndimage.find_objects(label_map, max_label=n)):
            if box is not None:
                encoded[k] = encode_window(label_map[box] == k + 1, box[1].start, box[0].start, size_hw)
        return cls._from_encoded(size_hw, encoded, point_id=point_id, **columns)

    @classmethod
    def _from_encoded(
        cls,
        size_hw: tuple[int, int],
        encoded: Sequence[EncodedWindow],
        *,
        source: Sequence[str] | str,
        status: Sequence[str] | str,
        class_id: npt.ArrayLike | None = None,
        round: int | npt.ArrayLike = 0,  # noqa: A002 - the column's name
        **columns: Any,
    ) -> Self:
        n = len(encoded)
        for name in SCORE_COLUMNS:
            if columns.get(name) is None:
                columns[name] = np.full(n, np.nan)
        return cls(
            size_hw=size_hw,
            rle=[item.rle for item in encoded],
            boxes_xywh=np.array([item.box_xywh for item in encoded], dtype=np.int32).reshape(n, 4),
            area_px=np.array([item.area_px for item in encoded], dtype=np.int64),
            class_id=np.zeros(n, dtype=np.int64) if class_id is None else class_id,  # type: ignore[arg-type]
            source=np.full(n, source) if isinstance(source, str) else source,  # type: ignore[arg-type]
            status=np.full(n, status) if isinstance(status, str) else status,  # type: ignore[arg-type]
            round=np.full(n, round) if np.ndim(round) == 0 else round,  # type: ignore[arg-type]
            **columns,
        )


_COLUMN_TYPES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "point_id": (np.int64, ()),
    "class_id": (np.int64, ()),
    "points_xy": (np.float64, (2,)),
    "radius_px": (np.float64, ()),
    "boxes_xywh": (np.int32, (4,)),
    "area_px": (np.int64, ()),
    **dict.fromkeys(SCORE_COLUMNS, (np.float32, ())),
    "source": (np.str_, ()),
    "status": (np.str_, ()),
    "round": (np.int32, ()),
}
assert {"size_hw", "rle", *_COLUMN_TYPES, *OPTIONAL_COLUMNS} == {field.name for field in fields(Instances)}


def _optional_column(name: str, column: Any, n: int) -> Any:
    """Bring an optional column to its type; one without any value is None."""
    if column is None:
        return None
    if name == "prob_q8":
        blobs = list(column)
        if len(blobs) != n:
            raise ValueError(f"prob_q8: expected {n} values as there are {n} masks, got {len(blobs)}")
        return blobs if any(blob is not None for blob in blobs) else None
    values = np.asarray(column, dtype=np.float32)
    if values.size == 0 and n == 0:
        return None
    expected = 1 if name == "nms_decay" else 2
    if values.ndim != expected or len(values) != n:
        shape = f"({n},)" if expected == 1 else f"({n}, C)"
        raise ValueError(f"{name}: expected shape {shape} as there are {n} masks, got {values.shape}")
    return None if np.isnan(values).all() else values


def _same_floats(one: npt.NDArray[np.float32] | None, other: npt.NDArray[np.float32] | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other, equal_nan=True)
