"""Noise of a camera's sensor. It is added in raw, linear light, before the camera's processing.

The model is that of Brooks et al. (2019), "Unprocessing Images for Learned Raw Denoising": a tone curve, a gamma of
2.2, white balance gains, and a variance that is linear in the light. The colour matrix and the treatment of saturated
pixels are left out.
"""

import numpy as np

from diffbir_jax.data.operations import filter2d

GAMMA = 2.2
# Linear interpolation from the four or two nearest samples of a colour; samples stay unchanged.
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
    """Convert a picture back to raw, add noise there, and develop it again.

    Args:
        image: (H, W, 3) float32 RGB in [0, 1].
        rng: the random generator.
        shot: variance per unit of light (raw values are in [0, 1]).
        read: variance in the dark.
        gains: factors from raw to balanced red, green and blue (at least 1; smaller ones clip light).
        mosaic: True: a pixel of the sensor sees one colour (RGGB), and the other two are interpolated linearly. This
            costs resolution and makes the noise coarse. False: all three colours have independent noise.

    Returns:
        (H, W, 3) float32 in [0, 1].
    """
    balance = np.array(gains, np.float32)
    raw = to_linear(image) / balance
    noise = rng.standard_normal((*image.shape[:2], 1 if mosaic else 3), dtype=np.float32)
    # Photon counts are Poisson: their variance is proportional to the light. The read noise is constant.
    raw += noise * np.sqrt(np.float32(shot) * raw + np.float32(read))
    return from_linear((_demosaiced(raw) if mosaic else raw) * balance)


def to_linear(image: np.ndarray) -> np.ndarray:
    """Invert `from_linear`; values are in [0, 1]; those outside, which sharpening leaves, are clipped."""
    # Closed form of the tone curve's inverse, a root of a cubic.
    third = np.float32(1 / 3)
    angle = np.arcsin(1 - 2 * image.clip(0, 1)) * third
    return (np.float32(0.5) - np.sin(angle)).clip(0, 1) ** np.float32(GAMMA)


def from_linear(light: np.ndarray) -> np.ndarray:
    """Clip light to [0, 1], compress by the gamma, and apply the tone curve 3 x^2 - 2 x^3."""
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
