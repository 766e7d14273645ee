"""Poisson noise by Walker's alias method: tables for 256 means are made once, and a draw needs one random number.

A. J. Walker (1977), "An Efficient Method for Generating Discrete Random Variables with General Distributions". NumPy's
Poisson generator takes six times as long for a crop of 80x80 pixels.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln, xlogy

LEVELS = 256
# A level draws one of COUNTS counts (a power of two), starting BELOW under the mean. All other counts together have a
# probability below 1e-11.
COUNTS, BELOW = 256, 112
_FRACTION = 24  # bits of a draw that are compared with a share; 8 more choose a count


class Tables(NamedTuple):
    """The tables of 256 levels: a draw picks a count uniformly, then returns it or its alias.

    Attributes:
        share: (256 * 256,) uint32, probability of the count itself, in units of 2^-24.
        noise: (2 * 256 * 256,) float32, counts minus the mean, then aliases minus the mean.
    """

    share: np.ndarray
    noise: np.ndarray


def poisson_deviation(levels: np.ndarray, white: int, rng: np.random.Generator) -> np.ndarray:
    """Draw Poisson counts minus their means.

    Args:
        levels: uint8 of any shape; the mean of a level is `level / 255 * white`.
        white: the count of level 255 (1..256).
        rng: the random generator.

    Returns:
        float32 of that shape. Probabilities are exact to 2^-32.
    """
    tables = make_tables(white)
    # One 64-bit number serves two pixels; its parts choose the count and compare with the share.
    bits = rng.integers(0, 2**64, (levels.size + 1) // 2, np.uint64).view(np.uint32)[: levels.size]
    place = levels.ravel().astype(np.uint32) * COUNTS + (bits & (COUNTS - 1))
    aliased = bits >> (32 - _FRACTION) >= tables.share.take(place)
    return tables.noise.take(place + aliased * np.uint32(LEVELS * COUNTS)).reshape(levels.shape)


@lru_cache(16)
def make_tables(white: int) -> Tables:
    """Return the tables in which level 255 has a mean of `white` counts (1..256)."""
    mean = np.arange(LEVELS)[:, None] * (white / 255)
    counts = np.maximum(np.ceil(mean) - BELOW, 0) + np.arange(COUNTS)
    share, alias = aliases(np.exp(xlogy(counts, mean) - mean - gammaln(counts + 1)))
    noise = np.stack([counts - mean, np.take_along_axis(counts, alias, 1) - mean])
    return Tables(np.rint(share * 2**_FRACTION).astype(np.uint32).ravel(), noise.astype(np.float32).ravel())


def aliases(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return share and alias of each of k outcomes. In k rounds, the richest outcome fills up the poorest one.

    Args:
        probabilities: (n, k), each row proportional to the probabilities of the k outcomes.

    Returns:
        The share of its own place that an outcome keeps, in [0, 1], and the outcome that gets the rest; both (n, k).
    """
    left = probabilities / probabilities.mean(1, keepdims=True)
    share, alias = np.ones_like(left), np.zeros(left.shape, np.intp)
    row = np.arange(len(left))
    for _ in range(left.shape[1]):
        poor, rich = left.argmin(1), np.where(np.isinf(left), -1, left).argmax(1)
        share[row, poor], alias[row, poor] = left[row, poor].clip(0, 1), rich
        left[row, rich] -= 1 - share[row, poor]
        left[row, poor] = np.inf
    return share, alias
