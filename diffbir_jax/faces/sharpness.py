"""Whether a face is sharp already, so that restoring it can only change it.

Of a sharp face the finest octave of a crop of 256 pixels has about as much contrast as the next but one: spectra of
photos fall with the frequency, and contrast per octave hardly falls. Blur and enlargement take the finest octave first.
"""

import cv2
import numpy as np

from diffbir_jax.faces.affine import compose, reduction, resizing, warped
from diffbir_jax.faces.align import SIDE
from diffbir_jax.faces.find import as_bytes

# The crop that is looked at, and the face in it.
SEEN = 256
FACE = np.s_[70:214, 56:200]
# Contrast of the finest octave divided by that of the next but one. Portraits have 0.51 to 0.78, blurred by two pixels
# 0.30 to 0.39 (docs/faces.md).
SHARP = 0.48
# More noise than this, in levels of 255, is to be removed. Clean portraits have up to 3.0, those
# with noise of 15 levels 4.8 and more.
NOISE = 4.5
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def is_sharp(photo: np.ndarray, matrix: np.ndarray) -> bool:
    """Whether a face shows detail at 256 pixels, and little noise.

    Args:
        photo: (H, W) or (H, W, C), uint8, uint16 or float32 in [0, 1].
        matrix: (2, 3), from the photo to a crop of 512 pixels.
    """
    pixels = as_bytes(photo)
    if reduction(matrix) < SEEN / SIDE:  # fewer pixels than are looked at
        return False
    small = compose(resizing((SIDE, SIDE), (SEEN, SEEN)), matrix)
    seen = warped(pixels, small, (SEEN, SEEN)).astype(np.float32) @ LUMA
    return _detail(seen[FACE]) >= SHARP and _noise(pixels, matrix) <= NOISE


def _detail(luma: np.ndarray) -> float:
    """The contrast of the finest octave without noise, divided by that of the next but one."""
    fine = luma - cv2.GaussianBlur(luma, (0, 0), 1.0)
    coarse = cv2.GaussianBlur(luma, (0, 0), 2.0) - cv2.GaussianBlur(luma, (0, 0), 4.0)
    # The filter leaves about three quarters of the variance of white noise.
    clean = max(float(fine.var()) - 0.75 * noise_of(luma) ** 2, 0.0)
    return (clean / max(float(coarse.var()), 1e-6)) ** 0.5


def _noise(pixels: np.ndarray, matrix: np.ndarray) -> float:
    """The noise of the face at the photo's own resolution."""
    side = max(SEEN, min(round(SIDE * reduction(matrix)), 4 * SIDE))
    own = warped(pixels, compose(resizing((SIDE, SIDE), (side, side)), matrix), (side, side))
    low, high = (round(side * edge / SEEN) for edge in (70, 200))
    return noise_of(own[low:high, low:high].astype(np.float32) @ LUMA)


def noise_of(luma: np.ndarray) -> float:
    """The standard deviation of white noise, by the median of differences along diagonals: edges hardly count."""
    part = luma[: luma.shape[0] // 2 * 2, : luma.shape[1] // 2 * 2]
    crossed = part[::2, ::2] - part[1::2, ::2] - part[::2, 1::2] + part[1::2, 1::2]
    return float(np.median(np.abs(crossed)) / (2 * 0.6745))
