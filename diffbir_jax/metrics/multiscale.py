"""MS-SSIM: structural similarity from fine to coarse."""

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.metrics.fidelity import as_float_pair, similarity_maps

# Weights of the scales, from the finest to the coarsest: their importance to human observers, measured in the paper.
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ms_ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Multi-scale structural similarity (Wang, Simoncelli, Bovik 2003) at five scales; each halves the previous one.

    Windows and constants are those of `ssim`. Contrast and structure count at every scale, the means only at the
    coarsest. Each scale is averaged over its windows; negative averages count as 0. The weighted product is averaged
    over the channels. Equal to `ms_ssim` of the package pytorch-msssim. As there, an odd side gets a row of zeros in
    front before it is halved.

    Args:
        image: (H, W) or (H, W, C), uint8 or float in [0, 1]; both sides above 160 pixels, so that a window fits into
            the coarsest scale.
        reference: ground truth, like `image`.

    Returns:
        A number in [0, 1], 1 for equal images.

    Raises:
        TypeError: neither uint8 nor floating point.
        ValueError: different shapes, or a side of 160 pixels or less.
    """
    a, b = as_float_pair(image, reference)
    if min(a.shape[:2]) <= 160:
        raise UserError(
            f"MS-SSIM needs more than 160 pixels along both sides for its five scales, the image has "
            f"{a.shape[0]}x{a.shape[1]}"
        )
    product: np.ndarray | float = 1.0
    for scale, weight in enumerate(_WEIGHTS):
        if scale > 0:
            a, b = _halve(a), _halve(b)
        luminance, structure = similarity_maps(a, b)
        score = luminance * structure if scale == len(_WEIGHTS) - 1 else structure
        # A negative base has no real power; the package also counts it as 0.
        product = product * np.maximum(score.mean(axis=(0, 1)), 0) ** weight
    return float(np.mean(product))


def _halve(image: np.ndarray) -> np.ndarray:
    """Averages of 2x2 pixels, after a row or column of zeros if a side is odd."""
    padding = [(side % 2, 0) for side in image.shape[:2]] + [(0, 0)] * (image.ndim - 2)
    image = np.pad(image, padding)
    return (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4
