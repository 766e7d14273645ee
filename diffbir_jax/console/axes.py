"""Axes of plots."""

import math


def ticks(low: float, high: float) -> list[float]:
    """Return the multiples of 1, 2 or 5 times a power of ten between two numbers, two to seven of them."""
    # At most six intervals, so that labels do not overlap.
    least = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(least))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= least)
    # Rounded, because 3 * 0.1 would print as 0.30000000000000004.
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
