"""First-order degradation: blur, downsample, noise, JPEG, with one random generator per image.

LQ = JPEG_q((HQ * k_sigma) downsampled by r + n_delta): the model of CodeFormer (Zhou et al., 2022), which DiffBIR
trains with.
"""

from dataclasses import dataclass

import cv2
import numpy as np

DOWNSAMPLERS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


@dataclass(frozen=True)
class FirstOrderConfig:
    """Ranges that every image draws its parameters from, uniformly.

    Attributes:
        blur_sigma: standard deviation of the Gaussian blur along each axis (HQ pixels).
        isotropic_probability: share of blurs whose two axes are equal.
        downscale: factor between HQ and LQ sides.
        noise_delta: standard deviation of the Gaussian noise, in 8-bit levels (0..255).
        jpeg_quality: quality of the JPEG codec (1..100).
    """

    blur_sigma: tuple[float, float] = (0.2, 2.0)
    isotropic_probability: float = 0.5
    downscale: tuple[float, float] = (4.0, 4.0)
    noise_delta: tuple[float, float] = (0.0, 15.0)
    jpeg_quality: tuple[int, int] = (40, 95)


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, theta: float = 0.0) -> np.ndarray:
    """Return a rotated bivariate Gaussian blur kernel.

    Args:
        size: side of the kernel (pixels, odd).
        sigma_x: standard deviation along the first principal axis (pixels).
        sigma_y: standard deviation along the second (pixels).
        theta: rotation of the axes (radians).

    Returns:
        (size, size) float64 that sums to 1.
    """
    axis = np.arange(size) - (size - 1) / 2
    x, y = np.meshgrid(axis, axis)
    c, s = np.cos(theta), np.sin(theta)
    covariance = np.array([[c, -s], [s, c]]) @ np.diag([sigma_x**2, sigma_y**2]) @ np.array([[c, s], [-s, c]])
    points = np.stack([x, y], axis=-1)
    kernel = np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", points, np.linalg.inv(covariance), points))
    return kernel / kernel.sum()


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Encode and decode (H, W, 3) uint8 RGB with the JPEG codec at `quality` (1..100)."""
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Round an image in [0, 255] of any float dtype to uint8."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def degrade(hq: np.ndarray, rng: np.random.Generator, config: FirstOrderConfig) -> np.ndarray:
    """Degrade `hq` with parameters drawn from `rng`.

    Args:
        hq: (H, W, 3) uint8 RGB.
        rng: the image's own generator: the result depends on nothing else.
        config: ranges of the parameters.

    Returns:
        (H / r, W / r, 3) uint8 RGB, r being the drawn downscale factor, sides rounded.
    """
    image = _blur(hq.astype(np.float32), rng, config)
    factor = rng.uniform(*config.downscale)
    size = (max(1, round(hq.shape[1] / factor)), max(1, round(hq.shape[0] / factor)))
    image = cv2.resize(image, size, interpolation=int(rng.choice(DOWNSAMPLERS)))
    image = image + rng.uniform(*config.noise_delta) * rng.standard_normal(image.shape, dtype=np.float32)
    return jpeg(to_uint8(image), int(rng.integers(config.jpeg_quality[0], config.jpeg_quality[1] + 1)))


def _blur(image: np.ndarray, rng: np.random.Generator, config: FirstOrderConfig) -> np.ndarray:
    sigma_x, sigma_y = rng.uniform(*config.blur_sigma, size=2)
    if rng.random() < config.isotropic_probability:
        sigma_y = sigma_x
    size = 2 * int(np.ceil(3 * max(sigma_x, sigma_y))) + 1
    kernel = gaussian_kernel(size, sigma_x, sigma_y, rng.uniform(-np.pi, np.pi))
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
