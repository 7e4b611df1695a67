"""One image with its labels and masks side by side: photo, points with NNECs, reference masks, prediction."""

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

PANEL_PX = 760
"""Longer side of a panel; larger images are reduced to it, smaller ones enlarged up to three times."""
MAX_ENLARGEMENT = 3.0
DPI = 100
MASK_OPACITY = 0.5
INK, PAPER, QUIET = "#1c2024", "#ffffff", "#60646c"
POINT_COLOR, CIRCLE_COLOR, PREDICTION_COLOR = "#ffd60a", "#4cc9f0", "#ff2d87"


@dataclass(frozen=True)
class Panel:
    """One picture of an overlay.

    Args:
        title: What it shows.
        label_map: (H, W) integers, masks to lay over the photo; None for none.
        class_id: (N,) integers, class of the masks with labels 1 to N: a colour for each class; None for a colour for
            each mask.
        points_xy: (N, 2) points to mark, image pixels; None for none.
        radius_px: (N,) circles to draw around them, image pixels; None for none.
        predicted: Whether the points are predictions, which have another colour.
    """

    title: str
    label_map: npt.NDArray[np.integer] | None = None
    class_id: npt.NDArray[np.integer] | None = None
    points_xy: npt.NDArray[np.float64] | None = None
    radius_px: npt.NDArray[np.float64] | None = None
    predicted: bool = False


@dataclass(frozen=True)
class Overlay:
    """Panels of one image under one title.

    Args:
        title: The image's name.
        subtitle: What there is to know about it: counts, figures.
        pixels: (H, W, 3) uint8 RGB.
        panels: Pictures, two in a row.
        class_names: Names of the classes, for the legend.
    """

    title: str
    subtitle: str
    pixels: npt.NDArray[np.uint8]
    panels: Sequence[Panel]
    class_names: Sequence[str] = ()


def draw_overlay(overlay: Overlay) -> npt.NDArray[np.uint8]:
    """Draw an overlay.

    Returns:
        (h, w, 3) uint8 RGB; equal overlays give equal pixels.
    """
    height, width = overlay.pixels.shape[:2]
    scale = min(PANEL_PX / max(height, width), MAX_ENLARGEMENT)
    panel_w, panel_h = max(round(width * scale), 1), max(round(height * scale), 1)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    photo = cv2.resize(overlay.pixels, (panel_w, panel_h), interpolation=interpolation).astype(np.uint8, copy=False)
    columns = min(2, len(overlay.panels)) or 1
    rows = -(-len(overlay.panels) // columns)
    margin, head, caption, foot = 18, 76, 30, 34
    page_w = max(columns * panel_w + (columns + 1) * margin, 760)
    page_h = head + rows * (panel_h + caption) + (rows - 1) * margin + foot
    figure = Figure(figsize=(page_w / DPI, page_h / DPI), dpi=DPI, facecolor=PAPER)
    figure.text(margin / page_w, 1 - 32 / page_h, overlay.title, size=16, weight="bold", color=INK, parse_math=False)
    figure.text(margin / page_w, 1 - 60 / page_h, overlay.subtitle, size=12, color=QUIET, parse_math=False)
    left = (page_w - columns * panel_w - (columns - 1) * margin) / 2
    for i, panel in enumerate(overlay.panels):
        row, column = divmod(i, columns)
        x = left + column * (panel_w + margin)
        y = page_h - head - caption - row * (panel_h + caption + margin) - panel_h
        box = (x / page_w, y / page_h, panel_w / page_w, panel_h / page_h)
        axes = figure.add_axes(box)
        axes.set_axis_off()
        axes.imshow(_with_masks(photo, panel), extent=(-0.5, width - 0.5, height - 0.5, -0.5), aspect="auto")
        axes.set_xlim(-0.5, width - 0.5)
        axes.set_ylim(height - 0.5, -0.5)
        _mark_points(axes, panel)
        figure.text(x / page_w, (y + panel_h + 8) / page_h, panel.title, size=12, color=INK)
    _draw_legend(figure, overlay, margin / page_w, 11 / page_h, page_w)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=DPI)
    page: npt.NDArray[np.uint8] = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
    return np.ascontiguousarray(page.reshape(round(page_h), round(page_w), 4)[..., :3])


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Give the bytes of a PNG file of an (h, w, 3) uint8 RGB picture; without time or program name."""
    return _encode(pixels, format="PNG", optimize=False)


def encode_jpeg(pixels: npt.NDArray[np.uint8], quality: int = 86) -> bytes:
    """Give the bytes of a JPEG file of an (h, w, 3) uint8 RGB picture."""
    return _encode(pixels, format="JPEG", quality=quality, subsampling=0)


def _encode(pixels: npt.NDArray[np.uint8], **options: str | int | bool) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def mask_colors(n: int) -> npt.NDArray[np.uint8]:
    """Give colours for labels 0 to n, (n + 1, 3) uint8 RGB; neighbouring labels differ well, label 0 is black.

    Labels of one image tend to run in (y, x) order, so steps of the golden angle keep neighbours apart.
    """
    golden = 0.61803398875
    wheel = [
        colorsys.hsv_to_rgb((0.04 + k * golden) % 1.0, (0.95, 0.7)[k % 2], (1.0, 0.88, 1.0)[k % 3]) for k in range(60)
    ]
    colors = (255 * np.array(wheel)).round().astype(np.uint8)[np.arange(n) % len(wheel)]
    return np.concatenate([np.zeros((1, 3), dtype=np.uint8), colors])


def _with_masks(photo: npt.NDArray[np.uint8], panel: Panel) -> npt.NDArray[np.uint8]:
    """Lay masks over a photo, half through, with an opaque edge; the rest of the photo is dimmed."""
    label_map = panel.label_map
    if label_map is None:
        return photo
    height, width = photo.shape[:2]
    rows = np.minimum(((np.arange(height) + 0.5) * label_map.shape[0] / height).astype(np.intp), label_map.shape[0] - 1)
    columns = np.minimum(
        ((np.arange(width) + 0.5) * label_map.shape[1] / width).astype(np.intp), label_map.shape[1] - 1
    )
    labels = label_map[rows[:, None], columns[None, :]].astype(np.int64)
    shown = labels if panel.class_id is None else np.concatenate([[0], panel.class_id + 1])[labels]
    colors = mask_colors(int(shown.max(initial=0)))[shown].astype(np.float32)
    edge = np.zeros(labels.shape, dtype=np.bool_)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    opacity = np.where(labels > 0, np.where(edge, 0.95, MASK_OPACITY), 0.0)[..., None]
    ground = photo.astype(np.float32)
    gray = ground.mean(axis=2, keepdims=True)
    ground = np.where((labels > 0)[..., None], ground, 0.62 * (0.5 * ground + 0.5 * gray))
    mixed: npt.NDArray[np.uint8] = (ground * (1 - opacity) + colors * opacity).round().astype(np.uint8)
    return mixed


def _mark_points(axes: Axes, panel: Panel) -> None:
    points_xy = panel.points_xy
    if points_xy is None or not len(points_xy):
        return
    if panel.radius_px is not None:
        sides = 2 * panel.radius_px
        circles = EllipseCollection(
            sides, sides, np.zeros(len(sides)), units="xy", offsets=points_xy, offset_transform=axes.transData,
            facecolors="none", edgecolors=CIRCLE_COLOR, linewidths=0.9,
        )  # fmt: skip
        axes.add_collection(circles, autolim=False)
    crowding = float(np.sqrt(len(points_xy)))
    size_pt = float(np.clip(70 / max(crowding, 1.0), 2.0, 6.0))
    color = PREDICTION_COLOR if panel.predicted else POINT_COLOR
    axes.plot(
        points_xy[:, 0], points_xy[:, 1], linestyle="none", marker="o", markersize=size_pt,
        markerfacecolor=color, markeredgecolor="#00000099", markeredgewidth=0.4,
    )  # fmt: skip


def _draw_legend(figure: Figure, overlay: Overlay, x: float, y: float, page_w: float) -> None:
    """Explain the marks that the panels use, in one line."""
    panels = overlay.panels
    by_class = any(p.class_id is not None for p in panels)
    entries = [
        ("annotated head", "●", POINT_COLOR, any(p.points_xy is not None and not p.predicted for p in panels)),
        (
            "NNEC: the circle up to the nearest other head",
            "○",
            CIRCLE_COLOR,
            any(p.radius_px is not None for p in panels),
        ),
        ("predicted head", "●", PREDICTION_COLOR, any(p.predicted for p in panels)),
        ("one colour per person", "■", "#7a5cff", not by_class and any(p.label_map is not None for p in panels)),
    ]
    if by_class:
        colors = mask_colors(len(overlay.class_names))[1:] / 255
        entries += [(name, "■", to_hex(color), True) for name, color in zip(overlay.class_names, colors, strict=True)]
    for text, mark, color, used in entries:
        if used and x < 1:
            figure.text(x, y, mark, size=12, color=color)
            figure.text(x + 19 / page_w, y, text, size=11, color=QUIET)
            x += (46 + 8.2 * len(text)) / page_w
