"""The spread of a metric over images, drawn as SVG: a strip of dots per method with its mean and interval."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

import numpy as np

from diffbir_jax.console.axes import ticks
from diffbir_jax.evaluation.report.sheet import Sheet

# Width of the drawing; at this width its units are CSS pixels.
WIDTH = 360
ROW, LABEL, AXIS = 60, 18, 22
MARGIN = 4
DOT = 5.0  # diameter
_HALF = (ROW - LABEL) / 2 - 7

# A number, or an array of numbers.
Value = TypeVar("Value", float, np.ndarray)


@dataclass(frozen=True)
class _Scale:
    """The axis from `low` to `high`, across the drawing."""

    low: float
    high: float

    def at(self, value: Value) -> Value:
        """Positions of values: a number or an array."""
        return MARGIN + (value - self.low) * (WIDTH - 2 * MARGIN) / (self.high - self.low)


def strip_plot(sheet: Sheet, metric: str, cases: Sequence[int]) -> str:
    """Draw the scores of every image by one metric.

    Overlapping dots are stacked, as in a dot plot (Wilkinson 1999). Dots of `cases` link to "#image-PLACE" and have a
    name. The others form one path, so thousands of them take little space.

    Args:
        sheet: its methods are the rows.
        metric: a key of `sheet.scores`.
        cases: indices of images that the page shows.

    Returns:
        An <svg> element. Its colours are classes of the page: dot, rest, mean, interval, grid, label, value, tick.
    """
    scale = _scale(sheet, metric)
    height = ROW * len(sheet.methods) + AXIS
    described = ", ".join(
        f"{name} {sheet.text(metric, mean)}" for name, mean in zip(sheet.methods, sheet.means(metric))
    )
    parts = [_axis(scale, height - AXIS)]
    for row in range(len(sheet.methods)):
        parts.append(f'<g transform="translate(0 {row * ROW})">')
        parts += [_summary(sheet, metric, row, scale), _dots(sheet, metric, row, scale, set(cases)), "</g>"]
    label = escape(f"{sheet.columns[metric].title} by image; means: {described}")
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def stacked(places: np.ndarray, half: float) -> np.ndarray:
    """Return vertical moves of dots, so that dots within one dot's width lie beside each other.

    Args:
        places: (N,) horizontal positions.
        half: the largest move; if a stack needs more, all dots of the strip move closer.

    Returns:
        (N,) moves: 0, 1, -1, 2, -2, ... times a common distance, which is at most a dot's width.
    """
    bins = np.floor(places / DOT).astype(int).tolist()
    seen: Counter[int] = Counter()
    rank = np.zeros(len(bins), int)
    for i, place in enumerate(bins):
        rank[i] = seen[place]
        seen[place] += 1
    distance = min(DOT, half / max(1, max(seen.values(), default=0) // 2))
    return distance * ((rank + 1) // 2) * np.where(rank % 2, 1, -1)


def _scale(sheet: Sheet, metric: str) -> _Scale:
    """Return an axis a little wider than scores and intervals."""
    ends = [end for result in sheet.results if (s := result.summary.get(metric)) for end in (s.low, s.high)]
    known = np.append(sheet.scores[metric].ravel(), [end for end in ends if end is not None])
    low, high = float(np.nanmin(known)), float(np.nanmax(known))
    # If all scores are equal, the axis still needs a width.
    margin = 0.03 * (high - low) or 0.05 * max(abs(low), 1e-3)
    return _Scale(low - margin, high + margin)


def _axis(scale: _Scale, bottom: float) -> str:
    parts = []
    for tick in ticks(scale.low, scale.high):
        x = scale.at(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {LABEL}V{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{tick:g}</text>')
    return "".join(parts)


def _summary(sheet: Sheet, metric: str, row: int, scale: _Scale) -> str:
    """Draw a row's name, its mean as text and as a line, and the interval as a band."""
    name = sheet.methods[row]
    short = name if len(name) <= 42 else name[:41] + "…"
    parts = [f'<text class="label" x="{MARGIN}" y="13">{escape(short)}</text>']
    summary = sheet.results[row].summary.get(metric)
    if summary is None or not np.isfinite(sheet.means(metric)[row]):
        return (
            "".join(parts)
            + f'<text class="value" x="{WIDTH - MARGIN}" y="13" text-anchor="end">no score</text>'
        )
    value = sheet.text(metric, summary.mean)
    parts.append(f'<text class="value" x="{WIDTH - MARGIN}" y="13" text-anchor="end">{value}</text>')
    if summary.low is not None and summary.high is not None:
        left, right = scale.at(summary.low), scale.at(summary.high)
        parts.append(
            f'<rect class="interval" x="{left:.1f}" y="{LABEL + 3}" width="{max(right - left, 1):.1f}"'
            f' height="{ROW - LABEL - 6}"/>'
        )
    x = scale.at(summary.mean)
    return "".join(parts) + f'<path class="mean" d="M{x:.1f} {LABEL + 3}v{ROW - LABEL - 6}"/>'


def _dots(sheet: Sheet, metric: str, row: int, scale: _Scale, cases: set[int]) -> str:
    scores = sheet.scores[metric][row]
    known = np.flatnonzero(np.isfinite(scores))
    x = scale.at(scores[known])
    y = LABEL + (ROW - LABEL) / 2 + stacked(x, _HALF)
    parts, rest = [], {}
    for place, across, down in zip(known.tolist(), x, y):
        if place in cases:
            label = escape(f"{sheet.images[place]}: {sheet.text(metric, scores[place])}")
            parts.append(
                f'<a href="#image-{place}" tabindex="-1"><circle class="dot" data-image="{place}" cx="{across:.1f}"'
                f' cy="{down:.1f}" r="{DOT / 2}"><title>{label}</title></circle></a>'
            )
        else:
            # A dict drops dots on the same pixel and keeps the order.
            rest[f"M{across:.0f} {down:.0f}h0"] = None
    path = f'<path class="rest" d="{"".join(rest)}"/>' if rest else ""
    return path + "".join(parts)
