"""Words beside points: where there is room, and none where there is not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from preflab.eval.report.style import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST = 24
POINT = 4.0  # half the size of a marker, points
INSIDE = 0.86, 0.84  # about what part of a figure its axes take

Box = tuple[float, float, float, float]


class Label(NamedTuple):
    """A text beside a point.

    Attributes:
        x: of the point.
        y: of the point.
        text: what to write.
        strong: whether it is written in ink and in full size; else small and pale, and only where there is room.
    """

    x: float
    y: float
    text: str
    strong: bool = False


def place(
    axes: Axes, labels: Sequence[Label], size: tuple[float, float], lines: Sequence[Sequence[tuple[float, float]]] = ()
) -> None:
    """Write labels beside their points so that none lies on another, a point or a line; the first ones choose first.

    Args:
        axes: drawn upon already, so that its limits are known.
        labels: a point each.
        size: of the figure, inches.
        lines: what is drawn, point by point.
    """
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.set(xlim=(left, right), ylim=(bottom, top))
    wide, high = (72 * inches * inside for inches, inside in zip(size, INSIDE, strict=True))

    def spot(x: float, y: float) -> tuple[float, float]:
        return (x - left) / (right - left) * wide, (y - bottom) / (top - bottom) * high

    spots = [spot(label.x, label.y) for label in labels]
    taken: list[Box] = [(x - POINT, y - POINT, x + POINT, y + POINT) for x, y in spots]
    for line in lines:
        taken += [(x, y, x, y) for x, y in _along([spot(*at) for at in line])]
    for label, (x, y) in zip(labels, spots, strict=True):
        text = label.text if len(label.text) <= LONGEST else label.text[: LONGEST - 1] + "…"
        points = 9.0 if label.strong else 7.0
        width, ways = 0.6 * points * len(text), _ways(points)
        for dx, dy, align in ways:
            begin = x + dx - {"left": 0.0, "center": width / 2, "right": width}[align]
            box = begin, y + dy, begin + width, y + dy + points
            inside = box[0] >= 0 and box[2] <= wide and box[1] >= 0 and box[3] <= high
            if inside and not any(_overlap(box, other) for other in taken):
                break
        else:
            if not label.strong:
                continue
            dx, dy, align = ways[0]
            box = x, y, x, y
        taken.append(box)
        axes.annotate(
            text,
            (label.x, label.y),
            xytext=(dx, dy),
            textcoords="offset points",
            ha=align,
            fontsize=points,
            color=LIGHT["ink" if label.strong else "muted"],
            zorder=4,
        )


def _along(line: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Yield points of a line, no farther apart than a letter is wide."""
    for (x, y), (u, v) in itertools.pairwise(line):
        steps = 1 + int(math.hypot(u - x, v - y) / POINT)
        yield from ((x + (u - x) * i / steps, y + (v - y) * i / steps) for i in range(steps + 1))


def _ways(points: float) -> list[tuple[float, float, Literal["left", "center", "right"]]]:
    """Return where a text may stand about its point, the best place first: right, left, above, below."""
    return [
        (7.0, -0.4 * points, "left"),
        (-7.0, -0.4 * points, "right"),
        (0.0, 6.0, "center"),
        (0.0, -6.0 - points, "center"),
        (6.0, 5.0, "left"),
        (6.0, -5.0 - points, "left"),
        (-6.0, 5.0, "right"),
        (-6.0, -5.0 - points, "right"),
    ]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
