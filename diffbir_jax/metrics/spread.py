"""Differences between several results for one image: stability over seeds."""

from collections.abc import Sequence

import numpy as np

from diffbir_jax.console.errors import UserError


def deviation_map(images: Sequence[np.ndarray]) -> np.ndarray:
    """Standard deviation over the images at each pixel: the root of the mean square over the channels.

    Args:
        images: at least two, (H, W, C) uint8 each.

    Returns:
        (H, W) float32, in levels of 1/255, at most 181. It is the sample's deviation: n images divide by n - 1.

    Raises:
        ValueError: fewer than two images, or shapes that differ.
    """
    # Variances, not deviations, are averaged over channels: the result is the length of the colour's
    # deviation.
    variance = np.var(_stack(images).astype(np.float32), axis=0, ddof=1)
    return np.sqrt(variance.mean(axis=-1))


def local_deviation(images: Sequence[np.ndarray]) -> float:
    """L-STD of CCSR (Sun et al. 2024): the standard deviation of every pixel's channels over the seeds, averaged.

    It is the population's deviation, divided by the number of images, as in the authors' evaluation (`deviation_map`
    divides by one less). The authors leave out 4 pixels along every edge; here the whole image counts.

    Args:
        images: results for one input from at least two seeds, (H, W, C) uint8 each.

    Returns:
        A number from 0, for equal images, to 0.5; the peak is 1.

    Raises:
        ValueError: fewer than two images, or shapes that differ.
    """
    return float(np.std(_stack(images) / 255, axis=0).mean())


def global_deviation(scores: np.ndarray) -> float:
    """G-STD of CCSR (Sun et al. 2024): the standard deviation of a metric over the seeds, averaged over the images.

    It is the population's deviation, divided by the number of seeds, as in the authors' evaluation.

    Args:
        scores: (images, seeds) of one metric, with at least two seeds.

    Returns:
        A number from 0 in the metric's units.

    Raises:
        ValueError: another shape, fewer than two seeds, or scores that are not finite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or scores.shape[0] < 1 or scores.shape[1] < 2:
        raise UserError(f"scores have shape {scores.shape}; (images, seeds) with two or more seeds is needed")
    if not np.isfinite(scores).all():
        raise UserError("scores must be finite; leave out images that have none for some seed")
    return float(scores.std(axis=1).mean())


def _stack(images: Sequence[np.ndarray]) -> np.ndarray:
    """Two or more images of one shape as one array."""
    shapes = {image.shape for image in images}
    if len(images) < 2 or len(shapes) != 1:
        raise UserError(
            f"{len(images)} images of shapes {sorted(shapes)} given; two or more of one shape are needed"
        )
    return np.stack(images)
