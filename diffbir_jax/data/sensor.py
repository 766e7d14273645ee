"""Noise of a camera's sensor, added where it arises: in raw, linear light, before what the camera does to a picture.

The model is that of Brooks et al. (2019), "Unprocessing Images for Learned Raw Denoising", without its colour matrix
and its care for saturated pixels: a curve of tones, a gamma of 2.2, gains, and a variance that is linear in the light.
"""

import numpy as np

from diffbir_jax.data.operations import filter2d

GAMMA = 2.2
# Interpolation from the four or two nearest samples of a colour; a sample itself is kept.
_GREEN = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]], np.float32) / 4
_RED_BLUE = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 4


def sensor_noise(
    image: np.ndarray,
    rng: np.random.Generator,
    shot: float,
    read: float,
    gains: tuple[float, float, float],
    mosaic: bool = True,
) -> np.ndarray:
    """Take a picture back to raw, add noise there, and develop it again.

    Args:
        image: (H, W, 3) float32 RGB in [0, 1].
        rng: what the noise is drawn from.
        shot: variance per unit of light (raw values are in [0, 1]).
        read: variance in the dark.
        gains: factors from raw to balanced red, green and blue (at least 1, or light clips).
        mosaic: whether a pixel of the sensor sees one colour (RGGB), and the others are interpolated linearly: costs
            resolution, and makes the noise coarse. Otherwise all three have noise of their own.

    Returns:
        (H, W, 3) float32 in [0, 1].
    """
    balance = np.array(gains, np.float32)
    raw = to_linear(image) / balance
    noise = rng.standard_normal((*image.shape[:2], 1 if mosaic else 3), dtype=np.float32)
    raw += noise * np.sqrt(np.float32(shot) * raw + np.float32(read))
    return from_linear((_demosaiced(raw) if mosaic else raw) * balance)


def to_linear(image: np.ndarray) -> np.ndarray:
    """Invert `from_linear`; values are in [0, 1]."""
    third = np.float32(1 / 3)
    return (np.float32(0.5) - np.sin(np.arcsin(1 - 2 * image) * third)).clip(0, 1) ** np.float32(GAMMA)


def from_linear(light: np.ndarray) -> np.ndarray:
    """Clip light to [0, 1], compress by the gamma, and apply the curve of tones 3 x^2 - 2 x^3."""
    x = light.clip(0, 1) ** np.float32(1 / GAMMA)
    return x * x * (3 - 2 * x)


def _demosaiced(raw: np.ndarray) -> np.ndarray:
    """Keep one colour per pixel, RGGB, and interpolate. Mirroring at the border keeps the pattern."""
    seen = np.zeros_like(raw)
    seen[::2, ::2, 0] = raw[::2, ::2, 0]
    seen[::2, 1::2, 1] = raw[::2, 1::2, 1]
    seen[1::2, ::2, 1] = raw[1::2, ::2, 1]
    seen[1::2, 1::2, 2] = raw[1::2, 1::2, 2]
    kernels = (_RED_BLUE, _GREEN, _RED_BLUE)
    return np.dstack([filter2d(channel, kernel) for channel, kernel in zip(np.moveaxis(seen, 2, 0), kernels)])
