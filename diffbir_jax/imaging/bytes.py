"""Images as bytes, as files hold them: to arrays and back, enlarged as Pillow does it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from diffbir_jax.imaging.resize import resize


def enlarge(image: np.ndarray, upscale: float) -> np.ndarray:
    """Resize (H, W, 3) uint8 by `upscale` with Pillow's bicubic filter, sides rounded.

    Raises:
        ValueError: another shape or dtype, or `upscale` is not positive or leaves no pixel.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} of shape {image.shape}; give (H, W, 3) uint8 RGB")
    size = (round(image.shape[0] * upscale), round(image.shape[1] * upscale))
    if upscale <= 0 or min(size) < 1:
        raise ValueError(
            f"upscale is {upscale} for an image of {image.shape[1]}x{image.shape[0]}; give a larger factor"
        )
    return resize_bytes(image, size)


def resize_bytes(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (h, w, 3) uint8 to `size` = (H, W) by Pillow's bicubic filter."""
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def to_float(image: np.ndarray) -> jax.Array:
    """Return (1, H, W, C) float32 in [0, 1] of (H, W, C) uint8."""
    return jnp.asarray(image[None], jnp.float32) / 255.0


@functools.partial(jax.jit, static_argnames="size")
def to_bytes(image: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Return (B, *size, C) uint8, rounded, of (B, H, W, C) in about [0, 1], resized unless it has the size."""
    height, width = size
    return jnp.rint(255.0 * jnp.clip(resize(image, (height, width)), 0.0, 1.0)).astype(jnp.uint8)
