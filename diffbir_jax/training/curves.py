"""Curves of a run as SVG, of bounded length: a curve of any number of points keeps at most `MOST`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

from diffbir_jax.console.axes import ticks

MOST = 600
# Size of a plot and of its margins, in CSS pixels. Labels of the vertical axis lie in the left one.
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 220, 62, 24, 8
# Positive values whose largest is this many times the smallest get a logarithmic axis.
WIDE = 50


class Point(NamedTuple):
    """Values of neighbouring steps: the last step, their number, sum, least and largest."""

    step: int
    count: int
    total: float
    low: float
    high: float

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return self.total / self.count


def _joined(first: Point, second: Point) -> Point:
    count, total = first.count + second.count, first.total + second.total
    return Point(second.step, count, total, min(first.low, second.low), max(first.high, second.high))


@dataclass
class Curve:
    """A metric over steps.

    Attributes:
        points: values, or groups of as many values each; only the last may hold fewer.
        missing: how many values were not finite; they are left out.
    """

    points: list[Point] = field(default_factory=list)
    missing: int = 0
    _group: int = 1

    def add(self, step: int, value: float | None) -> None:
        """Add a value of a later step."""
        if value is None or not math.isfinite(value):
            self.missing += 1
            return
        point = Point(step, 1, value, value, value)
        if self.points and self.points[-1].count < self._group:
            self.points[-1] = _joined(self.points[-1], point)
        else:
            self.points.append(point)
        if len(self.points) > MOST:
            pairs = zip(self.points[::2], [*self.points[1::2], None])
            self.points = [_joined(one, two) if two else one for one, two in pairs]
            self._group *= 2


class _Axis(NamedTuple):
    """From values to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        share = (self._bent(value) - self._bent(self.low)) / (self._bent(self.high) - self._bent(self.low))
        return self.start + (self.end - self.start) * share

    def _bent(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def marks(self) -> list[float]:
        if not self.log:
            return ticks(self.low, self.high)
        powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
        return [10.0**power for power in powers]


def plot(name: str, curves: Mapping[str, Curve], last: int) -> str:
    """Draw the curves of one metric, such as of training and of validation.

    Args:
        name: of the metric.
        curves: by the name of their group; at least one has a point.
        last: the last step of the run, where the axis ends.

    Returns:
        SVG, described for who does not see it.
    """
    drawn = {group: curve for group, curve in curves.items() if curve.points}
    across = _Axis(0, max(last, 1), LEFT, WIDTH - 4)
    up = _vertical([point for curve in drawn.values() for point in curve.points])
    told = "; ".join(f"{group} {curve.points[-1].mean:.4g}" for group, curve in drawn.items())
    label = escape(f"{name} over {last} steps, now: {told}")
    lines = "".join(_line(group, curve.points, across, up) for group, curve in drawn.items())
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{_grid(across, up)}{lines}</svg>'


def kind_of(group: str) -> str:
    """Return the name of a group's colour: training has the first, whatever else there is the second."""
    return "first" if group == "train" else "second"


def _vertical(points: Sequence[Point]) -> _Axis:
    low, high = min(point.low for point in points), max(point.high for point in points)
    ends = HEIGHT - BOTTOM, TOP
    if low > 0 and high > WIDE * low:
        return _Axis(low / 1.1, high * 1.1, *ends, log=True)
    # Equal values, too, need an axis with a length.
    margin = 0.04 * (high - low) or 0.05 * max(abs(low), 1e-3)
    return _Axis(low - margin, high + margin, *ends)


def _grid(across: _Axis, up: _Axis) -> str:
    parts = []
    for mark in up.marks():
        y = up.at(mark)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - 4}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{mark:g}</text>')
    for mark in across.marks():
        # The last label would leave the plot if it stood in the middle below its mark.
        place = "end" if across.at(mark) > WIDTH - 30 else "middle"
        parts.append(
            f'<text x="{across.at(mark):.1f}" y="{HEIGHT - 6}" text-anchor="{place}">{mark:.15g}</text>'
        )
    return "".join(parts)


def _line(group: str, points: Sequence[Point], across: _Axis, up: _Axis) -> str:
    """Draw a curve: the means as a line, and a band from the least to the largest values."""
    kind = kind_of(group)

    def path(height: Callable[[Point], float], order: Sequence[Point]) -> list[str]:
        return [f"{across.at(point.step):.1f} {up.at(height(point)):.1f}" for point in order]

    line = "L".join(path(lambda point: point.mean, points))
    parts = []
    if any(point.count > 1 for point in points):
        sides = path(lambda point: point.high, points) + path(lambda point: point.low, points[::-1])
        parts.append(f'<path class="band {kind}" d="M{"L".join(sides)}Z"/>')
    parts.append(f'<path class="line {kind}" d="M{line}"/>')
    if kind == "second" or len(points) == 1:
        # Few points far apart: dots show where they are.
        parts += (f'<path class="dot {kind}" d="M{place}h0"/>' for place in line.split("L"))
    return "".join(parts)
