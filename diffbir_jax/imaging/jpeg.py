"""JPEG as a differentiable function (Shin & Song, "JPEG-resistant adversarial images", 2017), for batches on devices.

It converts to YCbCr with chroma at half resolution, applies an 8x8 DCT and quantises. Entropy coding is lossless and
therefore left out. Results differ from a real codec in two ways. The luminance table is transposed, as in the
implementation that trained Real-ESRGAN and DiffBIR. And a real codec upsamples chroma more smoothly.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

# Annex K of ITU-T T.81: rows are vertical frequencies in the standard, horizontal ones here.
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
).T
_CHROMA = np.full((8, 8), 99, np.float32)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# JFIF's conversion of full-range RGB, and back.
_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)
_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], np.float32)
_BLOCK = 8  # samples
_MCU = 2 * _BLOCK  # side of the square that one block of chroma covers (pixels)
_einsum = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)  # coefficients are rounded: no bfloat16


def diff_jpeg(images: jax.Array, quality: jax.Array | float, differentiable: bool = True) -> jax.Array:
    """Compress and decompress images at 4:2:0.

    Args:
        images: (B, H, W, 3) float32 RGB in [0, 1].
        quality: 1 (worst) to 100, one for all images or (B,) for each. It is traced, so new values do not recompile.
        differentiable: True rounds by round(x) + (x - round(x))^3, which has a gradient (Shin & Song). False rounds to
            the nearest integer, which has none.

    Returns:
        (B, H, W, 3) float32 in [0, 1].
    """
    _, height, width, _ = images.shape
    padding = [(0, 0), (0, -height % _MCU), (0, -width % _MCU), (0, 0)]
    ycc = _einsum("...c,dc->...d", jnp.pad(255 * images, padding), _TO_YCC)  # chroma around 0
    factor = jnp.broadcast_to(quality_factor(quality), images.shape[:1])
    luma = _quantise(ycc[..., 0] - 128, _LUMA, factor, differentiable) + 128
    chroma = (_quantise(_halve(ycc[..., i]), _CHROMA, factor, differentiable) for i in (1, 2))
    ycc = jnp.stack([luma, *map(_double, chroma)], axis=-1)[:, :height, :width]
    return jnp.clip(_einsum("...c,dc->...d", ycc, _TO_RGB), 0, 255) / 255


def quality_factor(quality: jax.Array | float) -> jax.Array:
    """Return the factor on the quantisation tables at `quality` (1 to 100), as in the Independent JPEG Group's code."""
    quality = jnp.asarray(quality, jnp.float32)
    return jnp.where(quality < 50, 50 / quality, 2 - quality / 50)


def _quantise(plane: jax.Array, table: np.ndarray, factor: jax.Array, differentiable: bool) -> jax.Array:
    """Round the DCT coefficients of (B, H, W) samples around 0 to multiples of `table` times `factor` (B,)."""
    batch, height, width = plane.shape
    blocks = plane.reshape(batch, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    steps = _einsum("b,uv->buv", factor, table)[:, None, :, None]
    cosines = _cosines()
    levels = _einsum("ux,bixjy,vy->biujv", cosines, blocks, cosines) / steps
    kept = _round(levels, differentiable) * steps
    return _einsum("ux,biujv,vy->bixjy", cosines, kept, cosines).reshape(plane.shape)


def _cosines() -> np.ndarray:
    """The orthonormal DCT-II of 8 samples, (frequency, sample)."""
    frequency, sample = np.mgrid[:_BLOCK, :_BLOCK]
    basis = np.cos((2 * sample + 1) * frequency * np.pi / (2 * _BLOCK)) / 2
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)


def _round(x: jax.Array, differentiable: bool) -> jax.Array:
    nearest = jnp.round(x)
    return nearest + (x - nearest) ** 3 if differentiable else nearest


def _halve(plane: jax.Array) -> jax.Array:
    """Means of 2x2 samples."""
    batch, height, width = plane.shape
    return plane.reshape(batch, height // 2, 2, width // 2, 2).mean(axis=(2, 4))


def _double(plane: jax.Array) -> jax.Array:
    return plane.repeat(2, axis=1).repeat(2, axis=2)
