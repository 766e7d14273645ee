"""Conversion of images between 8 bits, 16 bits and floats, and Pillow's bicubic resizing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike
from PIL import Image

from diffbir_jax.console.errors import UserError
from diffbir_jax.imaging.resize import resize

DEPTHS = (np.uint8, np.uint16)
DTYPES = (*DEPTHS, np.float32)
# Rows converted at a time, so that a large image does not also need a float32 copy.
ROWS = 256


def enlarge(image: np.ndarray, upscale: float) -> np.ndarray:
    """Resize (H, W, 3) uint8, uint16 or float32 by `upscale` with Pillow's bicubic filter, sides rounded.

    Raises:
        ValueError: another shape or dtype, or `upscale` is not positive or leaves no pixel.
    """
    if image.dtype not in DTYPES or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            f"image is {image.dtype} of shape {image.shape}; give (H, W, 3) uint8 RGB, uint16 or float32"
        )
    size = (round(image.shape[0] * upscale), round(image.shape[1] * upscale))
    if upscale <= 0 or min(size) < 1:
        raise UserError(
            f"upscale is {upscale} for an image of {image.shape[1]}x{image.shape[0]}; give a larger factor"
        )
    return resize_bytes(image, size)


def resize_bytes(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (h, w, 3) uint8, uint16 or float32 to `size` = (H, W) by Pillow's bicubic filter."""
    if image.shape[:2] == tuple(size):
        return image
    if image.dtype == np.uint8:
        return _bicubic(image, size)
    # Pillow resizes images of more than 8 bits only as single float channels.
    return np.stack([resize_alpha(image[..., channel], size) for channel in range(image.shape[2])], axis=2)


def resize_alpha(alpha: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize one channel (h, w) to `size` = (H, W) by Pillow's bicubic filter; uint8 and uint16 are clipped."""
    if alpha.shape == tuple(size):
        return alpha
    if alpha.dtype == np.uint8:
        return _bicubic(alpha, size)
    resized = _bicubic(alpha.astype(np.float32), size)
    if alpha.dtype == np.float32:
        return resized
    return np.rint(resized.clip(0, np.iinfo(alpha.dtype).max)).astype(alpha.dtype)


def to_float(image: np.ndarray) -> jax.Array:
    """Convert (H, W, C) uint8 or uint16 to (1, H, W, C) float32 in [0, 1]."""
    return jnp.asarray(image[None], jnp.float32) / float(np.iinfo(image.dtype).max)


@functools.partial(jax.jit, static_argnames="size")
def to_bytes(image: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Convert (B, H, W, C) in about [0, 1] to (B, *size, C) uint8, rounded; resized first if the size differs."""
    height, width = size
    return jnp.rint(255.0 * jnp.clip(resize(image, (height, width)), 0.0, 1.0)).astype(jnp.uint8)


def to_depth(image: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Convert a float image to 8 or 16 bits, rounded, or to float32; computed on the host.

    Args:
        image: (H, W, C), floating point in about [0, 1]; for 8 and 16 bits, values outside are clipped.
        dtype: uint8, uint16 or float32.

    Raises:
        ValueError: another dtype.
    """
    if np.dtype(dtype) not in DTYPES:
        raise ValueError(f"dtype is {np.dtype(dtype)}; use uint8, uint16 or float32")
    if np.dtype(dtype) == np.float32:
        return np.asarray(image, np.float32)
    image = np.asarray(image)
    out = np.empty(image.shape, dtype)
    for top in range(0, len(image), ROWS):
        # 65535 levels need 16 bits; float32 is exact to 24.
        scaled = image[top : top + ROWS].astype(np.float32).clip(0, 1)
        scaled *= np.float32(np.iinfo(dtype).max)
        out[top : top + ROWS] = np.rint(scaled, out=scaled)
    return out


def _bicubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))
