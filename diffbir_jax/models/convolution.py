"""Convolutions in the forms that are fast on CPUs; docs/parity.md has the measurements."""

import math
from collections.abc import Callable
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from jax import Array, lax

from diffbir_jax.models.platform import only_shapes, target_platform

# `_tap_products` is faster from this number of channels, measured on two cores.
WIDE = 48
_Convolution = Callable[[Array, Array], Array]


def convolve(x: Array, kernel: Array, stride: int = 1, padding: tuple[int, int] = (1, 1)) -> Array:
    """Convolution in the form that is fastest on `target_platform`; equal up to the order of summation.

    Args:
        x: (B, H, W, C).
        kernel: (size, size, C, features), same dtype as `x`.
        stride: step along both axes.
        padding: zeros (before, after) along both axes.

    Returns:
        (B, h, w, features) in the dtype of `x`.
    """
    plain = partial(_convolve, stride=stride, padding=padding)
    # The special forms work around XLA's CPU code; accelerators have fast kernels.
    if target_platform() != "cpu" or only_shapes():
        return plain(x, kernel)
    fast = partial(_small_convolve, stride=stride, padding=padding)
    return _with_gradients_of(plain, fast, partial(_tap_products, stride=stride, padding=padding))(x, kernel)


def upsample_convolve(x: Array, kernel: Array) -> Array:
    """3x3 convolution of an image whose pixels were repeated along both axes, in four ninths of the products.

    An output pixel sees only 2x2 different pixels; which ones depends on whether its row and column are even. The taps
    that fall on the same pixel are added up first (Shi et al. 2016, "Is the deconvolution layer the same as a
    convolutional layer?"). Used on CPUs, if there are enough pixels to pay for the additions.

    Args:
        x: (B, H, W, C).
        kernel: (3, 3, C, features), same dtype as `x`.

    Returns:
        (B, 2 H, 2 W, features) in the dtype of `x`.
    """
    if target_platform() != "cpu" or only_shapes() or math.prod(x.shape[:3]) < kernel.shape[-1]:
        return convolve(upsample_nearest(x), kernel)

    def plain(x: Array, kernel: Array) -> Array:
        return _convolve(upsample_nearest(x), kernel, 1, (1, 1))

    def gradient(x: Array, kernel: Array, cotangent: Array) -> Array | None:
        return _tap_products(upsample_nearest(x), kernel, cotangent, 1, (1, 1))

    return _with_gradients_of(plain, _phased_convolve, gradient)(x, kernel)


def _phased_convolve(x: Array, kernel: Array) -> Array:
    batch, height, width, _ = x.shape
    # One convolution by four kernels at once, which then interleave to the large image.
    phases = [phase for rows in _phases(kernel, 0) for phase in _phases(rows, 1)]
    y = _small_convolve(x, jnp.concatenate(phases, axis=-1), 1, (1, 1))
    y = y.reshape(batch, height + 1, width + 1, 2, 2, -1)
    rows = [[y[:, i : i + height, j : j + width, i, j] for j in range(2)] for i in range(2)]
    y = jnp.stack([jnp.stack(row, axis=3) for row in rows], axis=2)
    return y.reshape(batch, 2 * height, 2 * width, -1)


def _phases(kernel: Array, axis: int) -> tuple[Array, Array]:
    """Effect of three taps over repeated pixels on the original pixels: at even and at odd positions."""
    before, here, after = jnp.split(kernel, 3, axis)
    return jnp.concatenate([before, here + after], axis), jnp.concatenate([before + here, after], axis)


def _convolve(x: Array, kernel: Array, stride: int, padding: tuple[int, int], below: int = 0) -> Array:
    """XLA's convolution, with `below` additional rows of padding."""
    rows = (padding[0], padding[1] + below)
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), (rows, padding), dimension_numbers=layout)


def _small_convolve(x: Array, kernel: Array, stride: int, padding: tuple[int, int]) -> Array:
    """Compute the same as `_convolve`, fast on CPUs.

    XLA splits a convolution among threads by blocks of columns and of output channels. This leaves cores idle unless
    there are many of both. An additional row, cut off again, makes XLA split by pixels instead. If the kernel has more
    numbers than the image's patches, one product of the two reads the kernel only once.
    """
    size, features = kernel.shape[0], kernel.shape[3]
    height, width = ((side + sum(padding) - size) // stride + 1 for side in x.shape[1:3])
    pixels = x.shape[0] * height * width
    if pixels <= features:
        return _patches(x, size, stride, padding) @ kernel.reshape(-1, features)
    small = pixels <= (2**14 if features <= 32 else 2**12)  # measured on two cores
    below = int(small and stride == 1 and size > 1)
    return _convolve(x, kernel, stride, padding, below)[:, :height]


def _with_gradients_of(
    plain: _Convolution, fast: _Convolution, kernel_gradient: Callable[[Array, Array, Array], Array | None]
) -> _Convolution:
    """Return `fast` with the gradients of the equal function `plain`.

    `kernel_gradient` may give the kernel's gradient faster; if it returns None, that of `plain` is used.
    """
    # Otherwise JAX would differentiate the padding and the slices of `fast`.
    function = jax.custom_vjp(fast)

    def backward(inputs: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
        x, kernel = inputs
        gradient = kernel_gradient(x, kernel, cotangent)
        if gradient is None:
            return jax.vjp(plain, x, kernel)[1](cotangent)
        # The kernel's gradient is known, so only the image's is left.
        return jax.vjp(lambda x: plain(x, kernel), x)[1](cotangent)[0], gradient

    # The inputs are the only residuals: both gradients are linear in one of them.
    function.defvjp(lambda x, kernel: (fast(x, kernel), (x, kernel)), backward)
    return cast(_Convolution, function)


def _tap_products(
    x: Array, kernel: Array, cotangent: Array, stride: int, padding: tuple[int, int]
) -> Array | None:
    """The kernel's gradient as a product per tap; None if XLA's own gradient is faster.

    XLA's gradient is a convolution by a kernel as large as the image. On CPUs, products of (channels, pixels) and
    (pixels, features) take less time for 1x1 kernels, and for other kernels from 48 channels on both sides.
    """
    size, _, channels, features = kernel.shape
    if size > 1 and min(channels, features) < WIDE:
        return None
    height, width = cotangent.shape[1:3]
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    rows = [x[:, i : i + stride * (height - 1) + 1 : stride] for i in range(size)]
    taps = [row[:, :, j : j + stride * (width - 1) + 1 : stride] for row in rows for j in range(size)]
    right = cotangent.reshape(-1, features)
    products = [tap.reshape(-1, channels).T @ right for tap in taps]
    return jnp.stack(products).reshape(kernel.shape)


def _patches(x: Array, size: int, stride: int, padding: tuple[int, int]) -> Array:
    """(B, H, W, C) -> (B, h, w, size^2 C), the kernel's input at each output pixel."""
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    height, width = ((side - size) // stride + 1 for side in x.shape[1:3])
    rows = [x[:, i : i + stride * (height - 1) + 1 : stride] for i in range(size)]
    return jnp.concatenate(
        [row[:, :, j : j + stride * (width - 1) + 1 : stride] for row in rows for j in range(size)], axis=-1
    )


def upsample_nearest(x: Array, factor: int = 2) -> Array:
    """(B, H, W, C) -> (B, factor H, factor W, C), each pixel repeated."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, factor, width, factor, channels))
    return x.reshape(batch, height * factor, width * factor, channels)
