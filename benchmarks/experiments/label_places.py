"""Where the labels of a plot's points go: none covers another or a point, nor, if that can be had, another's line."""

import itertools
import math
from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""Left, bottom, right, top; any unit, y upwards."""

STEPS = 24
"""Directions that are tried around a point, the right one first."""
RINGS = 24
"""Distances that are tried, nearest first."""


def place_labels(
    anchors_xy: Sequence[tuple[float, float]], sizes_wh: Sequence[tuple[float, float]], bounds: Box, *, gap: float
) -> list[Box]:
    """Find a box for every label: the nearest free place to its point, the points with most neighbours first.

    Args:
        anchors_xy: The points.
        sizes_wh: Width and height of each label.
        bounds: All labels stay inside.
        gap: Side of a point's box; half of it lies at least between a label and points and labels at its sides, a
            quarter above and below.

    Returns:
        One box per label. Where no free place has a clear line, the nearest free one; where there is none at all, the
        nearest inside the bounds, covering something.
    """
    points: list[Box] = [(x - gap / 2, y - gap / 2, x + gap / 2, y + gap / 2) for x, y in anchors_xy]
    reach = max((width for width, _ in sizes_wh), default=0.0)
    crowded = [sum(math.dist(one, other) < reach for other in anchors_xy) for one in anchors_xy]
    found: dict[int, Box] = {}
    for k in sorted(range(len(anchors_xy)), key=lambda k: (-crowded[k], k)):
        inside = [box for box in _around(anchors_xy[k], sizes_wh[k], gap) if _holds(bounds, box)]
        free = [box for box in inside if _is_free(box, (*points, *found.values()), gap)]
        clear = (box for box in free if _has_clear_line(k, box, anchors_xy, points, found))
        places = [*itertools.islice(clear, 1), *free, *inside, _pushed_in(anchors_xy[k], sizes_wh[k], bounds)]
        found[k] = places[0]
    return [found[k] for k in range(len(anchors_xy))]


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes share an area."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def leader(anchor_xy: tuple[float, float], box: Box) -> tuple[float, float]:
    """Give the place of a label's box that is nearest to its point."""
    return min(max(anchor_xy[0], box[0]), box[2]), min(max(anchor_xy[1], box[1]), box[3])


def _around(anchor_xy: tuple[float, float], size_wh: tuple[float, float], gap: float) -> list[Box]:
    """List boxes around a point: nearest first, and of those about as near the right one first, the left one last."""
    boxes = []
    for ring, step in itertools.product(range(1, RINGS + 1), range(STEPS)):
        turn = (step + 1) // 2 * (1 if step % 2 else -1) * 2 * math.pi / STEPS
        dx, dy = math.cos(turn), math.sin(turn)
        x = anchor_xy[0] + dx * (size_wh[0] / 2 + ring * gap)
        y = anchor_xy[1] + dy * (size_wh[1] / 2 + ring * gap)
        boxes.append((x - size_wh[0] / 2, y - size_wh[1] / 2, x + size_wh[0] / 2, y + size_wh[1] / 2))
    return sorted(boxes, key=lambda box: round(math.dist(anchor_xy, leader(anchor_xy, box)) / gap))


def _is_free(box: Box, taken: Sequence[Box], gap: float) -> bool:
    wide = box[0] - gap / 2, box[1] - gap / 4, box[2] + gap / 2, box[3] + gap / 4
    return not any(overlap(wide, one) for one in taken)


def _has_clear_line(
    own: int, box: Box, anchors_xy: Sequence[tuple[float, float]], points: Sequence[Box], found: dict[int, Box]
) -> bool:
    """Whether its line meets no other point or label, and the label no other's line."""
    line = _line(anchors_xy[own], box)
    apart = [one for one in points if not _meets(line[:1], one)]  # a line may begin among points that lie together
    if any(_meets(line, one) for one in (*apart, *found.values())):
        return False
    return not any(_meets(_line(anchors_xy[k], one), box) for k, one in found.items())


def _line(anchor_xy: tuple[float, float], box: Box) -> list[tuple[float, float]]:
    """Points along the line from a point to its label."""
    end = leader(anchor_xy, box)
    return [
        (anchor_xy[0] + (end[0] - anchor_xy[0]) * k / 32, anchor_xy[1] + (end[1] - anchor_xy[1]) * k / 32)
        for k in range(33)
    ]


def _meets(line: Sequence[tuple[float, float]], box: Box) -> bool:
    return any(box[0] < x < box[2] and box[1] < y < box[3] for x, y in line)


def _holds(bounds: Box, box: Box) -> bool:
    return bounds[0] <= box[0] and bounds[1] <= box[1] and box[2] <= bounds[2] and box[3] <= bounds[3]


def _pushed_in(anchor_xy: tuple[float, float], size_wh: tuple[float, float], bounds: Box) -> Box:
    x = min(max(anchor_xy[0], bounds[0] + size_wh[0] / 2), bounds[2] - size_wh[0] / 2)
    y = min(max(anchor_xy[1], bounds[1] + size_wh[1] / 2), bounds[3] - size_wh[1] / 2)
    return x - size_wh[0] / 2, y - size_wh[1] / 2, x + size_wh[0] / 2, y + size_wh[1] / 2
