"""How much several results for one image differ."""

from collections.abc import Sequence

import numpy as np


def deviation_map(images: Sequence[np.ndarray]) -> np.ndarray:
    """Standard deviation at each pixel, over the images and as the root of the mean square over the channels.

    Args:
        images: at least two, (H, W, C) uint8 each.

    Returns:
        (H, W) float32, in levels of 1/255, at most 181; the sample's (divided by the number of images less one).

    Raises:
        ValueError: fewer than two images, or shapes that differ.
    """
    shapes = {image.shape for image in images}
    if len(images) < 2 or len(shapes) != 1:
        raise ValueError(
            f"{len(images)} images of shapes {sorted(shapes)} given; two or more of one shape are needed"
        )
    variance = np.var(np.stack(images).astype(np.float32), axis=0, ddof=1)
    return np.sqrt(variance.mean(axis=-1))
