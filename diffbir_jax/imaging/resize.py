"""Resizing that agrees with PyTorch's `interpolate`, as one small matrix per axis.

Pixel centres lie at half-integers (align_corners=False).
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffbir_jax.console.errors import UserError

Method = Literal["bicubic_antialias", "bicubic", "bilinear", "area"]


def resize(image: Array, size: tuple[int, int], method: Method = "bicubic_antialias") -> Array:
    """Resize images.

    Args:
        image: (..., H, W, C), floating point.
        size: (height, width) of the result.
        method: 'bicubic_antialias' widens the kernel when shrinking; 'bicubic' and 'bilinear' do not;
            'area' averages the input pixels that an output pixel touches.

    Returns:
        (..., height, width, C) of the input's dtype. Bicubic results can leave the input's range a
        little.

    Raises:
        ValueError: unknown method, or a size below 1.
    """
    if method not in get_args(Method):
        raise ValueError(f"resize method is {method!r}; use one of {get_args(Method)}")
    if min(size) < 1:
        raise UserError(f"cannot resize to {size[0]}x{size[1]}; both sides must be at least 1")
    if image.shape[-3:-1] == tuple(size):
        return image
    rows = jnp.asarray(resize_matrix(image.shape[-3], size[0], method), image.dtype)
    columns = jnp.asarray(resize_matrix(image.shape[-2], size[1], method), image.dtype)
    # Reduced-precision products, the default on accelerators, would show as banding.
    exact = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    return exact("wv,...hvc->...hwc", columns, exact("hg,...gwc->...hwc", rows, image))


def at_least(size: tuple[int, ...], side: int) -> tuple[int, int]:
    """Return (height, width) enlarged so that the shorter side is at least `side`; the other side is rounded down."""
    height, width = size
    short = min(height, width)
    return (height, width) if short >= side else (height * side // short, width * side // short)


@functools.lru_cache(maxsize=64)
def resize_matrix(source: int, target: int, method: Method) -> np.ndarray:
    """Weights of resizing one axis.

    Args:
        source: length of the axis before.
        target: length after.
        method: as in `resize`.

    Returns:
        (target, source) float64; every row sums to 1.
    """
    scale = source / target
    if method == "area":
        start = np.floor(np.arange(target) * scale)
        stop = np.ceil(np.arange(1, target + 1) * scale)
        index = np.arange(source)
        inside = (index >= start[:, None]) & (index < stop[:, None])
        return inside / inside.sum(axis=1, keepdims=True)
    if method == "bicubic_antialias":
        centre = (np.arange(target) + 0.5) * scale - 0.5
        # Keys' kernel with a = -0.5, stretched over the input pixels it must average; cut off and
        # renormalised at the borders.
        distance = (np.arange(source) - centre[:, None]) / max(scale, 1.0)
        weights = _cubic(distance, -0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    weights = np.zeros((target, source))
    index, values = taps(source, target, method, scale)
    np.add.at(weights, (np.arange(target)[:, None], index), values)
    return weights


def taps(
    source: int, target: int, method: Literal["bicubic", "bilinear"], scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that resizing without antialiasing reads along an axis, and their weights.

    Args:
        source: length of the axis before.
        target: length after.
        method: as in `resize`.
        scale: pixels before per pixel after; source / target, or the inverse of a given factor.

    Returns:
        (target, taps) int, pixels outside the image replaced by the border pixel; (target, taps) float64.
    """
    centre = (np.arange(target) + 0.5) * scale - 0.5
    # The nearest four (two) pixels.
    reach = 2 if method == "bicubic" else 1
    index = np.floor(centre).astype(int)[:, None] + np.arange(1 - reach, 1 + reach)
    distance = index - centre[:, None]
    values = _cubic(distance, -0.75) if method == "bicubic" else np.maximum(1 - np.abs(distance), 0)
    return np.clip(index, 0, source - 1), values


def resample(
    image: np.ndarray, size: tuple[int, int], method: Literal["bicubic", "bilinear"], factor: float
) -> np.ndarray:
    """`resize` on the host, by a factor that need not lead to whole pixels; nothing is compiled.

    Args:
        image: (h, w, C) float32.
        size: (H, W) of the result, about `factor` times as large.
        method: as in `resize`; as in PyTorch, positions come from the factor and not from the sizes.
        factor: above 0.

    Returns:
        (H, W, C) float32; bicubic results can leave the input's range a little.
    """
    for axis, length in enumerate(size):
        index, weights = taps(image.shape[axis], length, method, 1.0 / factor)
        along = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        # Tap by tap: all at once would hold several copies of the image.
        parts = (
            np.take(image, index[:, k], axis) * weights[:, k].astype(np.float32).reshape(along)
            for k in range(index.shape[1])
        )
        image = np.asarray(sum(parts))
    return image


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Cubic convolution kernel (Keys 1981)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
