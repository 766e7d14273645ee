"""Fill holes of images with smooth colours."""

import numpy as np

from diffbir_jax.imaging.canvas import resize_float


def fill(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fill unknown pixels from ever coarser means of the known ones (pull-push, Gortler et al. 1996).

    Args:
        image: (H, W, C) float32.
        known: (H, W) bool.

    Returns:
        (H, W, C) float32, with the known pixels unchanged; 0 if none is known.
    """
    if known.all():
        return image
    if min(known.shape) == 1 or not known.any():
        mean = image[known].mean(axis=0) if known.any() else np.zeros(image.shape[2], np.float32)
        return np.where(known[..., None], image, mean).astype(np.float32)
    sums = _halved(np.where(known[..., None], image, 0.0))
    counts = _halved(known[..., None].astype(np.float32))
    coarse = fill((sums / np.maximum(counts, 1.0)).astype(np.float32), counts[..., 0] > 0)
    return np.where(known[..., None], image, resize_float(coarse, known.shape[:2])).astype(np.float32)


def _halved(image: np.ndarray) -> np.ndarray:
    """Sums of 2x2 pixels; at odd borders of fewer."""
    even = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)))
    height, width, channels = even.shape
    return even.reshape(height // 2, 2, width // 2, 2, channels).sum(axis=(1, 3))
