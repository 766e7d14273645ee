"""Colour correction: take low frequencies, or mean and contrast, of a result from an image with trusted colours."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def low_frequencies(image: Array, levels: int = 5) -> Array:
    """Low-pass of the a-trous wavelet transform: [1, 2, 1] / 4 averages whose taps lie 1, 2, 4, ...
    pixels apart.

    Args:
        image: (..., H, W, C), floating point; borders are repeated outwards.
        levels: number of averages; after five, structure larger than about 32 pixels remains.

    Returns:
        The low frequencies, shape of `image`; the high ones are the image minus these.
    """
    for level in range(levels):
        for axis in (-3, -2):
            image = _average(image, 2**level, axis)
    return image


def wavelet_colour(content: Array, style: Array, levels: int = 5) -> Array:
    """The high frequencies of `content` on the low frequencies of `style`.

    Args:
        content: (..., H, W, C), the image to correct.
        style: the same shape, the image with the right colours.
        levels: see `low_frequencies`.

    Returns:
        The corrected image, of content's shape; values may slightly leave the range of both.

    Raises:
        ValueError: different shapes.
    """
    if content.shape != style.shape:
        raise ValueError(f"content {content.shape} and style {style.shape} must have one shape")
    # content - low(content) + low(style), with one low-pass instead of two: it is linear.
    return content + low_frequencies(style - content, levels)


def host_wavelet_colour(content: np.ndarray, style: np.ndarray, levels: int = 5) -> np.ndarray:
    """`wavelet_colour` on the host, for whole images of any size: nothing is compiled. (H, W, C) float32 each."""
    low = style - content
    for level in range(levels):
        for axis in (0, 1):
            low = _host_average(low, 2**level, axis)
    return content + low


def adain_colour(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """`content` with the mean and the standard deviation of `style` in every channel (Huang and Belongie 2017).

    Args:
        content, style: (..., H, W, C) float32; at least two pixels.

    Returns:
        content's shape; values may leave the range of both. 1e-5 is added to variances.
    """
    pixels = (-3, -2)
    means, deviations = zip(
        *(
            (
                x.mean(pixels, np.float64, keepdims=True),
                np.sqrt(x.var(pixels, np.float64, keepdims=True, ddof=1) + 1e-5),
            )
            for x in (content, style)
        )
    )
    scale = (deviations[1] / deviations[0]).astype(np.float32)
    return (content - means[0].astype(np.float32)) * scale + means[1].astype(np.float32)


def _host_average(image: np.ndarray, step: int, axis: int) -> np.ndarray:
    padding = [(step, step) if i == axis else (0, 0) for i in range(image.ndim)]
    padded, size = np.pad(image, padding, mode="edge"), image.shape[axis]
    rows = [padded[(slice(None),) * axis + (slice(i, i + size),)] for i in (0, step, 2 * step)]
    return np.float32(0.25) * (rows[0] + rows[2]) + np.float32(0.5) * rows[1]


def _average(image: Array, step: int, axis: int) -> Array:
    """Average of pixels `step` before, here (twice) and `step` after along an axis."""
    padding = [(0, 0)] * image.ndim
    padding[axis] = (step, step)
    # Sums of slices of flat rows: on CPUs XLA is slow at convolutions of single channels and at loops over three.
    flat = jnp.pad(image, padding, mode="edge").reshape(*image.shape[:axis], -1)
    inner = math.prod(image.shape[axis:][1:])
    size = image.shape[axis] * inner
    starts = (0, step * inner, 2 * step * inner)
    before, here, after = (lax.slice_in_dim(flat, i, i + size, axis=-1) for i in starts)
    return (0.25 * before + 0.5 * here + 0.25 * after).reshape(image.shape)
