"""Means over images, with their intervals."""

import math
from collections.abc import Iterable

import numpy as np

from diffbir_jax.evaluation.result import Summary

RESAMPLES = 10_000
SEED = 0
# Most numbers drawn at once: 80 MB of indices.
_BLOCK = 10_000_000


def resampled_means(values: np.ndarray) -> np.ndarray:
    """Means of resamples of (N,) values with replacement, N values each: (10_000,) float64.

    The draws depend only on N, so different scores of the same images use the same resamples.
    """
    # A fixed seed: the same scores give the same interval, byte for byte.
    rng = np.random.default_rng(SEED)
    rows = max(1, min(RESAMPLES, _BLOCK // len(values)))
    blocks = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    return np.concatenate(
        [values[rng.integers(len(values), size=(n, len(values)))].mean(axis=1) for n in blocks]
    )


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % percentile bootstrap interval (Efron 1979) of the mean of (N,) values; None below two values."""
    if len(values) < 2:
        return None
    low, high = np.percentile(resampled_means(values), (2.5, 97.5))
    return float(low), float(high)


def summarise(scores: Iterable[float | None]) -> Summary | None:
    """Return the mean of the scores that are finite numbers, with its interval; None if there is none."""
    values = np.array([score for score in scores if score is not None and math.isfinite(score)], np.float64)
    if not len(values):
        return None
    low, high = interval(values) or (None, None)
    return Summary(float(values.mean()), low, high, len(values))
