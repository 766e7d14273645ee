"""Operations that degrade an image, with given parameters: filters, resizing, noise and codecs.

Images are (H, W, 3) float32 RGB in [0, 1] on the host. No operation modifies its input. Filters and resizing give the
same values for any number of OpenCV threads.
"""

from functools import lru_cache

import cv2
import numpy as np
from scipy import sparse

from diffbir_jax.data.example import DataError
from diffbir_jax.data.poisson import poisson_deviation
from diffbir_jax.imaging.bytes import to_depth

# Weights of the luma of gray noise: ITU-R BT.601, rounded as in Real-ESRGAN.
LUMA = np.array([0.2989, 0.587, 0.114], np.float32)
_INTERPOLATIONS = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
MODES = ("area", *_INTERPOLATIONS)
_NOTHING = 1e-9  # a filter weight below this does not change a float32 result


def as_float(image: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8, or float32 in [0, 1], as float32 in [0, 1]; floats are not copied.

    Raises:
        DataError: another shape or dtype.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype not in (np.uint8, np.float32):
        raise DataError(
            f"an image is {image.dtype} of shape {image.shape}; give (H, W, 3) RGB, uint8 or float32 in [0, 1]"
        )
    return image if image.dtype == np.float32 else image / np.float32(255)


def quantise(image: np.ndarray) -> np.ndarray:
    """Clip to [0, 1] and round to 256 levels, like an 8-bit file."""
    return as_float(to_depth(image, np.uint8))


def filter2d(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlate every channel with an odd (k, k) kernel; the border is mirrored about its outermost pixels.

    A separable kernel is applied as a column and a row. Outer rings of negligible weight are cut off.
    """
    kernel = _trimmed(kernel)
    rows, columns, total = kernel.sum(1), kernel.sum(0), kernel.sum()
    separable = np.abs(np.outer(rows, columns) - total * kernel).max() <= _NOTHING * total**2
    if separable and total > 0:
        return cv2.sepFilter2D(image, -1, columns, rows / total, borderType=cv2.BORDER_REFLECT_101)
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def sharpen(image: np.ndarray, weight: float = 0.5, radius: int = 50, threshold: float = 10.0) -> np.ndarray:
    """Unsharp masking of edges only, as Real-ESRGAN (Wang et al., 2021) sharpens its targets.

    The difference from a blurred image is added and clipped. A smooth mask limits it to places with large differences.

    Args:
        image: the image to sharpen.
        weight: factor on the difference.
        radius: side of the Gaussian (pixels; even numbers become the next odd one). OpenCV derives its deviation.
        threshold: differences above this are large (8-bit levels).
    """
    # In place where possible: for 512x512 crops, memory traffic costs more than arithmetic.
    kernel = cv2.getGaussianKernel(radius | 1, 0, cv2.CV_32F)
    blurred = _smooth(image, kernel)
    _, large = cv2.threshold(cv2.absdiff(image, blurred), threshold / 255, 1, cv2.THRESH_BINARY)
    change = cv2.addWeighted(image, 1 + weight, blurred, -weight, 0, dst=blurred)
    np.clip(change, 0, 1, out=change)
    change -= image
    change *= _smooth(large, kernel)
    change += image
    return change


def resize(image: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    """Resize to `size` = (H, W) as PyTorch's `interpolate` does with `align_corners=False`, without antialiasing.

    Args:
        image: (h, w, 3) float32.
        size: (H, W), each at least 1.
        mode: "area" averages the pixels that a new pixel touches; "bilinear"; "bicubic" has the parameter -0.75, and
            its results may leave [0, 1].
    """
    if image.shape[:2] == tuple(size):
        return image
    if mode == "area":
        # Area averaging is separable: rows first, then the columns as rows of the transposed image.
        halfway = cv2.transpose(_averaged(image, size[0]))
        return cv2.transpose(_averaged(halfway, size[1]))
    return cv2.resize(image, (size[1], size[0]), interpolation=_INTERPOLATIONS[mode])


def gaussian_noise(
    image: np.ndarray, rng: np.random.Generator, sigma: float, gray: bool = False
) -> np.ndarray:
    """Add Gaussian noise, equal in the three channels if `gray`, and clip.

    Args:
        image: the image.
        rng: the random generator.
        sigma: standard deviation (8-bit levels).
        gray: whether all channels get the same noise.
    """
    noise = rng.standard_normal((*image.shape[:2], 1 if gray else 3), dtype=np.float32)
    return _added(image, noise, sigma / 255)


def poisson_noise(
    image: np.ndarray, rng: np.random.Generator, scale: float, gray: bool = False
) -> np.ndarray:
    """Add the deviation of a Poisson variable from its mean, and clip. The noise grows with the brightness.

    As in Real-ESRGAN (Wang et al., 2021), the image is rounded to 8 bits. The count of white is the number of distinct
    values, rounded up to a power of two.

    Args:
        image: the image.
        rng: the random generator.
        scale: factor of the noise.
        gray: whether all channels get the same noise, that of the luma.
    """
    # Noise of the luma alone needs one channel, and `_added` broadcasts it.
    levels = to_depth((image @ LUMA)[..., None] if gray else image, np.uint8)
    distinct = np.count_nonzero(np.bincount(levels.ravel(), minlength=256))
    white = 1 << (int(distinct) - 1).bit_length()
    return _added(image, poisson_deviation(levels, white, rng), scale / white)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Clip, round to 8 bits, encode and decode with the JPEG codec at `quality` (1..100)."""
    bgr = cv2.cvtColor(to_depth(image, np.uint8), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return as_float(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)))


def webp(image: np.ndarray, quality: int) -> np.ndarray:
    """Clip, round to 8 bits, encode and decode with the lossy WebP codec at `quality` (1..100)."""
    bgr = cv2.cvtColor(to_depth(image, np.uint8), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return as_float(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)))


def grain(image: np.ndarray, rng: np.random.Generator, sigma: float, size: float) -> np.ndarray:
    """Add the grain of a scanned film, equal in the three channels, and clip.

    Args:
        image: the image.
        rng: the random generator.
        sigma: standard deviation (8-bit levels).
        size: standard deviation of the Gaussian that smooths the noise (pixels, above 0).
    """
    noise = cv2.GaussianBlur(rng.standard_normal(image.shape[:2], dtype=np.float32), (0, 0), size)
    # Smoothing lowers the deviation, so it is normalised again.
    return _added(image, noise[..., None] / max(float(noise.std()), 1e-6), sigma / 255)


def unsharp(image: np.ndarray, amount: float, radius: float) -> np.ndarray:
    """Unsharp masking, clipped: image + amount (image - its Gaussian average of `radius` pixels)."""
    blurred = cv2.GaussianBlur(image, (0, 0), radius)
    return np.clip(image + np.float32(amount) * (image - blurred), 0, 1)


def _smooth(image: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Filter by a symmetric (k, 1) kernel and its transpose; faster than `sepFilter2D` for long kernels."""
    halfway = cv2.filter2D(image, -1, column)
    return cv2.filter2D(halfway, -1, column.T, dst=halfway)


def _trimmed(kernel: np.ndarray) -> np.ndarray:
    """Cut off the outer rings of negligible weight."""
    weights = np.abs(kernel)
    lines = weights.sum(0) + weights.sum(1)
    outside = (lines + lines[::-1])[: len(kernel) // 2].cumsum()
    ring = int(outside.searchsorted(_NOTHING, "right"))
    return kernel[ring : len(kernel) - ring, ring : len(kernel) - ring]


def _added(image: np.ndarray, noise: np.ndarray, scale: float) -> np.ndarray:
    """Return image + scale * noise, clipped; the noise array is overwritten."""
    noise *= np.float32(scale)
    out = image + noise
    return np.clip(out, 0, 1, out=out)


def _averaged(image: np.ndarray, size: int) -> np.ndarray:
    """Adaptive average pooling of (h, w, 3) along the first axis to (size, w, 3)."""
    rows = image.reshape(len(image), -1)
    return (_averages(len(image), size) @ rows).reshape(size, *image.shape[1:])


@lru_cache(2048)  # making one takes longer than averaging a crop of 80 pixels
def _averages(height: int, size: int) -> sparse.csr_array:
    """The (size, height) matrix of adaptive average pooling."""
    rows = np.arange(size)
    first, end = rows * height // size, -(-(rows + 1) * height // size)
    counts = end - first
    starts = np.concatenate([[0], counts.cumsum()])
    indices = np.arange(starts[-1]) + np.repeat(first - starts[:-1], counts)
    weights = np.repeat((1 / counts).astype(np.float32), counts)
    return sparse.csr_array((weights, indices, starts), (size, height))
