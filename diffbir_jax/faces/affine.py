"""Affine maps of pixel coordinates, and images resampled by them.

A map is a (2, 3) float64 matrix that acts on (x, y, 1). Centres of pixels lie at integers.
"""

import cv2
import numpy as np

from diffbir_jax.console.errors import UserError

# What OpenCV resamples, and what a restorer takes.
DTYPES = (np.uint8, np.uint16, np.float32)
# OpenCV's largest side of a resampled image.
MOST = 32766


def check_image(image: np.ndarray, what: str = "image") -> None:
    """Raise UserError unless `image` is (H, W) or (H, W, 1 to 4), uint8, uint16 or float32, with pixels."""
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype not in DTYPES or image.ndim not in (2, 3) or not 1 <= channels <= 4 or image.size == 0:
        raise UserError(
            f"the {what} is {image.dtype} of shape {image.shape}; give (H, W) or (H, W, 1 to 4) with pixels, uint8, "
            "uint16 or float32"
        )


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The map that applies `inner` first and `outer` then; (2, 3) float64 each."""
    return np.concatenate([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2:] + outer[:, 2:]], axis=1)


def invert(matrix: np.ndarray) -> np.ndarray:
    """The inverse map, (2, 3) float64; UserError if there is none."""
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-12:
        raise UserError(f"the map {matrix.tolist()} has no inverse; give one that keeps areas above 0")
    return cv2.invertAffineTransform(matrix)


def resizing(source: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    """The map of pixels of an image to those of the resized image; sides are (height, width).

    Half a pixel counts: the corner of the first pixel, at (-0.5, -0.5), stays where it is.
    """
    across, down = target[1] / source[1], target[0] / source[0]
    return np.array([[across, 0.0, 0.5 * (across - 1.0)], [0.0, down, 0.5 * (down - 1.0)]])


def shifted(matrix: np.ndarray, left: float, top: float) -> np.ndarray:
    """The map to an image that begins at (left, top) of the former target."""
    return matrix - np.array([[0.0, 0.0, left], [0.0, 0.0, top]])


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) as the map moves them, float64."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def reduction(matrix: np.ndarray) -> float:
    """How many source pixels lie along one target pixel; below 1 for a map that enlarges."""
    return float(abs(np.linalg.det(matrix[:, :2])) ** -0.5)


def corners(height: float, width: float) -> np.ndarray:
    """The outer corners of an image, (4, 2) as (x, y)."""
    right, bottom = width - 0.5, height - 0.5
    return np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])


def smoothed(image: np.ndarray, factor: float) -> np.ndarray:
    """The image without what aliases when it is reduced by `factor`; unchanged for factors up to 1.

    A Gaussian filter whose sigma is 0.4 target pixels: less than that aliases, more blurs.
    """
    if factor <= 1.0:
        return image
    sigma = 0.4 * (factor**2 - 1.0) ** 0.5
    return _same_axes(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), image)


def sampled(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample bilinearly without a filter; beyond its border an image repeats its last pixels.

    Args:
        image: (h, w) or (h, w, C), uint8, uint16 or float32.
        matrix: maps pixels of the image to those of the result.
        size: (H, W) of the result.

    Returns:
        (H, W) or (H, W, C) of the image's dtype.
    """
    found = cv2.warpAffine(image, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return _same_axes(found, image)


def warped(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample bilinearly, filtered where the map reduces; beyond its border an image is reflected.

    Only the part of the image that the result shows is read. Arguments and result as in `sampled`.

    Raises:
        UserError: the map has no inverse, or the result shows more than 32,766 pixels of the image along a side.
    """
    factor = reduction(matrix)
    inverse = invert(matrix)
    reach = moved(inverse, corners(*size))
    margin = 2 + np.ceil(2 * max(factor, 1.0))
    low, high = np.floor(reach.min(0) - margin).astype(int), np.ceil(reach.max(0) + margin).astype(int)
    if max(high - low) >= MOST:
        raise UserError(
            f"the crop shows {high[0] - low[0]}x{high[1] - low[1]} pixels; allowed are {MOST}: reduce the photo first"
        )
    rows, columns = (
        _reflected(np.arange(low[axis], high[axis] + 1), image.shape[1 - axis]) for axis in (1, 0)
    )
    part = np.ascontiguousarray(image[rows[:, None], columns])
    there = matrix.copy()
    there[:, 2] += matrix[:, :2] @ low
    return sampled(smoothed(part, factor), there, size)


def _reflected(index: np.ndarray, length: int) -> np.ndarray:
    """Positions inside 0 to length - 1 that reflection at the border pixels' centres gives for any positions."""
    period = max(2 * (length - 1), 1)
    index = np.abs(index) % period
    return np.minimum(index, np.abs(period - index)) if length > 1 else np.zeros_like(index)


def _same_axes(found: np.ndarray, image: np.ndarray) -> np.ndarray:
    """OpenCV drops a channel axis of length 1; this puts it back."""
    return found[..., None] if found.ndim < image.ndim else found
